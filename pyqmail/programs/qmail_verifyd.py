"""qmail-verifyd: says who sent a message, by SPF, DKIM, DMARC and ARC, to who asks (qmail-verifyd(8)).

Started by qmail-start where a control file wants its checks. It binds its socket as root and then is qmailv for good:
it reads what strangers send, and can do nothing else.
"""

import os
import signal
from collections.abc import Mapping, Sequence

from pyqmail.control import ControlUnreadable, home_of
from pyqmail.policy.accounts import AccountMissing, read_accounts, uid_of_own
from pyqmail.protocol.verification import REPORTS, SOCKET
from pyqmail.system.own_directory import make_own
from pyqmail.system.process import become, reset_signals, set_title
from pyqmail.system.unix_listener import listen


def main(argv: Sequence[bytes], environ: Mapping[bytes, bytes]) -> int:
    """Serve until TERM; 111 when it cannot start."""
    reset_signals()
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    home = home_of(environ)
    set_title("qmail-verifyd")
    try:
        accounts = read_accounts(home)
        uid = uid_of_own(home, accounts, "conf-verifier")
        os.chdir("/")
        os.close(make_own(home + REPORTS, None if accounts.single_user else uid, accounts.gid_nofiles))
        listener = listen(home + SOCKET)
        if not accounts.single_user:
            become(uid, accounts.gid_nofiles, [accounts.gid_nofiles])
    except (OSError, AccountMissing, ControlUnreadable):
        return 111
    from pyqmail.mailauth.service import Workers  # cryptography and dns, which the parent of all helpers need not hold

    trusted = frozenset((0, accounts.uid_daemon, accounts.uid_remote))
    try:
        Workers(home, listener, trusted.__contains__).run()
    except OSError:
        return 111
    return 0
