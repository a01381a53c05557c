"""Which channel a recipient belongs to, and under which address (qmail-send(8))."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pyqmail.system.typed import Literal

Channel = Literal["local", "remote"]


@dataclass(frozen=True, slots=True)
class Routing:
    """The controls that route recipients; all keys in ASCII lower case."""

    default_host: bytes
    locals: frozenset[bytes]
    percent_hack: frozenset[bytes]
    virtual: Mapping[bytes, bytes]


def domain_keys(domain: bytes) -> Iterator[bytes]:
    """``domain``, its suffixes that start at a dot, longest first, and the empty key."""
    yield domain
    dot = domain.find(b".", 1) if domain[:1] == b"." else domain.find(b".")
    while dot >= 0:
        yield domain[dot:]
        dot = domain.find(b".", dot + 1)
    if domain:
        yield b""


def classify(recipient: bytes, routing: Routing) -> tuple[Channel, bytes]:
    """The channel of ``recipient`` and its rewritten address; case is preserved. Never raises.

    A domain in UTF-8 that no file has is looked up by its A-labels too. A local address in UTF-8 is composed (NFC).
    """
    channel, address = _classify(recipient, routing)
    if address.isascii():
        return channel, address
    return _classify_utf8(channel, address, routing)


def _classify_utf8(channel: Channel, address: bytes, routing: Routing) -> tuple[Channel, bytes]:
    import unicodedata  # few addresses need it, and it is large

    from pyqmail.protocol.host_names import ascii_host

    if channel == "remote":
        box, _, domain = address.rpartition(b"@")
        channel, named = _classify(box + b"@" + ascii_host(domain), routing)
        if channel == "remote":
            return channel, address  # as it was said; qmail-remote spells it
        address = named
    try:
        return channel, unicodedata.normalize("NFC", address.decode()).encode()
    except UnicodeDecodeError:
        return channel, address


def _classify(recipient: bytes, routing: Routing) -> tuple[Channel, bytes]:
    if b"@" not in recipient:
        recipient += b"@" + routing.default_host
    box, _, domain = recipient.rpartition(b"@")
    while b"%" in box and domain.lower() in routing.percent_hack:
        box, _, domain = box.rpartition(b"%")
        recipient = box + b"@" + domain
    lowered = recipient.rpartition(b"@")[2].lower()  # what came out of the percent hack may hold another @
    if lowered in routing.locals:
        return "local", recipient
    if not routing.virtual:
        return "remote", recipient
    for key in (recipient.lower(), *domain_keys(lowered)):
        prepend = routing.virtual.get(key)
        if prepend is not None:
            return ("local", prepend + b"-" + recipient) if prepend else ("remote", recipient)
    return "remote", recipient


def strip_prepend(address: bytes, virtual: Mapping[bytes, bytes]) -> bytes:
    """The address a sender knows: without the prefix of its virtual domain, for bounces.

    As in the original only domain keys count, not ``box@domain`` ones, and the prefix must match in case.
    """
    domain = address.rpartition(b"@")[2].lower()
    for key in domain_keys(domain):
        prepend = virtual.get(key)
        if prepend is None:
            continue
        if prepend and address.startswith(prepend + b"-"):
            return address[len(prepend) + 1 :]
        return address
    return address


def variable_sender(sender: bytes, recipient: bytes) -> bytes:
    """The sender of one delivery: ``pre@host-@[]`` takes in the recipient as ``preBOX=HOST@host`` (VERP)."""
    if not sender.endswith(b"-@[]"):
        return sender
    pre, at, host = sender[:-4].rpartition(b"@")
    box, recipient_at, recipient_host = recipient.rpartition(b"@")
    if not at or not recipient_at:
        return sender
    return b"%b%b=%b@%b" % (pre, box, recipient_host, host)
