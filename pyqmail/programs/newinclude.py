"""newinclude: make a binary mailing list from an :include: file of sendmail's (newinclude(1))."""

from pyqmail.control import Control, ControlUnreadable, home_of
from pyqmail.formats.aliases import Completion, ListError, parse_include
from pyqmail.spool.resend import complain
from pyqmail.system.files import read_file, replace_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def completion(environ: "Mapping[bytes, bytes]") -> Completion:
    """What completes addresses here: variables, else control files. Raises ControlUnreadable."""
    control = Control(home_of(environ))
    return Completion(
        control.setting(environ, b"QMAILDEFAULTHOST", "defaulthost"),
        control.setting(environ, b"QMAILDEFAULTDOMAIN", "defaultdomain"),
        control.setting(environ, b"QMAILPLUSDOMAIN", "plusdomain"),
    )


def main(argv: "Sequence[bytes]", environ: "Mapping[bytes, bytes]") -> int:
    """Convert the file ``argv[1]`` to ``argv[1]``.bin: 0, 100 for usage, 111 for all else."""
    if len(argv) < 2:
        complain(b"newinclude: usage: newinclude list")
        return 100
    name = argv[1]
    try:
        replace_file(name + b".tmp", name + b".bin", parse_include(read_file(name), completion(environ)))
    except ListError as error:
        complain(b"newinclude: fatal: " + error.text)
        return 111
    except ControlUnreadable as error:
        complain(b"newinclude: fatal: unable to read controls: " + str(error).encode())
        return 111
    except OSError as error:
        complain(b"newinclude: fatal: unable to convert " + name + b": " + (error.strerror or "").encode())
        return 111
    return 0
