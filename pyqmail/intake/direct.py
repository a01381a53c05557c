"""Writing the queue in this very process, as its owner may: qmailq, the user of a single-user tree, or root."""

import _signal
import os

from pyqmail.exits import QueueExit

LIFETIME_SECONDS = 86400  # must stay below the 36 hours of the sweep
IGNORED = (
    _signal.SIGPIPE,
    _signal.SIGVTALRM,
    _signal.SIGPROF,
    _signal.SIGQUIT,
    _signal.SIGINT,
    _signal.SIGHUP,
    _signal.SIGXCPU,
    _signal.SIGXFSZ,
)
BUGS = (_signal.SIGABRT, _signal.SIGSYS)  # true faults cannot be handled in Python: they kill, which is as temporary


def _expire(_number: int, _frame: object) -> None:
    os._exit(QueueExit.TIMEOUT)


def _bug(_number: int, _frame: object) -> None:
    os._exit(QueueExit.BUG)


def arm() -> None:
    """The signals of qmail-queue, and its end after 24 hours."""
    _signal.pthread_sigmask(_signal.SIG_SETMASK, ())
    os.umask(0o033)
    for number in IGNORED:
        _signal.signal(number, _signal.SIG_IGN)
    for number in BUGS:
        _signal.signal(number, _bug)
    _signal.signal(_signal.SIGALRM, _expire)
    _signal.alarm(LIFETIME_SECONDS)


def write_queue(home: str, uid: int, facts: bytes) -> int:
    """Queue the message in this process, recording real uid ``uid``; root becomes qmailq first.

    ``facts`` are what $QMAILFACTS says (formats/facts), or nothing.
    """
    from pyqmail.policy.accounts import AccountMissing, read_accounts
    from pyqmail.spool.enqueue import Spool, enqueue
    from pyqmail.spool.layout import read_layout

    if copies_are_made(home):
        return QueueExit.CONNECT_REFUSED  # by qmail-queued alone
    try:
        accounts = read_accounts(home)
    except AccountMissing as missing:
        os.write(2, str(missing).encode() + b"\n")
        return QueueExit.ACCOUNT_MISSING
    if os.geteuid() == 0:
        os.setgroups([accounts.gid_qmail])
        os.setresgid(accounts.gid_qmail, accounts.gid_qmail, accounts.gid_qmail)
        os.setresuid(accounts.uid_queue, accounts.uid_queue, accounts.uid_queue)
    try:
        os.chdir(home + "/queue")
    except OSError:
        return QueueExit.NO_QUEUE
    return enqueue(Spool(read_layout(home), accounts), uid, os.getpid(), 0, 1, facts=facts)


def copies_are_made(home: str) -> bool:
    """Whether each message has to be copied elsewhere (qmail-shadowd(8)), which nobody does but qmail-queued."""
    return os.access(home + "/control/shadow", os.F_OK)


def queue_standard_input(home: str, facts: bytes) -> int:
    """Queue message and envelope from descriptors 0 and 1, and ``facts``; qmail-queue's exit code."""
    code = prepare(home)
    return write_queue(home, os.getuid(), facts) if code == QueueExit.DONE else code


def prepare(home: str) -> int:
    """What every qmail-queue does first, with descriptors, signals and home: DONE, or the exit code that tells."""
    try:
        os.fstat(0)
        os.fstat(1)
    except OSError:
        return QueueExit.READ_ERROR
    arm()
    try:
        os.chdir(home)
    except OSError:
        return QueueExit.NO_HOME
    return QueueExit.DONE if os.path.isdir(home + "/queue") else QueueExit.NO_QUEUE
