"""What the network says about the other end of a connection: its name by DNS, its user by IDENT (RFC 1413)."""

import _socket
import os
import select
import socket
import time
from collections.abc import Mapping

from pyqmail.control import Control, ControlUnreadable, home_of
from pyqmail.protocol.dns import Kind
from pyqmail.protocol.packed_address import settle_mapped
from pyqmail.resolver import BUDGET_S, HardFailure, Resolver, Servers, SoftFailure, parse_server, read_servers

IDENT_PORT = 113
ANSWER_MAX = 1000

__all__ = ["HardFailure", "Kind", "SoftFailure", "ident_user", "name_of", "packed", "resolver", "reversed_labels"]


def resolver(environ: Mapping[bytes, bytes], budget_s: float = BUDGET_S) -> Resolver:
    """A resolver that asks the servers in $DNSCACHEIP, else those that mail is routed by, for ``budget_s`` seconds.

    Raises SoftFailure."""
    given = environ.get(b"DNSCACHEIP", b"").split()
    try:
        if given:
            return Resolver(Servers(tuple(parse_server(server) for server in given)), budget_s)
        return Resolver(read_servers(Control(home_of(environ))), budget_s)
    except (OSError, ValueError, ControlUnreadable) as error:
        raise SoftFailure(str(error)) from error


def packed(ip: str) -> bytes:
    """The 4 or 16 bytes of an address as text; an IPv4 address in IPv6 clothes has 4. Raises OSError and ValueError."""
    return settle_mapped(socket.inet_pton(socket.AF_INET6 if ":" in ip else socket.AF_INET, ip))


def reversed_labels(address: bytes) -> bytes:
    """A packed address as the labels that name it in DNS, the last byte (IPv6: half byte) first (RFC 5782)."""
    if len(address) == 4:
        return b".".join(b"%d" % byte for byte in reversed(address))
    return b".".join(b"%x.%x" % (byte & 15, byte >> 4) for byte in reversed(address))


def name_of(ip: str, environ: Mapping[bytes, bytes], *, paranoid: bool = False) -> bytes | None:
    r"""The lower-cased PTR name of ``ip``; None without one, or when ``paranoid`` and it does not lead back.

    As in ucspi-tcp, bytes that no host name has are spelled ``\ooo``, and rules have to name them so.
    The servers to ask come from ``environ``. Raises SoftFailure when nobody could say.
    """
    try:
        address = packed(ip)
        asking = resolver(environ)
        zone = b".in-addr.arpa" if len(address) == 4 else b".ip6.arpa"
        (found,) = asking.look_up([(reversed_labels(address) + zone, Kind.PTR)])
        if isinstance(found, HardFailure):
            return None
        if isinstance(found, SoftFailure):
            raise found
        name = found.names[0] if found.names else b""
        if name and paranoid and address not in asking.addresses(name, Kind.A if len(address) == 4 else Kind.AAAA):
            return None
    except HardFailure:
        return None
    except (OSError, ValueError) as error:
        raise SoftFailure(str(error)) from error
    return name or None


def ident_user(connection: _socket.socket, timeout_s: float) -> bytes | None:
    """The user that the client's IDENT server names, without blanks; None when it names nobody in time."""
    deadline = time.monotonic() + timeout_s
    local, remote = connection.getsockname(), connection.getpeername()
    answer = b""
    with socket.socket(connection.family, socket.SOCK_STREAM) as asking:
        try:
            asking.settimeout(max(0.01, timeout_s))
            asking.bind((local[0], 0, *local[2:]))
            asking.connect((remote[0], IDENT_PORT, *remote[2:]))
            asking.sendall(b"%d , %d\r\n" % (remote[1], local[1]))
            while b"\n" not in answer and len(answer) < ANSWER_MAX:
                left = deadline - time.monotonic()
                if left <= 0 or not select.select([asking], [], [], left)[0]:
                    return None
                data = os.read(asking.fileno(), ANSWER_MAX)
                if not data:
                    break
                answer += data
        except OSError:
            return None
    parts = answer.partition(b"\n")[0].split(b":", 3)
    user = parts[3].partition(b"\0")[0].translate(None, b" \t\r") if len(parts) == 4 else b""
    return user or None
