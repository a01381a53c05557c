"""newaliases: make a forwarding database from sendmail's alias file (newaliases(1))."""

from pyqmail.control import ControlUnreadable, home_of
from pyqmail.formats.aliases import NULL_DEVICE, parse_aliases
from pyqmail.formats.cdb import replace_cdb, write_cdb
from pyqmail.intake.resend import complain
from pyqmail.local.completion import completion
from pyqmail.system.files import read_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pyqmail.formats.forwarding import Record

ALIASES = "/etc/aliases"


def main(argv: "Sequence[bytes]", environ: "Mapping[bytes, bytes]") -> int:
    """Convert /etc/aliases, or the file ``argv[1]``, to the same name with .cdb. Options are ignored.

    0; 111 for any trouble, also where some aliases cannot be made and the others are.
    """
    names = [name for name in argv[1:] if not name.startswith(b"-")]
    path = names[0].decode("utf-8", "surrogateescape") if names else ALIASES
    try:
        return 0 if convert(path, environ) else 111
    except ControlUnreadable as error:
        complain(b"newaliases: fatal: unable to read controls: " + str(error).encode())
        return 111
    except OSError as error:
        where = error.filename or path
        complain(f"newaliases: fatal: unable to convert {where}: {error.strerror}".encode("utf-8", "surrogateescape"))
        return 111


def warnings(records: "list[Record]", environ: "Mapping[bytes, bytes]") -> "Iterator[bytes]":
    """What the aliases need and is not there: lists that cannot be read, and programs."""
    import os

    from pyqmail.intake.resend import Fatal
    from pyqmail.local.alias_list import read_list
    from pyqmail.local.suspicions import judge_command

    for key, data in records:
        for command in data.split(b"\0") if key.startswith(b":") else ():
            alias = key[1:].removesuffix(b"@")
            if command.startswith(b"/") and command != NULL_DEVICE:
                try:
                    read_list(command, environ)
                except Fatal as error:
                    yield alias + b": " + error.text
            elif command.startswith(b"!"):
                wrong = judge_command(os.fsdecode(command[1:]), home_of(environ))
                if wrong is not None:
                    yield alias + b": " + os.fsencode(wrong.text)


def convert(path: str, environ: "Mapping[bytes, bytes]") -> bool:
    """Make ``path``.cdb by way of ``path``.tmp, and say what is left out of it; whether nothing is.

    Raises ControlUnreadable and OSError, and the database stays as it was.
    """
    import os

    records, errors = parse_aliases(read_file(path), completion(environ))
    write_cdb(path + ".tmp", records)
    os.chmod(path + ".tmp", 0o644)  # everybody's, whatever the umask
    replace_cdb(path + ".tmp", path + ".cdb")
    shown = path.encode("utf-8", "surrogateescape")
    for error in errors:
        complain(b"newaliases: error: %b: line %d: %b: this alias is not made" % (shown, error.line, error.text))
    for line in warnings(records, environ):
        complain(b"newaliases: warning: " + shown + b": " + line + b": its mail waits")
    return not errors
