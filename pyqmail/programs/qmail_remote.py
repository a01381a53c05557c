"""qmail-remote: send one message by SMTP (qmail-remote(8)).

    qmail-remote HOST SENDER RECIPIENT...     message on fd 0, reports on fd 1, exit code 0 whatever happens
    qmail-remote --probe HOST                 says what each server for HOST says, and sends nothing

Reports end with NUL: one per recipient (r accepted, h permanent, s temporary), then one for the message (K, Z, D).
"""

import signal
import threading
from collections.abc import Mapping, Sequence

from pyqmail.control import ControlUnreadable, home_of
from pyqmail.remote.sender import Sender
from pyqmail.system.files import write_all


def prepare(environ: Mapping[bytes, bytes]) -> Sender:
    """What serves one delivery after another in a worker (warm/served)."""
    return Sender()


def main(argv: Sequence[bytes], environ: Mapping[bytes, bytes]) -> int:
    """Deliver, report and return 0."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    if len(argv) == 3 and argv[1] == b"--probe":
        return _probe(argv[2], environ)
    sender = Sender(trusting=True)
    code = sender.serve(argv, environ)
    sender.close()
    return code


def _probe(host: bytes, environ: Mapping[bytes, bytes]) -> int:
    from pyqmail.admin.explain.probe import probe  # for people, not for deliveries

    try:
        return probe(home_of(environ), host)
    except ControlUnreadable as trouble:
        write_all(1, f"qmail-remote: {trouble}\n".encode("utf-8", "surrogateescape"))
        return 111
