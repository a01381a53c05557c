"""qmail-shadowd: keeps a second copy of each message in PostgreSQL until it has left the queue (qmail-shadowd(8)).

Started by qmail-start where there is control/shadow. As root it reads its password, looks which messages of the queue
have copies, and binds its socket; then it is another user for good, who can read no queue: messages come to it as open
files.
"""

import os
import resource
import signal
from collections.abc import Mapping, Sequence
from functools import partial

from pyqmail.control import ControlUnreadable, home_of
from pyqmail.dependencies import missing_module
from pyqmail.policy.accounts import AccountMissing, read_accounts
from pyqmail.protocol.shadow import SOCKET
from pyqmail.spool.layout import read_layout
from pyqmail.system.loop import Loop
from pyqmail.system.process import become, reset_signals, set_title
from pyqmail.system.unix_listener import listen

USAGE = b"qmail-shadowd: usage: qmail-shadowd [--adopt [NODE ...] | --restore]\n"


def main(argv: Sequence[bytes], environ: Mapping[bytes, bytes]) -> int:
    """Serve until TERM: 0; 111 when it cannot start. With --adopt: 0 once all is in the queue.

    With --restore: 0 once what the queue has lost is noted for the next start. 100 for other words.
    """
    if argv[1:2] == [b"--adopt"]:
        return adopt_dead(home_of(environ), [os.fsdecode(word) for word in argv[2:]])
    if argv[1:] == [b"--restore"]:
        return restore(home_of(environ))
    if len(argv) > 1:
        os.write(2, USAGE)
        return 100
    reset_signals()
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    home = home_of(environ)
    set_title("qmail-shadowd")
    loop = Loop()
    loop.add_signal(signal.SIGTERM, loop.stop)
    try:
        from pyqmail.shadow.identity import read_queue_id  # what the parent of all helpers need not hold
        from pyqmail.shadow.present import copies_in
        from pyqmail.shadow.settings import read_settings

        accounts = read_accounts(home)
        settings = read_settings(home)
        queue = read_queue_id(home + "/queue/pyqmail/id")
        present = copies_in(read_layout(home))
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        listener = listen(home + SOCKET)
        if not accounts.single_user:
            become(accounts.uid_remote, accounts.gid_nofiles, [accounts.gid_nofiles])
        os.chdir("/")
        from pyqmail.shadow.adoption import take_in_all
        from pyqmail.shadow.service import Service
    except ModuleNotFoundError as error:
        return complain(f"{error}: run {missing_module(error.name or '')}")
    except (OSError, AccountMissing, ControlUnreadable, ValueError) as error:
        return complain(str(error))
    copying, ending = {0, accounts.uid_queue}, {0, accounts.uid_send}
    take_in = partial(take_in_all, home=home)
    Service(loop, listener, settings, queue, present=present, take_in=take_in, copying=copying, ending=ending)
    loop.run()
    return 0


def adopt_dead(home: str, names: Sequence[str]) -> int:
    """Put into our queue what nodes without a lease had."""
    try:
        from pyqmail.shadow.adoption import NoLease, adopt
        from pyqmail.shadow.database import Away
        from pyqmail.shadow.identity import read_queue_id
        from pyqmail.shadow.nodes import Nodes
        from pyqmail.shadow.settings import read_settings
        from pyqmail.shadow.store import Refused

        settings, accounts = read_settings(home), read_accounts(home)
        queue = read_queue_id(home + "/queue/pyqmail/id")
        if not accounts.single_user:
            become(accounts.uid_daemon, accounts.gid_nofiles, [accounts.gid_nofiles])
        nodes = Nodes(settings.url, settings.password)
    except ModuleNotFoundError as error:
        return complain(f"{error}: run {missing_module(error.name or '')}")
    except (OSError, AccountMissing, ControlUnreadable, ValueError) as error:
        return complain(str(error))
    try:
        found, count, left = adopt(nodes, home, queue, names, settings.lease_s)
    except (Away, NoLease, Refused, OSError) as error:
        return complain(str(error))
    lines = [f"{name}: {number} messages adopted" for name, number in found]
    os.write(1, "\n".join([*lines, f"{count} messages put into the queue", ""]).encode())
    if left:
        return complain(left)
    absent = [name for name in names if name not in {known for known, _ in found}]
    return complain(f"no node without a lease is called {absent[0]}") if absent else 0


def restore(home: str) -> int:
    """Have the next start put into the queue, which nobody may serve now, what it has lost."""
    try:
        from pyqmail.admin.at_rest import InUse, at_rest
        from pyqmail.shadow.database import Away
        from pyqmail.shadow.identity import read_queue_id
        from pyqmail.shadow.nodes import Nodes
        from pyqmail.shadow.present import copies_in
        from pyqmail.shadow.settings import read_settings

        settings, accounts, layout = read_settings(home), read_accounts(home), read_layout(home)
        queue = read_queue_id(home + "/queue/pyqmail/id")
    except ModuleNotFoundError as error:
        return complain(f"{error}: run {missing_module(error.name or '')}")
    except (OSError, AccountMissing, ControlUnreadable, ValueError) as error:
        return complain(str(error))
    try:
        with at_rest(layout):
            present = copies_in(layout)
            if not accounts.single_user:
                become(accounts.uid_daemon, accounts.gid_nofiles, [accounts.gid_nofiles])
            count = Nodes(settings.url, settings.password).note_lacked(queue, present)
    except (Away, InUse, OSError) as error:
        return complain(str(error))
    os.write(1, f"{count} messages will be put into the queue when qmail runs\n".encode())
    return 0


def complain(text: str) -> int:
    """Say why it does not start: 111."""
    os.write(2, f"qmail-shadowd: fatal: {text}\n".encode())
    return 111
