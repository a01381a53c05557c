""".qmail files as values: the names to try for an address, and what each line asks for (dot-qmail(5)).

Pure: no file is opened here, and light, since qmail-local may start cold once per delivery.
"""

from collections.abc import Iterator

# What a line asks for. The first four are also what ``qmail-local -n`` prints.
MAILDIR = b"maildir"
MBOX = b"mbox"
PROGRAM = b"program"
FORWARD = b"forward"
FORWARD_ONLY = b"+list"  # from here on neither files nor programs
BLANK_START = b"blank"  # an empty first line defers all mail: its owner is editing, or wrote nonsense

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

    Trailing blanks and tabs do not count, leading ones do. An argument may hold a NUL: it is shown whole, and acted on
    up to that NUL, as the original does. Data without any byte is one blank line. One line is held at a time: the file
    is its owner's, and may be of any size.
    """
    start = 0
    while start < len(data) or start == 0:
        end = data.find(b"\n", start)
        if end < 0:
            end = len(data)
        line = data[start:end].rstrip(b" \t")
        if line and not line.startswith(b"\0"):
            yield from _parse_line(line)
        elif start == 0:
            yield BLANK_START, b""
        start = end + 1


def _parse_line(line: bytes) -> tuple[Line, ...]:
    first = line[:1]
    if first == b"#":
        return ()
    if first in (b".", b"/"):
        return ((MAILDIR if line.endswith(b"/") else MBOX, line),)
    if first == b"|":
        return ((PROGRAM, line[1:]),)
    if first == b"+":
        return ((FORWARD_ONLY, b""),) if line.partition(b"\0")[0] == b"+list" else ()
    if first == b"&":
        return ((FORWARD, line[1:]),)
    return ((FORWARD, line),)
