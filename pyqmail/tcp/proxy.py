"""Connections through a proxy: who may send a PROXY header, and reading it in time (tcpserver(1), -y).

The kernel's address is looked for in control/proxyhosts before a byte is read. What the header says is the client from
then on, for limits, names, rules, log and program; only IDENT is not asked, since it would ask the wrong host.
"""

import _socket
import ipaddress
import time
from dataclasses import dataclass
from functools import lru_cache

from pyqmail.control import Control, ControlUnreadable
from pyqmail.protocol.proxy import Header, HeaderReader, NoHeader
from pyqmail.tcp.admission import Dropped, Ends, Unannounced, plain_address

HEADER_S = 3.0  # from the connection to the end of its header

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class Hosts:
    """The proxies of control/proxyhosts; ``faults`` are lines that name no address."""

    networks: tuple[Network, ...]
    faults: tuple[bytes, ...] = ()

    def have(self, ip: str) -> bool:
        """Whether ``ip`` is a proxy."""
        address = ipaddress.ip_address(plain_address(ip))
        return any(address in network for network in self.networks)


@lru_cache(maxsize=4)  # each connection asks for the same
def parse_hosts(lines: tuple[bytes, ...]) -> Hosts:
    """Addresses and networks (``10.0.0.0/8``, ``2001:db8::/32``), one to a line."""
    networks: list[Network] = []
    faults = []
    for line in lines:
        try:
            networks.append(ipaddress.ip_network(line.decode("ascii"), strict=False))
        except ValueError:
            faults.append(line)
    return Hosts(tuple(networks), tuple(faults))


class ProxyDoor:
    """Finds out whose connection it is, on a port that has been marked."""

    def __init__(self, home: str) -> None:
        self._control = Control(home)

    def ends(self, connection: _socket.socket, peer: tuple[str, int]) -> Ends:
        """Both ends by the header. Raises Dropped, Unannounced and OSError.

        LOCAL, UNKNOWN and the proxy's own address are a check of its own: the proxy's ends, without privilege and line.
        """
        try:
            hosts = parse_hosts(self._control.lines("proxyhosts") or ())
        except ControlUnreadable as error:
            raise Dropped(f"unable to read {error}") from error
        if not hosts.have(peer[0]):
            raise Dropped(f"{plain_address(peer[0])} is not in control/proxyhosts")
        header = read_header(connection)
        own = plain_address(peer[0])
        if header.source is None or header.destination is None or plain_address(header.source[0]) == own:
            local = connection.getsockname()
            return Ends((plain_address(local[0]), local[1]), (own, peer[1]), proxied=True, check=True)
        (source, port), (destination, local_port) = header.source, header.destination
        return Ends((plain_address(destination), local_port), (plain_address(source), port), proxied=True)


def plain(end: tuple[str, int]) -> tuple[str, int]:
    """An end with its address as tcpserver names it."""
    return plain_address(end[0]), end[1]


def read_header(connection: _socket.socket, limit_s: float = HEADER_S) -> Header:
    """Read the header and not a byte more. Raises Dropped, Unannounced and OSError."""
    reader = HeaderReader()
    deadline = time.monotonic() + limit_s
    begun = False
    try:
        while reader.header is None:
            connection.settimeout(max(0.001, deadline - time.monotonic()))
            data = connection.recv(min(reader.wanted, 65536))
            if not data:
                raise Dropped("it ended within its PROXY header") if begun else Unannounced
            begun = True
            reader.feed(data)
        return reader.header
    except TimeoutError:
        raise Dropped("no PROXY header in time") from None
    except NoHeader as error:
        raise Dropped(str(error)) from None
    except ConnectionError:
        raise Dropped("it was cut within its PROXY header") if begun else Unannounced from None
    finally:
        connection.settimeout(None)
