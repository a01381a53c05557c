"""qbiff: tell the user on the terminal that a message has come (qbiff(1)). Never a reason to defer mail: always 0."""

import os
import stat

from pyqmail.formats.header import Header
from pyqmail.formats.printable import printable
from pyqmail.system.files import write_all

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

TEXT_MAX = 78  # bytes of the message that are shown, four blanks in front included
_BLANKS = b" \t\r\n"


def extract(lines: "Iterable[bytes]") -> bytes:
    """The subject and the start of the body. Raises OSError."""
    header = Header()
    body = b""
    in_header = True
    for line in lines:
        if in_header:
            in_header = header.add(line)
            body = header.rest
        elif len(body) < TEXT_MAX:
            body += line
        else:
            break
    header.end()
    subjects = [text.partition(b":")[2].lstrip(_BLANKS) for name, text in header.fields if name == b"subject"]
    return (b"    " + b"".join(subjects) + body)[:TEXT_MAX]


def announcement(local: bytes, sender: bytes, text: bytes) -> bytes:
    """What the terminal gets: a bell, whom the message is for, and a line of it."""
    heading = printable(b"*** TO <" + local + b"> FROM <" + sender + b">", b"_")
    return b"\r\n\a" + heading + b"\r\n" + printable(text, b"/") + b"\r\n"


def announce(line: bytes, text: bytes) -> None:
    """Write ``text`` to terminal ``line`` if it is ours and its owner has allowed it (``biff y`` sets the x bit).

    Never waits for a terminal that is stopped, and never makes it our controlling one.
    """
    if not line or line.startswith(b"/") or b"." in line:
        return
    try:
        fd = os.open(b"/dev/" + line, os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return
    try:
        status = os.fstat(fd)
        if status.st_mode & stat.S_IXUSR and status.st_uid == os.getuid():
            write_all(fd, text)
    except OSError:
        return
    finally:
        os.close(fd)


def main(argv: "Sequence[bytes]", environ: "Mapping[bytes, bytes]") -> int:
    """Announce descriptor 0 on the terminals of USER."""
    try:
        user, sender, local = environ[b"USER"], environ[b"SENDER"], environ[b"LOCAL"]
        with open(0, "rb", closefd=False) as message:
            text = announcement(local, sender, extract(message))
        from pyqmail.system.utmp import terminals

        for line in terminals(user):
            announce(line, text)
    except (KeyError, OSError, ImportError):
        return 0
    return 0
