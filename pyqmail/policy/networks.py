"""Networks as control files name them: 192.0.2.0/24, 2001:db8::/32, and 192.0.2. as in rules of tcpserver."""

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

Network = IPv4Network | IPv6Network
Address = IPv4Address | IPv6Address


def parse_network(text: bytes) -> Network | None:
    """The network, or None for what is none; an address by itself is none."""
    if text.endswith(b".") and 0 < text.count(b".") < 4:
        dots = text.count(b".")
        text = text + b".".join([b"0"] * (4 - dots)) + b"/%d" % (8 * dots)
    if b"/" not in text:
        return None
    try:
        return ip_network(text.decode("ascii"), strict=False)
    except ValueError:
        return None


def parse_address(text: bytes) -> Address | None:
    """The address, an IPv4 one where it is mapped; None for what is none."""
    try:
        address = ip_address(text.decode("ascii"))
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped:
        return address.ipv4_mapped
    return address


def around(address: Address, bits4: int, bits6: int) -> Network:
    """The network of so many bits that has ``address``."""
    return ip_network((address, bits4 if address.version == 4 else bits6), strict=False)


def find_networks(texts: Iterable[bytes]) -> list[tuple[Network, bytes]]:
    """The networks among ``texts``, each with its text, the smallest first."""
    found = [(network, text) for text in texts if (network := parse_network(text))]
    return sorted(found, key=lambda pair: -pair[0].prefixlen)
