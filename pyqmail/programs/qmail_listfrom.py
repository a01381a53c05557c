"""qmail-listfrom: give a list's program the message with a From that receivers under DMARC take (qmail-listfrom(8)).

In the .qmail file of a list: ``| qmail-listfrom LIST@HOST ezmlm-send DIR``.
"""

import os
from collections.abc import Mapping, Sequence

from pyqmail.control import ControlUnreadable, home_of
from pyqmail.intake.feeding import feed
from pyqmail.intake.resend import complain
from pyqmail.mailauth.canonical import HEADER_MAX
from pyqmail.mailauth.list_author import list_header
from pyqmail.mailauth.lookups import CachedLookups, TemporaryFailure, look_up_within
from pyqmail.options import UsageError, parse_options

USAGE = b"qmail-listfrom: usage: qmail-listfrom [ -n name ] list@host program [ arg ... ]"
LOOK_UPS_S = 20.0  # for the walk of DMARC
CHUNK = 65536


def main(argv: Sequence[bytes], environ: Mapping[bytes, bytes]) -> int:
    """Feed the message on descriptor 0 to the program; its exit code."""
    try:
        options, words = parse_options(argv[1:], b"n:")
    except UsageError as error:
        complain(b"qmail-listfrom: " + error.text)
        options, words = [], []
    if len(words) < 2 or b"@" not in words[0]:
        complain(USAGE)
        return 100
    address, program = words[0], words[1:]
    name = options[-1][1] if options else address.rpartition(b"@")[0]
    try:
        head, rest = split_head(read_head())
        lookups = CachedLookups(look_up_within(home_of(environ), LOOK_UPS_S))
        head = list_header(head, address, name or b"", lookups)
    except (ControlUnreadable, OSError) as error:
        complain(b"qmail-listfrom: fatal: " + os.fsencode(str(error)))
        return 111
    except TemporaryFailure:
        complain(b"qmail-listfrom: fatal: nobody says what the author's domain asks for")
        return 111
    return feed(b"qmail-listfrom", program, environ, head + rest, delivers=True)


def read_head() -> bytes:
    """What comes on descriptor 0, the whole header at least, or more than a header may have. Raises OSError."""
    data = b""
    while len(data) <= HEADER_MAX and b"\n\n" not in data and not data.startswith(b"\n"):
        piece = os.read(0, CHUNK)
        if not piece:
            break
        data += piece
    return data


def split_head(data: bytes) -> tuple[bytes, bytes]:
    """The header, and what follows it from the empty line on; one that is too long is no header."""
    if data.startswith(b"\n"):
        return b"", data
    end = data.find(b"\n\n")
    if end < 0:
        return (b"", data) if len(data) > HEADER_MAX else (data, b"")
    return data[: end + 1], data[end + 1 :]
