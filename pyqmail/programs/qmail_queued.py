"""qmail-queued: the one service that writes new messages into the queue, as qmailq (qmail-queued(8), intake/)."""

import gc
import os
import resource
import signal
from collections.abc import Mapping, Sequence

from pyqmail.control import Control, ControlUnreadable, home_of
from pyqmail.intake.doors import inherited_socket, lock_service, open_public, prepare_run
from pyqmail.intake.service import SLOTS, Service
from pyqmail.policy.accounts import AccountMissing, read_accounts
from pyqmail.spool.layout import read_layout
from pyqmail.system.process import ignore_signals, reset_signals, schedule_as_batch, set_title
from pyqmail.system.readiness import tell_ready

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyqmail.intake.flood import Flood
    from pyqmail.shadow.copies import Copies
    from pyqmail.spool.layout import Layout

MANY = 1 << 20  # descriptors, where there is no limit


def _complain(text: str) -> int:
    os.write(2, f"qmail-queued: fatal: {text}\n".encode())
    return 111


def main(argv: Sequence[bytes], environ: Mapping[bytes, bytes]) -> int:
    """Serve until SIGTERM; 0 then, 111 when it cannot start (another one runs, an account is missing)."""
    reset_signals()
    ignore_signals(signal.SIGPIPE)
    os.umask(0o033)
    schedule_as_batch()
    try:
        home = home_of(environ)
        accounts, layout = read_accounts(home), read_layout(home)
        slots = max(1, Control(home).integer("conf-queueslots", SLOTS))
        prepare_run(layout, accounts)
        os.chdir(layout.queue)
        used = os.path.lexists(layout.run_lock)
        lock = lock_service(layout)
        if lock is None:
            return _complain("already running")
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        descriptors = MANY if hard == resource.RLIM_INFINITY else hard
        public = inherited_socket(environ) or open_public(layout)
        flood, copies = local_limits(home), copies_of(layout)
        service = Service(layout, accounts, public, slots, descriptors, used=used, flood=flood, copies=copies)
    except AccountMissing as error:
        os.write(2, f"{error}\n".encode())
        return 111
    except (ControlUnreadable, OSError, ValueError) as error:
        return _complain(str(error))
    set_title("qmail-queued")
    service.lock = lock
    gc.freeze()
    tell_ready(environ)
    return service.run()


def local_limits(home: str) -> "Flood | None":
    """What limits how much a user may queue, where anything does. Raises ControlUnreadable."""
    if not Control(home).exists("relaylimits"):
        return None
    from pyqmail.intake.flood import flood_of  # most do without

    return flood_of(home)


def copies_of(layout: "Layout") -> "Callable[[], Copies] | None":
    """What has a worker's messages copied, where that is wanted. Raises ControlUnreadable and ValueError."""
    control = Control(layout.home)
    if not control.exists("shadow"):
        return None
    from pyqmail.shadow.copies import Copies
    from pyqmail.shadow.settings import is_required

    try:
        required = is_required(control)
    except ValueError as error:
        raise ValueError(f"control/shadow: {error}") from None
    return None if required is None else lambda: Copies(layout, required=required)
