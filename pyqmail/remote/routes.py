"""control/smtproutes and authsenders: which relay, if any, takes the mail, and who we are there (qmail-remote(8))."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pyqmail.protocol.sasl_client import Login

SMTP_PORT = 25
UNVERIFIED = b"unverified"  # the password may go to whoever answers under TLS
CLEAR = b"clear"  # the password may go as the connection is
LMTP = b"lmtp"  # spoken in place of SMTP
OPTIONS = frozenset((UNVERIFIED, CLEAR, LMTP))


@dataclass(frozen=True, slots=True)
class Route:
    """A relay that replaces the MX lookup. An empty relay is legal in the file and names no host at all."""

    relay: bytes
    port: int
    login: Login | None = None
    options: frozenset[bytes] = frozenset()  # words that stand behind the port
    socket: bytes = b""  # the path of a Unix socket that is used in place of relay and port


def parse_route(value: bytes) -> Route | None:
    """The route in ``value``, ``RELAY:PORT/OPTION|USER|PASSWORD`` or less; None for the empty value: use MX.

    A port that starts with no digit is 0, which no server has; qmail reads the digits only, so that it sees no option.
    The colons of a bracketed IPv6 literal are its own, and the bars of a password too. ``/lmtp=PATH``, the last of the
    options, names a socket: qmail, to which the line is an address and a port, defers.
    """
    if not value:
        return None
    value, *fields = value.split(b"|", 2)
    login = Login(fields[0], fields[1]) if len(fields) == 2 else None
    bracket = value.find(b"]") if value[:1] == b"[" else -1
    colon = value.find(b":", bracket + 1)
    if colon < 0:
        return Route(value, SMTP_PORT, login)
    text = value[colon + 1 :]
    digits = text[: len(text) - len(text.lstrip(b"0123456789"))]
    words, _, path = text[len(digits) :].partition(b"/lmtp=/")
    options = words.lower().split(b"/")
    known = frozenset(options[1:]) & OPTIONS if not options[0] else frozenset()
    if path:
        known |= {LMTP}
    return Route(value[:colon], int(digits[-18:] or b"0") & 0xFFFF, login, known, b"/" + path if path else b"")


def without_password(line: bytes) -> bytes:
    """A line of control/smtproutes or authsenders as it may be shown."""
    parts = line.split(b"|", 2)
    return b"|".join((*parts[:2], b"***")) if len(parts) > 2 else line


def sender_key(senders: Mapping[bytes, bytes], sender: bytes) -> bytes | None:
    """The key of the line of control/authsenders for ``sender``: itself, ``@`` and its domain, the ends of that, empty.

    None where there is none.
    """
    if not senders:
        return None
    folded = sender.lower()
    domain = folded.rpartition(b"@")[2]
    keys = (folded, b"@" + domain, *(key for key in route_keys(domain) if key[:1] in (b".", b"")))
    return next((key for key in keys if key in senders), None)


def route_keys(host: bytes) -> Iterator[bytes]:
    """The keys that apply to ``host``, most special first: itself, each part from a dot on, the empty key."""
    yield host
    dot = host.find(b".", 1)
    while dot >= 0:
        yield host[dot:]
        dot = host.find(b".", dot + 1)
    yield b""


def find_route(routes: Mapping[bytes, bytes], host: bytes) -> Route | None:
    """The route for ``host``; the first key that exists wins, even when its value is empty. Keys are lower case."""
    for key in route_keys(host.lower()):
        if key in routes:
            return parse_route(routes[key])
    return None
