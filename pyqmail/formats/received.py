"""The Received line that qmail-queue puts on top of every message (qmail-queue(8))."""

import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyqmail.policy.accounts import Accounts

MONTHS = (b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec")


def how_invoked(uid: int, accounts: "Accounts") -> bytes:
    """The words for the real ``uid`` of the caller.

    In a single-user tree one uid has every role, so the number is all that can be said.
    """
    if not accounts.single_user:
        if uid == accounts.uid_alias:
            return b"by alias"
        if uid == accounts.uid_daemon:
            return b"from network"
        if uid == accounts.uid_send:
            return b"for bounce"
    return b"by uid %d" % uid


def format_received(number: int, how: bytes, seconds: int) -> bytes:
    """The line, newline included; ``seconds`` since the epoch, shown in UTC, the day not padded."""
    when = time.gmtime(seconds)
    return b"Received: (qmail %d invoked %s); %d %s %d %02d:%02d:%02d -0000\n" % (
        number,
        how,
        when.tm_mday,
        MONTHS[when.tm_mon - 1],
        when.tm_year,
        when.tm_hour,
        when.tm_min,
        when.tm_sec,
    )
