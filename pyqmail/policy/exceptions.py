"""A list of those for whom something does not hold: clients, senders and recipients (qmail-control(5)).

A line is an address or a network, the name of a host or ``.`` and its domain, or an address of mail or ``@`` and its
domain. Others are compared and never meet.
"""

from pyqmail.control import parse_lines
from pyqmail.policy.patterns import address_keys, name_keys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyqmail.policy.networks import Network


class Exceptions:
    """The lines of one list, in any case."""

    def __init__(self, data: bytes) -> None:
        self.complaints: list[tuple[int, bytes, str]] = []
        self._lines = frozenset(line.lower() for line in parse_lines(data))
        self._networks: list[tuple[Network, bytes]] | None = None

    def __contains__(self, text: bytes) -> bool:
        return text.lower() in self._lines

    def has_client(self, ip: bytes, host: bytes) -> bool:
        """Whether a client with that address, and that name or ``unknown``, is listed."""
        if not self._lines:
            return False
        keys = (host.lower(), *name_keys(host)) if host != b"unknown" else ()
        return ip in self._lines or not self._lines.isdisjoint(keys) or self._in_network(ip)

    def has_mail_address(self, address: bytes) -> bool:
        """Whether a sender or recipient is listed."""
        return address in self or any(key in self._lines for key in address_keys(address))

    def _in_network(self, ip: bytes) -> bool:
        from pyqmail.policy.networks import find_networks, parse_address  # they take their time to import

        if self._networks is None:
            self._networks = find_networks(self._lines)
        address = parse_address(ip) if self._networks else None
        return address is not None and any(address in network for network, _ in self._networks)
