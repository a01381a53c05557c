"""From which of our addresses a delivery goes out, and by which name it says hello (qmail-remote(8)).

    domainbindings   SENDER:ADDRESSES or DOMAIN:ADDRESSES, by the envelope sender
    outgoingip       ADDRESSES for everybody else
    helohostbyip     ADDRESS:NAME

ADDRESSES are one of IPv4, one of IPv6, or both with a blank between them; a family without one is the kernel's choice.
"""

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass

from pyqmail.control import Control, ControlUnreadable

Pair = tuple[str, str]  # of IPv4 and of IPv6, each empty where there is none
FILES = ("outgoingip", "domainbindings", "helohostbyip")


@dataclass(frozen=True, slots=True)
class Sources:
    """What the files say; ``names`` is by address."""

    everybody: Pair = ("", "")
    bindings: Mapping[bytes, Pair] | None = None
    names: Mapping[str, bytes] | None = None

    def of(self, sender: bytes, packed: bytes) -> str:
        """The address for mail of ``sender`` to the exchanger at ``packed``; empty: the kernel's choice."""
        pair = self.everybody
        if self.bindings:
            domain = sender.rpartition(b"@")[2].lower()
            pair = self.bindings.get(sender.lower()) or self.bindings.get(domain) or pair
        return pair[len(packed) == 16]

    def name_of(self, address: str) -> bytes:
        """The name for HELO and EHLO of an address; empty: helohost."""
        return self.names.get(address, b"") if self.names and address else b""


NONE = Sources()


def read_sources(control: Control) -> Sources:
    """What the control files say. Raises ControlUnreadable, for a line that names no address too: mail waits."""
    line, bindings, names = (
        control.line("outgoingip"),
        control.mapping("domainbindings"),
        control.mapping("helohostbyip"),
    )
    if line is None and bindings is None and names is None:
        return NONE
    return Sources(
        parse_pair(line, "outgoingip") if line else ("", ""),
        {key.lower(): parse_pair(value, "domainbindings") for key, value in (bindings or {}).items()},
        {_address(key, "helohostbyip").compressed: value for key, value in _by_address(names or {}).items()},
    )


def parse_pair(value: bytes, name: str) -> Pair:
    """The addresses in ``value``, at most one of a family. Raises ControlUnreadable."""
    found = ["", ""]
    for word in value.split():
        address = _address(word, name)
        if found[address.version == 6]:
            raise ControlUnreadable(f"control/{name}: two addresses of one family")
        found[address.version == 6] = address.compressed
    return found[0], found[1]


def _by_address(names: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
    """The lines again, since the first colon may be one of an IPv6 address."""
    whole = [key + b":" + value for key, value in names.items()]
    return {address: name for address, _, name in (line.rpartition(b":") for line in whole)}


def _address(word: bytes, name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    try:
        return ipaddress.ip_address(word.strip().decode("ascii"))
    except ValueError:
        raise ControlUnreadable(f"control/{name}: a line has no address") from None
