"""The socket that tcpserver listens on: the words of its command line made an address and a port."""

import os
import socket
from collections.abc import Iterator

from pyqmail.stream.descriptors import turn_of
from pyqmail.stream.standard import Standard, limit
from pyqmail.tcp.command_line import Options
from pyqmail.tcp.connection_server import reason


class Fatal(Exception):
    """The server cannot start."""


def _number(value: bytes) -> int:
    """The leading digits, 0 without any, as scan_ulong reads them."""
    digits = value[: len(value) - len(value.lstrip(b"0123456789"))]
    return int(digits[:9]) if digits else 0


def port_number(text: bytes) -> int:
    """The port: a number, or the name of a service. Raises Fatal."""
    if text[:1].isdigit():
        return min(_number(text), 65535)
    try:
        return socket.getservbyname(text.decode("latin-1"), "tcp")
    except (OSError, ValueError) as error:
        raise Fatal(f"unable to figure out port number for {os.fsdecode(text)}") from error


def addresses(host: bytes) -> Iterator[tuple[socket.AddressFamily, str]]:
    """What to bind to, best first."""
    if host in (b"", b"0"):
        yield socket.AF_INET, "0.0.0.0"
        return
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, ValueError) as error:
        raise Fatal(f"no IP address for {os.fsdecode(host)}") from error
    for family, _, _, _, sockaddr in found:
        yield family, str(sockaddr[0])


def listening_socket(options: Options) -> socket.socket:
    """Bound and listening; what it accepts has the limits of this process's clients. Raises Fatal."""
    port = port_number(options.port)
    family, ip = next(addresses(options.host))
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    try:
        if Standard.limit_s is not None:
            limit(listener, turn_of(Standard.limit_s))
        listener.bind((ip, port))
        listener.listen(options.backlog)
    except OSError as error:
        raise Fatal(f"unable to bind: {reason(error)}") from error
    return listener
