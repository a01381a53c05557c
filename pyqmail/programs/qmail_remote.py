"""qmail-remote: send one message by SMTP (qmail-remote(8)).

    qmail-remote HOST SENDER RECIPIENT...     message on fd 0, reports on fd 1, exit code 0 whatever happens

Reports end with NUL: one per recipient (r accepted, h permanent, s temporary), then one for the message (K, Z, D).
"""

import signal
import threading
from collections.abc import Mapping, Sequence

from pyqmail.remote.sender import Sender

__all__ = ["Sender", "main"]


def main(argv: Sequence[bytes], environ: Mapping[bytes, bytes]) -> int:
    """Deliver, report and return 0."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    sender = Sender(trusting=True)
    code = sender.main(argv, environ)
    sender.close()
    return code
