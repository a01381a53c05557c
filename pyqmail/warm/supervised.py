"""The helpers: processes beside the daemons that qmail-start's supervisor starts and replaces (qmail-start(8)).

A helper more is one row of HELPERS, its program, and its page.
"""

import os
import socket
from collections.abc import Callable
from dataclasses import dataclass

from pyqmail.control import Control, ControlUnreadable
from pyqmail.protocol import accounts, logins, queued, recipients, shadow, state, verification

MIB = 1 << 20
ANSWER_S = 1.0  # that qmail-queued may take to say what it is


@dataclass(frozen=True, slots=True)
class Helper:
    """One kind of helper."""

    name: bytes  # the program
    path: str  # of its socket, below the home
    kind: socket.SocketKind
    outlives: bool  # goes on when qmail-send has ended, until the supervisor is told to end
    told: bool  # has on descriptor 0 what qmail-send tells it, and ends when that does
    memory_bytes: int  # of address space, at most
    loss: str  # what is missed while it does not run
    configured: Callable[[str], bool] = lambda home: True  # whether the tree at ``home`` is to have one
    used: Callable[[str], bool] = lambda home: True  # whether anybody there asks it


def recipients_are_asked(home: str) -> bool:
    """Whether qmail-smtpd asks qmail-rcptd: there is SRS, or control/rcptcheck neither says off nor names a program."""
    control = Control(home)
    try:
        return not control.line("rcptcheck") or control.exists("srs_domain")
    except ControlUnreadable:
        return True


def logins_are_wanted(home: str) -> bool:
    """Whether there is control/authd."""
    try:
        return Control(home).exists("authd")
    except ControlUnreadable:
        return True


def senders_are_verified(home: str) -> bool:
    """Whether control/spfbehavior or control/dmarcbehavior is there, or keys, whose domains' mail is looked at."""
    control = Control(home)
    try:
        return any(map(control.exists, ("spfbehavior", "dmarcbehavior", "domainkeys")))
    except ControlUnreadable:
        return True


def anything_is_counted(home: str) -> bool:
    """Whether control/relaylimits or control/greylist is there."""
    control = Control(home)
    try:
        return any(map(control.exists, ("relaylimits", "greylist")))
    except ControlUnreadable:
        return True


def messages_are_copied(home: str) -> bool:
    """Whether there is control/shadow."""
    try:
        return Control(home).exists("shadow")
    except ControlUnreadable:
        return True


def accounts_are_kept(home: str) -> bool:
    """Whether there is control/accounts."""
    try:
        return Control(home).exists("accounts")
    except ControlUnreadable:
        return True


HELPERS = (
    Helper(
        b"qmail-queued", "/run/qmail-queued.sock", socket.SOCK_SEQPACKET,
        outlives=True, told=False, memory_bytes=4096 * MIB, loss="nobody can put a message into the queue",
    ),
    Helper(
        b"qmail-rcptd", recipients.SOCKET, socket.SOCK_DGRAM,
        outlives=False, told=True, memory_bytes=1024 * MIB,
        loss="by SMTP every recipient of a local domain is accepted, and those that do not exist bounce",
        used=recipients_are_asked,
    ),
    Helper(
        b"qmail-authd", logins.SOCKET, socket.SOCK_SEQPACKET,
        outlives=True, told=False, memory_bytes=1024 * MIB, loss="nobody can say by AUTH who he is",
        configured=logins_are_wanted, used=logins_are_wanted,
    ),
    Helper(
        b"qmail-verifyd", verification.SOCKET, socket.SOCK_SEQPACKET,
        outlives=True, told=False, memory_bytes=1024 * MIB,
        loss="nobody says who sent a message; by spfbehavior and dmarcbehavior 2 and more it has to come again",
        configured=senders_are_verified, used=senders_are_verified,
    ),
    Helper(
        b"qmail-stated", state.SOCKET, socket.SOCK_SEQPACKET,
        outlives=True, told=False, memory_bytes=1024 * MIB,
        loss="nothing is counted: users and relay clients may send as much as they like, and nobody is greylisted",
        configured=anything_is_counted, used=anything_is_counted,
    ),
    Helper(
        b"qmail-shadowd", shadow.SOCKET, socket.SOCK_SEQPACKET,
        outlives=True, told=False, memory_bytes=2048 * MIB,
        loss="no message has a second copy: by control/shadow it has to come again, or goes without",
        configured=messages_are_copied, used=messages_are_copied,
    ),
    Helper(
        b"qmail-accountsd", accounts.SOCKET, socket.SOCK_SEQPACKET,
        outlives=True, told=False, memory_bytes=1024 * MIB,
        loss="what changes in the database of accounts is not seen here",
        configured=accounts_are_kept, used=accounts_are_kept,
    ),
)  # fmt: skip


def connect(home: str, helper: Helper) -> socket.socket | None:
    """A connection to the running ``helper`` of ``home``; None when nobody answers there.

    Raises OSError where that cannot be known: no descriptor, no right to ask.
    """
    sock = socket.socket(socket.AF_UNIX, helper.kind | socket.SOCK_NONBLOCK)
    try:
        sock.connect(home + helper.path)
    except (FileNotFoundError, ConnectionRefusedError):
        sock.close()
        return None
    except BlockingIOError:
        return sock  # its queue is full, but it is its own
    except OSError:
        sock.close()
        raise
    return sock


def answers(home: str, helper: Helper) -> bool:
    """Whether somebody takes what is sent to ``helper``. Raises OSError where that cannot be known."""
    sock = connect(home, helper)
    if sock is not None:
        sock.close()
    return sock is not None


def listener(home: str, helper: Helper) -> int | None:
    """The pid of who listens for ``helper``, as the kernel knows it; None when nobody does or that is not known."""
    try:
        sock = connect(home, helper)
    except OSError:
        return None
    if sock is None:
        return None
    with sock:
        try:
            found = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        except OSError:
            return None
    return queued.parse_credentials(found)[0] or None


def ask_build(home: str) -> str | None:
    """The build of the running qmail-queued, by its own word; None when it says nothing (an older one, or none)."""
    name = queued.BUILD_QUESTION + os.urandom(8).hex().encode()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.settimeout(ANSWER_S)
        try:
            sock.bind(name)
            sock.connect(home + HELPERS[0].path)
            return queued.parse_build(sock.recv(64))
        except OSError:
            return None
