"""The lists that an alias file includes, binary or as text (fastforward(1), newinclude(1)). Light.

An alias file names ``LIST.bin``, which newinclude makes from ``LIST``. Where LIST is newer, or alone, it counts itself.
"""

import os

from pyqmail.intake.resend import Fatal, complain
from pyqmail.system import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

WORLD_READABLE = 0o004
BINARY = b".bin"


def read_list(path: bytes, environ: "Mapping[bytes, bytes]") -> bytes:
    """The binary list at ``path``, or one made here from its text where that is newer, or the only one.

    Everybody must be allowed to read it: otherwise its owner could be fooled. Raises Fatal.
    """
    made = _open(path)
    if path.endswith(BINARY):
        source = path.removesuffix(BINARY)
        text = _open(source)
        if not isinstance(text, Fatal) and (isinstance(made, Fatal) or text[1] > made[1]):
            converted = _convert(source, text[0], environ)
            if not isinstance(converted, Fatal):
                return converted
            if isinstance(made, Fatal):
                raise converted
            complain(b"fastforward: warning: " + converted.text + b": the older " + path + b" is used")
    if isinstance(made, Fatal):
        raise made
    data = made[0]
    if data and b"\0" not in data and not path.endswith(BINARY):  # what a list in text form includes
        converted = _convert(path, data, environ)
        if isinstance(converted, Fatal):
            raise converted
        return converted
    return data


def _open(path: bytes) -> "tuple[bytes, int] | Fatal":
    """What a list file holds, and its time in nanoseconds; or why it cannot be read."""
    try:
        fd = files.open_read(path)
        try:
            status = os.fstat(fd)
            files.refuse_fifo(status)
            if not status.st_mode & WORLD_READABLE:
                return Fatal(111, path + b" is not world-readable")
            return files.read_all(fd, files.LIST_MAX), status.st_mtime_ns
        finally:
            os.close(fd)
    except OSError as error:
        return Fatal(111, b"unable to read " + path + b": " + (error.strerror or "").encode())


def _convert(path: bytes, text: bytes, environ: "Mapping[bytes, bytes]") -> "bytes | Fatal":
    """The binary list of ``text``, or why it is none."""
    from pyqmail.control import ControlUnreadable  # most lists are binary
    from pyqmail.formats.aliases import ListError, parse_include
    from pyqmail.local.completion import completion

    try:
        return parse_include(text, completion(environ))
    except ListError as error:
        return Fatal(111, b"%b: line %d: %b" % (path, error.line, error.text))
    except ControlUnreadable as error:
        return Fatal(111, b"unable to read controls: " + str(error).encode())
