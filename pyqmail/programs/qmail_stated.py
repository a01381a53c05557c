"""qmail-stated: knows for a while who has sent how much, for those who ask (qmail-stated(8)).

Started by qmail-start where a control file limits something. It binds its socket as root, and then is qmailv for good,
in run/state, where it leaves a file to the next process.
"""

import os
import resource
import signal
from collections.abc import Mapping, Sequence

from pyqmail.control import ControlUnreadable, home_of
from pyqmail.policy.accounts import AccountMissing, read_accounts, uid_of_own
from pyqmail.protocol.state import SOCKET
from pyqmail.state.store_url import read_store
from pyqmail.system.loop import Loop
from pyqmail.system.own_directory import make_own
from pyqmail.system.process import become, reset_signals, set_title
from pyqmail.system.unix_listener import listen


def main(argv: Sequence[bytes], environ: Mapping[bytes, bytes]) -> int:
    """Serve until TERM: 0; 111 when it cannot start."""
    reset_signals()
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    home = home_of(environ)
    set_title("qmail-stated")
    loop = Loop()
    loop.add_signal(signal.SIGTERM, loop.stop)
    try:
        accounts = read_accounts(home)
        uid = uid_of_own(home, accounts, "conf-verifier")
        fd = make_own(home + "/run/state", None if accounts.single_user else uid, accounts.gid_nofiles)
        os.fchdir(fd)
        os.close(fd)
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        listener = listen(home + SOCKET)
        store = read_store(home)
        if not accounts.single_user:
            become(uid, accounts.gid_nofiles, [accounts.gid_nofiles])
    except (OSError, AccountMissing, ControlUnreadable):
        return 111
    from pyqmail.state.service import Service  # what the parent of all helpers need not hold

    trusted = frozenset((0, accounts.uid_daemon, accounts.uid_remote))
    service = Service(loop, listener, home, trusted.__contains__, store)
    loop.run()
    service.save()
    return 0
