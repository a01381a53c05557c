"""qmail-qmqpd: one message by QMQP on descriptors 0 and 1 (qmail-qmqpd(8)).

Whoever can connect may send anywhere: tcpserver's rules must name the clients. 0 after the answer and when the client
ends early, 100 for a broken protocol, 111 for local trouble and after an hour.
"""

import signal
from collections.abc import Mapping, Sequence

from pyqmail.control import home_of
from pyqmail.incoming.check import Rules
from pyqmail.incoming.decisions import DecisionLog
from pyqmail.incoming.letter import TooManyRecipients
from pyqmail.incoming.qmqp import QmqpSession
from pyqmail.stream.standard import client_stream
from pyqmail.stream.stream import StreamEnded
from pyqmail.system.alarm import TimeUp, time_limit

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyqmail.warm.served import Served

SESSION_S = 3600
DONE, TROUBLE = 0, 111


def prepare(environ: Mapping[bytes, bytes]) -> "Served":
    """What serves connections from tcpserver's memory (warm/served)."""
    from pyqmail.incoming.in_memory import server

    return server(main)


def main(argv: Sequence[bytes], environ: Mapping[bytes, bytes]) -> int:
    """Serve one client on descriptors 0 and 1; arguments are ignored."""
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    try:
        with time_limit(SESSION_S):
            rules = Rules(home_of(environ), environ)
            log = DecisionLog(b"qmail-qmqpd", environ, rules)
            return QmqpSession(rules, client_stream(None), log).run()
    except StreamEnded:
        return DONE
    except (TooManyRecipients, TimeUp, OSError, MemoryError):
        return TROUBLE
