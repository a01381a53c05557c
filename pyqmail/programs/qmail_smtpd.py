"""qmail-smtpd: one SMTP session on descriptors 0 and 1 (qmail-smtpd(8)).

Ends 0 only after QUIT. A message goes to the queue as it arrives; nothing of it is kept here. One line for each message
taken and each refusal goes to descriptor 2 when that is a log (incoming/decisions).
"""

import _signal
from collections.abc import Mapping, Sequence

from pyqmail.control import ControlUnreadable, home_of
from pyqmail.incoming.decisions import LOG_WAIT_S, DecisionLog
from pyqmail.incoming.refusals import NO_CONTROLS, NO_MEMORY
from pyqmail.incoming.security import TlsUnavailable
from pyqmail.incoming.site import TIMEOUT_S, site_of
from pyqmail.incoming.smtp import SmtpSession
from pyqmail.incoming.smtp_connection import SessionEnd, say_last
from pyqmail.incoming.smtp_settings import Settings
from pyqmail.stream.standard import Standard, client_stream
from pyqmail.stream.stream import StreamEnded
from pyqmail.system.process import ignore_signals

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyqmail.warm.served import Served

NAME = b"qmail-smtpd"


def prepare(environ: Mapping[bytes, bytes]) -> "Served":
    """What serves connections from tcpserver's memory (warm/served)."""
    from pyqmail.incoming.in_memory import checking_server

    try:
        Standard.limit_s = site_of(home_of(environ)).timeout_s
    except ControlUnreadable:
        Standard.limit_s = None
    return checking_server(main, environ)


def main(argv: Sequence[bytes], environ: Mapping[bytes, bytes]) -> int:
    """Serve one client on descriptors 0 and 1; arguments are ``[host] checker program``, for AUTH."""
    ignore_signals(_signal.SIGPIPE)
    try:
        settings = Settings(home_of(environ), environ, argv[1:])
    except (OSError, ControlUnreadable) as error:
        name_fault(environ, error)
        return say_last(client_stream(TIMEOUT_S), NO_CONTROLS)
    stream = client_stream(settings.timeout_s)
    session = SmtpSession(settings, stream, DecisionLog(NAME, environ, settings.rules, sockets=stream.sockets))
    try:
        return session.run()
    except SessionEnd as end:
        return say_last(session.stream, end.reply)
    except (StreamEnded, TlsUnavailable):
        return 1
    except ControlUnreadable as error:
        name_fault(environ, error)
        return say_last(session.stream, NO_CONTROLS)
    except MemoryError:
        return say_last(session.stream, NO_MEMORY)
    finally:
        session.stream.close()
        settings.close()


def name_fault(environ: Mapping[bytes, bytes], error: Exception) -> None:
    """Tell the log which control file it is; the client hears only that there is one."""
    log = DecisionLog(NAME, environ)
    log.wait_s = LOG_WAIT_S
    log.say(f"unable to read controls: {error}".encode("utf-8", "replace"))
