"""qmail-accountsd: puts in force what changes in a database of accounts (qmail-accountsd(8)).

Started by qmail-start where control/accounts exists. It stays root, since it writes control/ and users/; who talks to
the database is a process of its own, which is qmailp.
"""

import os
import signal
from collections.abc import Mapping, Sequence

from pyqmail.control import home_of
from pyqmail.protocol.accounts import SOCKET
from pyqmail.system.helper_log import HelperLog
from pyqmail.system.loop import Loop
from pyqmail.system.process import reset_signals, set_title
from pyqmail.system.unix_listener import listen


def main(argv: Sequence[bytes], environ: Mapping[bytes, bytes]) -> int:
    """Serve until TERM: 0; 111 when it cannot start."""
    reset_signals()
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    home = home_of(environ)
    set_title("qmail-accountsd")
    loop = Loop()
    loop.add_signal(signal.SIGTERM, loop.stop)
    try:
        os.chdir("/")
        listener = listen(home + SOCKET)
    except OSError:
        return 111

    def greet() -> None:
        try:
            listener.accept()[0].close()  # nothing is said: that somebody is here is all
        except OSError:
            return

    loop.add_reader(listener.fileno(), greet)
    from pyqmail.admin.accounts.watcher import Watcher  # what the parent of all helpers need not hold

    log = HelperLog(b"qmail-accountsd")
    watcher = Watcher(loop, home, lambda text: log.say(text.encode("utf-8", "backslashreplace")))
    watcher.listen()
    loop.run()
    watcher.end()
    return 0
