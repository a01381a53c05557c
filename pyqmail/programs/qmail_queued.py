"""qmail-queued: the one service that writes new messages into the queue, as qmailq (qmail-queued(8), intake/)."""

import gc
import os
import resource
import signal
from collections.abc import Mapping, Sequence

from pyqmail.control import Control, ControlUnreadable, home_of
from pyqmail.intake.service import (
    SLOTS,
    WAITING,
    WAITING_SHARE,
    Service,
    bind,
    inherited_socket,
    lock_service,
    prepare_run,
)
from pyqmail.policy.accounts import AccountMissing, read_accounts
from pyqmail.spool.layout import read_layout
from pyqmail.system.process import reset_signals, schedule_as_batch, set_title
from pyqmail.system.readiness import tell_ready


def _complain(text: str) -> int:
    os.write(2, f"qmail-queued: fatal: {text}\n".encode())
    return 111


def main(argv: Sequence[bytes], environ: Mapping[bytes, bytes]) -> int:
    """Serve until SIGTERM; 0 then, 111 when it cannot start (another one runs, an account is missing)."""
    reset_signals()
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    os.umask(0o033)
    schedule_as_batch()
    try:
        home = home_of(environ)
        accounts, layout = read_accounts(home), read_layout(home)
        slots = max(1, Control(home).integer("conf-queueslots", SLOTS))
        prepare_run(layout, accounts)
        os.chdir(layout.queue)
        lock = lock_service(layout)
        if lock is None:
            return _complain("already running")
        listener = inherited_socket(environ) or bind(layout)
    except AccountMissing as error:
        os.write(2, f"{error}\n".encode())
        return 111
    except (ControlUnreadable, OSError) as error:
        return _complain(str(error))
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    set_title("qmail-queued")
    waiting = WAITING if hard == resource.RLIM_INFINITY else min(WAITING, hard // WAITING_SHARE)
    service = Service(layout, accounts, listener, slots, waiting)
    service.lock = lock
    gc.freeze()
    tell_ready(environ)
    return service.run()
