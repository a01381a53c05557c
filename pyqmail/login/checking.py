"""One check: who knows the password, as control/authd has it (qmail-authd(8)).

Lines ``virtual``, ``accounts`` and ``system``: virtual users, those of the database in control/accounts and, by PAM,
accounts of the system; an empty file: all that there are. A line that begins with a slash: that program, compatible
with checkpassword, and nothing else. ``dovecot:SOCKET``: Dovecot's users, and nobody else.
"""

import hashlib
import hmac
from collections.abc import Mapping, Sequence

from pyqmail.control import Control, ControlUnreadable
from pyqmail.login.accounts import Refused, Temporary, authenticate, prepare_pam
from pyqmail.login.answer import Answer
from pyqmail.login.checker import run_checker
from pyqmail.login.virtual_users import VirtualUnreadable, find_user
from pyqmail.protocol.sasl import Credentials

CONTROL = "authd"
VIRTUAL, ACCOUNTS, SYSTEM = b"virtual", b"accounts", b"system"
WORDS = {VIRTUAL, ACCOUNTS, SYSTEM}
CRAM = b"cram-md5"
DOVECOT = b"dovecot:"


def of_system(credentials: Credentials, *, single_user: bool) -> bool:
    """Whether they can be those of an account of the system only."""
    return b"@" not in credentials.user and not single_user


def prepare(home: str) -> None:
    """Load PAM once, before processes are forked that check accounts of the system: each would load it anew."""
    try:
        if SYSTEM in (Control(home).lines(CONTROL) or (SYSTEM,)):
            prepare_pam()
    except (ControlUnreadable, Temporary):
        pass  # the check meets the same, and says so


def check(home: str, credentials: Credentials, ip: bytes, *, single_user: bool) -> Answer:
    """Whether they are right. Never raises what the caller would have to know."""
    try:
        lines = Control(home).lines(CONTROL) or usual(home)
    except ControlUnreadable:
        return Answer.LATER
    if lines[0].startswith(b"/"):
        third = bool(credentials.challenge)
        return run_checker(lines[0].split(), credentials, environment(ip), third=third)
    if lines[0].startswith(DOVECOT):
        from pyqmail.login.dovecot import ask_dovecot

        return ask_dovecot(lines[0].removeprefix(DOVECOT), credentials, ip)
    if not set(lines) <= WORDS:
        return Answer.LATER  # a word of a later version, or a typing error
    if b"@" in credentials.user:
        return _check_address(home, credentials, lines)
    if SYSTEM not in lines or single_user or credentials.method == CRAM:
        return Answer.NO
    return _known(home, credentials)


def usual(home: str) -> tuple[bytes, ...]:
    """The lines that an empty file stands for. Raises ControlUnreadable."""
    return (VIRTUAL, ACCOUNTS, SYSTEM) if Control(home).exists("accounts") else (VIRTUAL, SYSTEM)


def _check_address(home: str, credentials: Credentials, lines: Sequence[bytes]) -> Answer:
    """A virtual user if there is one of that name, else who is in the database; nobody there has a readable secret."""
    try:
        virtual = VIRTUAL in lines and (ACCOUNTS not in lines or find_user(home, credentials.user) is not None)
    except VirtualUnreadable:
        return Answer.LATER
    if virtual:
        return _known(home, credentials)
    if ACCOUNTS not in lines or credentials.method == CRAM:
        return Answer.NO
    from pyqmail.login.account_check import check_account  # and its libraries, which few need

    return check_account(home, credentials.user, credentials.secret)


def environment(ip: bytes) -> Mapping[bytes, bytes]:
    """What a program that checks is told."""
    return {b"PATH": b"/bin:/usr/bin:/usr/local/bin", b"PROTO": b"TCP", b"TCPREMOTEIP": ip}


def _known(home: str, credentials: Credentials) -> Answer:
    try:
        if credentials.method == CRAM:
            return _digest_is_right(home, credentials)
        authenticate(home, credentials.user, credentials.secret, credentials.challenge)
        return Answer.YES
    except Refused:
        return Answer.NO
    except (Temporary, VirtualUnreadable):
        return Answer.LATER


def _digest_is_right(home: str, credentials: Credentials) -> Answer:
    user = find_user(home, credentials.user)
    secret = user.secret if user is not None else b""
    digest = hmac.new(secret or b"-", credentials.challenge, hashlib.md5).hexdigest().encode()
    right = hmac.compare_digest(digest, credentials.secret) and bool(secret)
    return Answer.YES if right else Answer.NO


def known_as(credentials: Credentials) -> bytes:
    """The name of a user that was found: virtual users have theirs in lower case."""
    return credentials.user.lower() if b"@" in credentials.user else credentials.user
