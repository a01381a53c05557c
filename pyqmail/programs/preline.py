"""preline: give a .qmail program the lines that a mailbox would have (preline(1))."""

import os

from pyqmail.spool.resend import complain
from pyqmail.system import command
from pyqmail.system.files import write_all

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

LINES = ((b"f", b"UFLINE"), (b"r", b"RPLINE"), (b"d", b"DTLINE"))
USAGE = b"preline: usage: preline cmd [ arg ... ]"
CHUNK = 65536


def main(argv: "Sequence[bytes]", environ: "Mapping[bytes, bytes]") -> int:
    """Feed the From_, Return-Path and Delivered-To lines, then descriptor 0, to the program; its exit code."""
    parsed = parse_options(argv[1:])
    if parsed is None or any(name not in environ for _letter, name in LINES):
        complain(USAGE)
        return 100
    left_out, program = parsed
    head = b"".join(environ[name] for letter, name in LINES if letter not in left_out)
    try:
        source, sink = os.pipe2(os.O_CLOEXEC)
        process = command.start(program, environ, source)
    except OSError as error:
        complain(b"preline: fatal: unable to run " + program[0] + b": " + (error.strerror or "").encode())
        return command.exec_failure(error)
    os.close(source)
    try:
        feed(sink, head)
    except BrokenPipeError:
        pass  # it has read what it wanted: its exit code counts
    except OSError as error:
        complain(b"preline: fatal: unable to copy input: " + (error.strerror or "").encode())
        return 111
    os.close(sink)
    return command.finish(process)


def feed(sink: int, head: bytes) -> None:
    """Write ``head`` and descriptor 0 to ``sink``. Raises OSError."""
    write_all(sink, head)
    while chunk := os.read(0, CHUNK):
        write_all(sink, chunk)


def parse_options(words: "Sequence[bytes]") -> "tuple[set[bytes], list[bytes]] | None":
    """The letters of the lines to leave out, and the program; capital letters put a line back. None: wrong usage."""
    left_out: set[bytes] = set()
    rest = list(words)
    while rest and rest[0].startswith(b"-") and rest[0] != b"-":
        option = rest.pop(0)
        if option == b"--":
            break
        for letter in (option[i : i + 1] for i in range(1, len(option))):
            if letter in (b"f", b"r", b"d"):
                left_out.add(letter)
            elif letter in (b"F", b"R", b"D"):
                left_out.discard(letter.lower())
            else:
                return None
    return (left_out, rest) if rest else None
