"""The addresses of this machine: what qmail-remote must not connect to, or mail would loop (netdevice(7)).

IPv4 by SIOCGIFCONF and SIOCGIFFLAGS, IPv6 from /proc/net/if_inet6, which lists the interfaces that are up. Beside these
all of 127.0.0.0/8 and 0.0.0.0/8 are this machine, and so is what one would speak to from that very address: IPv4
networks that a routing table calls local.
"""

import array
import fcntl
import socket
import struct
from collections.abc import Callable

from pyqmail.protocol.packed_address import settle_mapped
from pyqmail.system.files import read_file

SIOCGIFCONF = 0x8912
SIOCGIFFLAGS = 0x8913
IFF_UP = 1
_IFREQ = 40 if struct.calcsize("P") == 8 else 32  # sizeof(struct ifreq)
_SCOPE_GLOBAL = b"00"  # the scope column of if_inet6

_DISCARD_PORT = 9

LOOPBACK_NETWORKS = (0, 127)  # first bytes: "this host on this network" and loopback (RFC 6890)
ANY = (bytes(4), bytes(16))  # connecting to the unspecified address reaches this machine too


def local_addresses() -> frozenset[bytes]:
    """Every address of an interface that is up, packed (4 or 16 bytes), and the unspecified ones. Raises OSError."""
    return frozenset((*ANY, *ipv4_addresses(), *(packed for packed, _ in ipv6_entries())))


def own_address() -> Callable[[bytes], bool]:
    """A question for packed addresses: is it this machine that answers there? Raises OSError."""
    listed = local_addresses()

    def is_own(packed: bytes) -> bool:
        settled = settle_mapped(packed)
        here = len(settled) == 4 and settled[0] in LOOPBACK_NETWORKS
        return here or settled in listed or source_address(settled) == settled

    return is_own


def has_global_ipv6() -> bool:
    """Whether an interface has an IPv6 address of global scope, without which AAAA records are of little use."""
    return any(scope == _SCOPE_GLOBAL for _, scope in ipv6_entries())


def source_address(packed: bytes) -> bytes | None:
    """The packed address that this machine would speak to ``packed`` from; None when it has no way there."""
    family = socket.AF_INET if len(packed) == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((socket.inet_ntop(family, packed), _DISCARD_PORT))  # sends nothing
            return socket.inet_pton(family, probe.getsockname()[0].partition("%")[0])
    except OSError:
        return None


def ipv4_addresses() -> list[bytes]:
    """The packed IPv4 addresses of the interfaces that are up. Raises OSError."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        found = []
        for request in _interface_requests(probe):
            (family,) = struct.unpack_from("=H", request, 16)
            if family != socket.AF_INET:
                continue
            try:
                answer = fcntl.ioctl(probe, SIOCGIFFLAGS, request)
            except OSError:
                continue  # it went away between the two calls
            if struct.unpack_from("=H", answer, 16)[0] & IFF_UP:
                found.append(request[20:24])
        return found


def _interface_requests(probe: socket.socket) -> list[bytes]:
    """The ifreq records of SIOCGIFCONF; the buffer grows until the kernel leaves room in it."""
    size = 64 * _IFREQ
    while True:
        buffer = array.array("B", bytes(size))
        answer = fcntl.ioctl(probe, SIOCGIFCONF, struct.pack("iP", size, buffer.buffer_info()[0]))
        (used, _) = struct.unpack("iP", answer)
        if used <= size - _IFREQ:
            data = buffer[:used].tobytes()
            return [data[at : at + _IFREQ] for at in range(0, used, _IFREQ)]
        size *= 2


def parse_if_inet6(data: bytes) -> list[tuple[bytes, bytes]]:
    """(packed address, scope column) of each line of /proc/net/if_inet6."""
    rows = (line.split() for line in data.splitlines())
    return [(bytes.fromhex(row[0].decode("ascii")), row[3]) for row in rows if len(row) >= 4]


def ipv6_entries() -> list[tuple[bytes, bytes]]:
    """(packed address, scope column) of each local IPv6 address; none on a kernel without IPv6. Raises OSError."""
    try:
        return parse_if_inet6(read_file("/proc/net/if_inet6"))
    except FileNotFoundError:
        return []
