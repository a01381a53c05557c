"""newaliases: make a forwarding database from sendmail's alias file (newaliases(1))."""

from pyqmail.control import ControlUnreadable
from pyqmail.formats.aliases import ListError, parse_aliases
from pyqmail.formats.cdb import replace_cdb, write_cdb
from pyqmail.intake.resend import complain
from pyqmail.local.completion import completion
from pyqmail.system.files import read_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ALIASES = "/etc/aliases"


def main(argv: "Sequence[bytes]", environ: "Mapping[bytes, bytes]") -> int:
    """Convert /etc/aliases, or the file ``argv[1]``, to the same name with .cdb: 0 or 111. Options are ignored."""
    names = [name for name in argv[1:] if not name.startswith(b"-")]
    path = names[0].decode("utf-8", "surrogateescape") if names else ALIASES
    try:
        convert(path, environ)
    except ListError as error:
        complain(b"newaliases: fatal: " + error.text)
        complain(b"newaliases: info: that is line %d of " % error.line + path.encode("utf-8", "surrogateescape"))
        return 111
    except ControlUnreadable as error:
        complain(b"newaliases: fatal: unable to read controls: " + str(error).encode())
        return 111
    except OSError as error:
        where = error.filename or path
        complain(f"newaliases: fatal: unable to convert {where}: {error.strerror}".encode("utf-8", "surrogateescape"))
        return 111
    return 0


def convert(path: str, environ: "Mapping[bytes, bytes]") -> None:
    """Make ``path``.cdb by way of ``path``.tmp; on any trouble it stays as it was.

    Raises ListError, ControlUnreadable and OSError.
    """
    import os

    records = parse_aliases(read_file(path), completion(environ))
    write_cdb(path + ".tmp", records)
    os.chmod(path + ".tmp", 0o644)  # everybody's, whatever the umask
    replace_cdb(path + ".tmp", path + ".cdb")
