"""The lines that a delivery puts in front of a message, and what reading back a message needs (qmail-command(8)).

UFLINE is the mbox separator, RPLINE the Return-Path, DTLINE the Delivered-To. Pure and light.
"""

import time
from collections.abc import Iterable, Iterator

from pyqmail.address import quote
from pyqmail.formats.date822 import MONTHS

_DAYS = (b"Mon", b"Tue", b"Wed", b"Thu", b"Fri", b"Sat", b"Sun")
_SEPARATOR_BYTES = bytes.maketrans(b" \t\n", b"---")


def format_return_path(sender: bytes) -> bytes:
    """RPLINE: the quoted sender; newlines become ``_`` so that no header can be forged."""
    return b"Return-Path: <" + quote(sender).replace(b"\n", b"_") + b">\n"


def format_delivered_to(recipient: bytes) -> bytes:
    """DTLINE: the recipient unquoted; newlines become ``_``."""
    return b"Delivered-To: " + recipient.replace(b"\n", b"_") + b"\n"


def format_from_line(sender: bytes, seconds: int) -> bytes:
    """UFLINE: sender and UTC date. The day has two digits, unlike asctime's."""
    who = sender.translate(_SEPARATOR_BYTES) if sender else b"MAILER-DAEMON"
    return b"From " + who + b" " + format_mbox_date(seconds)


def format_mbox_date(seconds: int) -> bytes:
    """The UTC date at the end of a From_ line, newline included: ``Thu Jan 01 00:00:05 1970``."""
    year, month, day, hour, minute, second, weekday = time.gmtime(seconds)[:7]
    clock = b"%02d %02d:%02d:%02d %04d" % (day, hour, minute, second, year)
    return b"%s %s %s\n" % (_DAYS[weekday], MONTHS[month - 1], clock)


def header_has_line(chunks: Iterable[bytes], line: bytes) -> bool:
    """Whether the header in ``chunks`` has exactly ``line``, newline included; chunk boundaries do not matter.

    The header ends at the first empty line. A last line without newline is not compared.
    """
    wanted = b"\n" + line
    window = b"\n"  # as if a line had ended before the message
    for chunk in chunks:
        window += chunk
        end = window.find(b"\n\n")
        if end >= 0:
            return wanted in window[: end + 1]
        if wanted in window:
            return True
        window = window[-len(line) :]  # a match may have begun here
    return False


def quote_from_lines(block: bytes) -> bytes:
    """``block``, whole lines, with one more ``>`` before each line that matches ``^>*From ``."""
    if b"From " not in block:
        return block
    lines = block.split(b"\n")
    return b"\n".join(b">" + line if line.lstrip(b">").startswith(b"From ") else line for line in lines)


def mbox_body(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The message as an mbox holds it: From lines quoted, the last line ended, one empty line after it."""
    tail: list[bytes] = []  # a line that has not ended yet
    for chunk in chunks:
        whole, newline, rest = chunk.rpartition(b"\n")
        if newline:
            tail.append(whole + newline)
            yield quote_from_lines(b"".join(tail))
            tail = []
        if rest:
            tail.append(rest)
    if tail:
        yield quote_from_lines(b"".join(tail)) + b"\n"
    yield b"\n"
