"""qmail-authd: checks names and passwords for qmail-smtpd, so that no program needs to be setuid (qmail-authd(8)).

Started by qmail-start where control/authd exists. It stays root, since PAM and users/virtual.cdb ask for it, and
answers qmaild and root only; each check is a process of its own.
"""

import os
import signal
from collections.abc import Mapping, Sequence

from pyqmail.control import ControlUnreadable, home_of
from pyqmail.policy.accounts import AccountMissing, read_accounts
from pyqmail.protocol.logins import SOCKET
from pyqmail.system.loop import Loop
from pyqmail.system.process import reset_signals, set_title
from pyqmail.system.unix_listener import listen


def main(argv: Sequence[bytes], environ: Mapping[bytes, bytes]) -> int:
    """Serve until TERM: 0; 111 when it cannot start."""
    reset_signals()
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    home = home_of(environ)
    set_title("qmail-authd")
    loop = Loop()
    loop.add_signal(signal.SIGTERM, loop.stop)
    try:
        accounts = read_accounts(home)
        os.chdir("/")
        listener = listen(home + SOCKET)
    except (OSError, AccountMissing, ControlUnreadable):
        return 111
    from pyqmail.login.service import Service  # hashlib, which the parent of all helpers need not hold

    trusted = frozenset((0, accounts.uid_daemon))
    service = Service(loop, listener, home, trusted.__contains__, single_user=accounts.single_user)
    loop.run()
    service.save()
    return 0
