"""The Received lines: qmail-queue's own, and that of a program that took the message from the network.

qmail-queue(8), qmail-smtpd(8).
"""

from pyqmail.formats.date822 import format_date

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from pyqmail.policy.accounts import Accounts

_SAFE = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789.@%+/=:-[]")
_MASK = bytes(byte if byte in _SAFE else 0x3F for byte in range(256))


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
    return b"Received: (qmail %d invoked %s); %s\n" % (number, how, format_date(seconds))


def format_network_received(
    protocol: bytes, environ: "Mapping[bytes, bytes]", helo: bytes | None, seconds: float
) -> bytes:
    """The two lines of a network receiver, from the TCP variables of its environment (tcp-environ(5)).

    ``helo`` is shown when it is another name than TCPREMOTEHOST. Bytes that have no place in a comment become ``?``.
    """
    host = environ.get(b"TCPREMOTEHOST", b"unknown")
    info = environ.get(b"TCPREMOTEINFO")
    local = environ.get(b"TCPLOCALHOST")
    if local is None:
        local = environ.get(b"TCPLOCALIP", b"unknown")
    return b"Received: from %b %b(%b%b)\n  by %b with %b; %b\n" % (
        host.translate(_MASK),
        b"" if helo is None or helo.lower() == host.lower() else b"(HELO " + helo.translate(_MASK) + b") ",
        b"" if info is None else info.translate(_MASK) + b"@",
        environ.get(b"TCPREMOTEIP", b"unknown").translate(_MASK),
        local.translate(_MASK),
        protocol,
        format_date(seconds),
    )
