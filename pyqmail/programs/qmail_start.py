"""qmail-start: builds the daemons and the pipes between them, then is qmail-send itself (qmail-start(8)).

    pipe 0  qmail-send -> logger         pipe 3, 4  qmail-send -> qmail-rspawn -> qmail-send
    pipe 1, 2  the same for lspawn       pipe 5, 6  the same for qmail-clean

Each program is the one that PATH finds.  Where that is our own launcher it is not executed but forked: the modules are
imported once here, and the memory is shared.  Any failure after the account look-up exits 111 without a word: fd 2 is a
pipe by then.
"""

import fcntl
import os
from collections.abc import Mapping, Sequence

from pyqmail.control import ControlUnreadable, home_of
from pyqmail.policy.accounts import AccountMissing, read_accounts
from pyqmail.send.start import Start, start_daemons, start_logger, start_supervisor
from pyqmail.spool.layout import read_layout
from pyqmail.system.process import schedule_as_batch
from pyqmail.system.readiness import without_request

FAILED = 111
DEFAULT_DELIVERY = b"./Mailbox"


def main(argv: Sequence[bytes], environ: Mapping[bytes, bytes]) -> int:
    """Start everything; does not return before qmail-send ends, 111 on any failure."""
    os.chdir("/")
    os.umask(0o077)
    schedule_as_batch()
    home = home_of(environ)
    try:
        accounts, layout = read_accounts(home), read_layout(home)
    except (AccountMissing, ControlUnreadable) as error:
        os.write(2, str(error).encode() + b"\n")
        return FAILED
    try:
        fcntl.fcntl(0, fcntl.F_GETFD)
        start = Start(home, accounts, without_request(environ))
        start.load()
        if not accounts.single_user:
            os.setgroups([accounts.gid_qmail])
            os.setgid(accounts.gid_qmail)
        for fd in range(2, 7):
            os.dup2(0, fd)
        if len(argv) > 2:
            start_logger(start, argv[2:])
        start_daemons(start, argv[1] if len(argv) > 1 else DEFAULT_DELIVERY)
        link = start_supervisor(start, layout)
        start.take_identity(accounts.uid_send, accounts.gid_qmail, [accounts.gid_qmail])
        start.environ = {**environ, **link}  # it alone tells systemd that it is ready, and hears the supervisor
        return start.run([b"qmail-send"])
    except Exception:  # silent by contract: fd 2 may be a pipe to a daemon
        return FAILED
