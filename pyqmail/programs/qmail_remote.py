"""qmail-remote: send one message by SMTP (qmail-remote(8)).

    qmail-remote HOST SENDER RECIPIENT...     message on fd 0, reports on fd 1, exit code 0 whatever happens

Reports end with NUL: one per recipient (r accepted, h permanent, s temporary), then one for the message (K, Z, D).
"""

import signal
import threading
from collections.abc import Mapping, Sequence

from pyqmail.remote.sender import Sender


def prepare(environ: Mapping[bytes, bytes]) -> Sender:
    """What serves one delivery after another in a worker (warm/served)."""
    return Sender()


def main(argv: Sequence[bytes], environ: Mapping[bytes, bytes]) -> int:
    """Deliver, report and return 0."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    sender = Sender(trusting=True)
    code = sender.serve(argv, environ)
    sender.close()
    return code
