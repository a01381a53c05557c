""".qmail files as values: the names to try for an address, and what each line asks for (dot-qmail(5)).

Pure: no file is opened here, and light, since qmail-local may start cold once per delivery.
"""

from collections.abc import Iterator

from pyqmail.formats.address_list import parse_addresses
from pyqmail.formats.plain_text import plain_text, unquoted, without_comment

# What a line asks for. The first five are also what ``qmail-local -n`` prints.
MAILDIR = b"maildir"
MBOX = b"mbox"
PROGRAM = b"program"
FORWARD = b"forward"
DISCARD = b"discard"  # /dev/null: said to have been thrown away, since nobody could read it there
UNREADABLE = b"unreadable"  # says what cannot be done; the argument is the line
FORWARD_ONLY = b"+list"  # from here on neither files nor programs
BLANK_START = b"blank"  # an empty first line defers all mail: its owner is editing, or wrote nonsense

NULL_DEVICE = b"/dev/null"
_LIST_BYTES = frozenset(b'<>(),;:"\\ \t#')  # an address without any of these stands for itself

Line = tuple[bytes, bytes]  # what it asks for, and its argument


def safe_extension(extension: bytes) -> bytes:
    """``extension`` as it stands in a file name: ASCII lower case, ``.`` turned into ``:``, ``/`` left alone."""
    return extension.lower().replace(b".", b":")


def candidates(dash: bytes, extension: bytes) -> Iterator[tuple[bytes, bytes | None]]:
    """File names in the order to try them, each with the DEFAULT it would set (None: leave it alone).

    ``default`` stands for what follows a ``-`` of the extension, or for all of it: never for the part after a
    word without its dash, so ``.qmail-a-default`` is not tried for ``a``.
    """
    safe = safe_extension(extension)
    yield b".qmail" + dash + safe, extension[-7:] if safe.endswith(b"default") else None
    for end in range(len(safe), -1, -1):
        if end == 0 or safe[end - 1 : end] == b"-":
            yield b".qmail" + dash + safe[:end] + b"default", extension[end:]


def owner_names(dash: bytes, extension: bytes) -> tuple[bytes, bytes]:
    """The files whose existence redirects bounces of forwards: ``-owner``, and ``-owner-default`` for VERP."""
    owner = b".qmail" + dash + safe_extension(extension) + b"-owner"
    return owner, owner + b"-default"


def parse_lines(data: bytes) -> Iterator[Line]:
    """What the lines of ``data`` ask for, in order; comments and blank lines are left out, except a blank first one.

    Blanks and tabs around a line do not count, nor do CR before its end and a byte order mark. An argument may hold a
    NUL: it is shown whole, and acted on up to that NUL, as the original does. Data without any byte is one blank line.
    One line is held at a time: the file is its owner's, and may be of any size.
    """
    data = plain_text(data)
    start = 0
    while start < len(data) or start == 0:
        end = data.find(b"\n", start)
        if end < 0:
            end = len(data)
        line = data[start:end].strip(b" \t")
        if line and not line.startswith(b"\0"):
            yield from _parse_line(line)
        elif start == 0:
            yield BLANK_START, b""
        start = end + 1


def names_sender(data: bytes) -> bool:
    """Whether a line of ``data`` passes the sender on: it runs a program, or forwards."""
    return any(kind in (PROGRAM, FORWARD) for kind, _ in parse_lines(data))


def _parse_line(line: bytes) -> tuple[Line, ...]:
    first = line[:1]
    if first == b"#":
        return ()
    if first in (b".", b"/") or line.startswith(b"~/"):
        return (_parse_file(line),)
    if first == b"|":
        return ((PROGRAM, line[1:]),)
    if first == b"+":
        return ((FORWARD_ONLY, b""),) if line.partition(b"\0")[0] == b"+list" else ()
    if first == b'"':  # as in sendmail's files
        content = unquoted(without_comment(line)) or b""
        if content.startswith((b"|", b"/", b"~/")):
            return _parse_line(content)
    return _parse_addresses(line)


def _parse_file(line: bytes) -> Line:
    """A path: ``~/`` is the home, and what follows a ``#`` between blanks is a comment."""
    path = line
    for mark in (b" # ", b"\t# ", b" #\t", b"\t#\t"):
        path = path.partition(mark)[0]
    path = path.rstrip(b" \t")
    if path.endswith((b" #", b"\t#")):
        path = path[:-1].rstrip(b" \t")
    if path.startswith(b"~/"):
        path = b"." + path[1:]
    if path == NULL_DEVICE:
        return DISCARD, path
    return MAILDIR if path.endswith(b"/") else MBOX, path


def _parse_addresses(line: bytes) -> tuple[Line, ...]:
    """An address, or a list of them, or a line that is none of both: it would bounce, or go to nobody."""
    text = line[1:] if line.startswith(b"&") else line
    if text and _LIST_BYTES.isdisjoint(text):
        return ((FORWARD, text),)
    if text.startswith(b":"):
        return ((UNREADABLE, line),)  # :include: and its like
    found = parse_addresses(without_comment(text))
    return tuple((FORWARD, address) for address in found) or ((UNREADABLE, line),)
