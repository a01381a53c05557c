"""checkpassword: checks a name and a password, then becomes the user and goes on as another program (checkpassword(8)).

    checkpassword PROGRAM [ARGUMENT ...]        3< NAME \\0 PASSWORD \\0 [STAMP \\0]

A name with ``@`` is a virtual user (qmail-vuser(8)), any other one an account of the system, which PAM is asked about.
Whatever is wrong with name and password, the answer is the same and comes after the same time. Where there is
control/authd, root asks qmail-authd, which counts the wrong ones of all protocols together.
"""

import os
import signal
import time
from collections.abc import Mapping, Sequence

from pyqmail.control import Control, ControlUnreadable, home_of
from pyqmail.login.accounts import Account, Refused, Temporary, authenticate, look_up
from pyqmail.login.answer import Answer
from pyqmail.login.client import ask
from pyqmail.protocol.sasl import Credentials
from pyqmail.warm.successors import go_on_as

REQUEST_MAX = 512
REQUEST_FD = 3
BAD, MISUSE, TEMPORARY = 1, 2, 111
FAILURE_S = 3.5  # from start to refusal; by then the random delay of PAM is over, too


class Misuse(Exception):
    """Descriptor 3 does not hold what it should."""


def read_request() -> tuple[bytes, bytes, bytes]:
    """Name, password and time stamp from descriptor 3, which is closed. Raises Misuse and Temporary."""
    data = b""
    try:
        while len(data) <= REQUEST_MAX and (chunk := os.read(REQUEST_FD, REQUEST_MAX + 1 - len(data))):
            data += chunk
        os.close(REQUEST_FD)
    except OSError:
        raise Misuse from None
    fields = data.split(b"\0")
    if len(data) > REQUEST_MAX or len(fields) < 4 and (len(fields), fields[-1]) != (3, b""):
        raise Misuse
    return fields[0], fields[1], fields[2]


def asks_service(home: str) -> bool:
    """Whether qmail-authd is to be asked. Raises Temporary."""
    try:
        return os.geteuid() == 0 and Control(home).exists("authd")
    except ControlUnreadable:
        raise Temporary from None


def log_in(home: str, credentials: Credentials, ip: bytes) -> Account:
    """The account that qmail-authd says these are of. Raises Refused and Temporary."""
    answer, user = ask(home, credentials, ip)
    if answer is Answer.LATER:
        raise Temporary
    if answer is Answer.NO:
        raise Refused
    return look_up(home, user)


def become_user(account: Account) -> None:
    """Take the identity of ``account`` and go to its home. Raises OSError."""
    if os.geteuid() == 0:
        if account.groups is None:
            os.initgroups(os.fsdecode(account.user), account.gid)
        else:
            os.setgroups(account.groups)
        os.setresgid(account.gid, account.gid, account.gid)
        os.setresuid(account.uid, account.uid, account.uid)
    elif os.geteuid() != account.uid:
        raise PermissionError(1, "not root, and not that user")
    os.chdir(account.home)


def go_on(account: Account, words: Sequence[bytes], environ: Mapping[bytes, bytes], *, checked_here: bool) -> None:
    """Become the user and the program. Returns only if that fails.

    A process that has ``checked_here`` has read the passwords of others, and gives up its memory.
    """
    environment = dict(environ) | {b"USER": account.user, b"HOME": account.home, b"SHELL": account.shell}
    try:
        become_user(account)
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        if checked_here:
            os.execvpe(words[0], list(words), environment)
        go_on_as(words, environment)
    except OSError:
        return


def main(argv: Sequence[bytes], environ: Mapping[bytes, bytes]) -> int:
    """1 for a wrong name or password, 2 for misuse, 111 for trouble; else the exit status of the program."""
    started = time.monotonic()
    if len(argv) < 2:
        return MISUSE
    try:
        name, password, stamp = read_request()
        home, credentials = home_of(environ), Credentials(b"pop3", name, password, stamp)
        checked_here = not (credentials.possible and asks_service(home))
        if checked_here:
            account = authenticate(home, name, password, stamp)
        else:
            account = log_in(home, credentials, environ.get(b"TCPREMOTEIP", b""))
    except Misuse:
        return MISUSE
    except Temporary:
        return TEMPORARY
    except Refused:
        time.sleep(max(0.0, started + FAILURE_S - time.monotonic()))
        return BAD
    go_on(account, argv[1:], environ, checked_here=checked_here)
    return TEMPORARY
