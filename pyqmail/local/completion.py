"""What completes the addresses of an alias file on this host (newaliases(1), qmail-header(5)). Light."""

from pyqmail.control import Control, home_of
from pyqmail.formats.aliases import Completion

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping


def completion(environ: "Mapping[bytes, bytes]") -> Completion:
    """What completes addresses here: variables, else control files. Raises ControlUnreadable."""
    control = Control(home_of(environ))
    return Completion(
        control.setting(environ, b"QMAILDEFAULTHOST", "defaulthost"),
        control.setting(environ, b"QMAILDEFAULTDOMAIN", "defaultdomain"),
        control.setting(environ, b"QMAILPLUSDOMAIN", "plusdomain"),
    )
