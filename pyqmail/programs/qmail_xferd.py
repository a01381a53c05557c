"""qmail-xferd: take in the queued messages of another node, on descriptors 0 and 1 (qmail-xferd(8)).

0 when the client ends, 100 for a broken protocol, 111 for local trouble, a stranger, and after six hours.
"""

import os
import signal
from collections.abc import Mapping, Sequence

from pyqmail.control import ControlUnreadable, home_of
from pyqmail.incoming.decisions import DecisionLog
from pyqmail.incoming.letter import TooManyRecipients
from pyqmail.incoming.transfer import TransferSession
from pyqmail.stream.descriptors import DescriptorStream
from pyqmail.stream.stream import StreamEnded
from pyqmail.system.alarm import TimeUp, time_limit

SESSION_S = 6 * 3600  # a whole queue may come
WAIT_S = 600  # for the client to say more: it waits for its own qmail-send
DONE, TROUBLE = 0, 111


def main(argv: Sequence[bytes], environ: Mapping[bytes, bytes]) -> int:
    """Serve one client on descriptors 0 and 1; arguments are ignored."""
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    try:
        with time_limit(SESSION_S):
            home = home_of(environ)
            os.chdir(home)
            return TransferSession(home, environ, DecisionLog(b"qmail-xferd", environ)).run(
                DescriptorStream(0, 1, WAIT_S)
            )
    except StreamEnded:
        return DONE
    except (TooManyRecipients, TimeUp, ControlUnreadable, OSError, MemoryError):
        return TROUBLE
