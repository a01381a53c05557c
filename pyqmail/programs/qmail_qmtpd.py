"""qmail-qmtpd: messages by QMTP on descriptors 0 and 1 (qmail-qmtpd(8)).

0 when the client ends, 100 for a broken protocol, 111 for local trouble and after an hour. Nothing of a message is kept
here: it goes to the queue as it arrives.
"""

import signal
from collections.abc import Mapping, Sequence

from pyqmail.control import ControlUnreadable, home_of
from pyqmail.incoming.decisions import DecisionLog
from pyqmail.incoming.letter import TooManyRecipients
from pyqmail.incoming.qmtp import QmtpSession, Settings
from pyqmail.stream.standard import client_stream
from pyqmail.stream.stream import StreamEnded
from pyqmail.system.alarm import TimeUp, time_limit
from pyqmail.system.process import WorkingIn

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyqmail.warm.served import Served

SESSION_S = 3600  # for the whole session
DONE, TROUBLE = 0, 111


def prepare(environ: Mapping[bytes, bytes]) -> "Served":
    """What serves connections from tcpserver's memory (warm/served)."""
    from pyqmail.incoming.in_memory import checking_server

    return checking_server(main, environ)


def main(argv: Sequence[bytes], environ: Mapping[bytes, bytes]) -> int:
    """Serve one client on descriptors 0 and 1; arguments are ignored."""
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    settings = None
    try:
        home = home_of(environ)
        with WorkingIn(home), time_limit(SESSION_S):
            settings = Settings(home, environ)
            log = DecisionLog(b"qmail-qmtpd", environ, settings.rules)
            return QmtpSession(settings, client_stream(None), log).run()
    except StreamEnded:
        return DONE
    except (TooManyRecipients, TimeUp, ControlUnreadable, OSError, MemoryError):
        return TROUBLE
    finally:
        if settings is not None:
            settings.close()
