"""DNS over sockets: MX and address look-ups against the servers of resolv.conf(5) or control/dnsservers.

How one question is asked, until somebody gives a conclusive answer (NOERROR or NXDOMAIN):

    round 1     each server by UDP with EDNS; FORMERR, NOTIMP, SERVFAIL: at once again without
    round 2...  each server by UDP without EDNS (at least one such round: some drop what they do not know)
    TC set      the partial records are ignored and the same question goes by TCP to that server, then the others

Each wait is bounded, and so are one question (`Servers.total_s`) and one delivery (`DELIVERY_S`). Failures are types:
HardFailure means the name or the data does not exist, SoftFailure that nobody could say.
"""

import os
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass

from pyqmail.control import Control, ControlUnreadable
from pyqmail.protocol import dns
from pyqmail.protocol.dns import Answer, BadAnswer, BadName, Code, Kind, Mx

RESOLV_CONF = "/etc/resolv.conf"
DNS_PORT = 53
SERVERS_MAX = 3  # as in the C library
TIMEOUT_S = 5.0  # resolv.conf(5)
ATTEMPTS = 2  # resolv.conf(5)
TOTAL_S = 60.0  # for one question, whatever the settings multiply to
DELIVERY_S = 300.0  # for all questions of one resolver: an MX set can name thousands of silent hosts
UDP_MAX = 65535

Server = tuple[str, int]


class HardFailure(Exception):
    """There is no such name, or it has no data of this type; ``no_name`` when no type can have any."""

    def __init__(self, text: str, *, no_name: bool = False) -> None:
        super().__init__(text)
        self.no_name = no_name


class SoftFailure(Exception):
    """No server gave a conclusive answer; a later attempt may get one."""


@dataclass(frozen=True, slots=True)
class Servers:
    """Whom to ask and how long to wait, in seconds per attempt and for one question as a whole."""

    servers: tuple[Server, ...] = (("127.0.0.1", DNS_PORT),)
    timeout_s: float = TIMEOUT_S
    attempts: int = ATTEMPTS
    total_s: float = TOTAL_S


def parse_server(text: bytes) -> Server:
    """``ADDRESS``, ``ADDRESS:PORT``, ``ADDRESS#PORT`` or ``[ADDRESS]:PORT``. Raises ValueError."""
    host, hash_, port = text.partition(b"#")
    if not hash_:
        if text[:1] == b"[":
            host, _, port = text.partition(b"]:")
            host = host.removesuffix(b"]")
        elif text.count(b":") == 1:
            host, _, port = text.partition(b":")
    address = host.removeprefix(b"[").removesuffix(b"]").decode("ascii")
    socket.inet_pton(_family(address), address.partition("%")[0])
    number = int(port) if port else DNS_PORT
    if not 0 < number < 65536:
        raise ValueError(port)
    return address, number


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def parse_resolv_conf(data: bytes) -> Servers:
    """The nameserver lines and the timeout and attempts options; what is malformed is passed over."""
    servers: list[Server] = []
    timeout_s, attempts = TIMEOUT_S, ATTEMPTS
    for line in data.splitlines():
        words = line.split()
        if len(words) < 2:
            continue
        if words[0] == b"nameserver" and len(servers) < SERVERS_MAX:
            try:
                servers.append(parse_server(words[1] + b"#%d" % DNS_PORT))
            except (OSError, ValueError):
                continue
        if words[0] == b"options":
            for option in words[1:]:
                name, _, value = option.partition(b":")
                if name == b"timeout" and value.isdigit():
                    timeout_s = float(min(max(int(value), 1), 30))
                if name == b"attempts" and value.isdigit():
                    attempts = min(max(int(value), 1), 5)
    return Servers(tuple(servers) or Servers().servers, timeout_s, attempts)


def read_servers(control: Control, resolv_conf: str = RESOLV_CONF) -> Servers:
    """Whom to ask: control/dnsservers in place of the nameservers of resolv.conf. Raises ControlUnreadable."""
    try:
        with open(resolv_conf, "rb") as file:
            system = parse_resolv_conf(file.read())
    except OSError:
        system = Servers()
    lines = control.lines("dnsservers")
    if not lines:
        return system
    try:
        servers = tuple(parse_server(line.strip()) for line in lines)
    except (OSError, ValueError) as error:
        raise ControlUnreadable(f"control/dnsservers: {error}") from error
    return Servers(servers, system.timeout_s, system.attempts)


class Resolver:
    """The look-ups of one delivery through one set of servers; no answer is remembered."""

    def __init__(self, servers: Servers) -> None:
        self._servers = servers
        self._deadline = time.monotonic() + DELIVERY_S

    def mx(self, host: bytes) -> tuple[Mx, ...]:
        """The MX records of ``host``, null ones included. Raises HardFailure, also without any, and SoftFailure."""
        records = self._ask(host, Kind.MX).mx
        if not records:
            raise HardFailure("no MX records")
        return records

    def addresses(self, host: bytes, kind: Kind) -> tuple[bytes, ...]:
        """The packed A or AAAA addresses of ``host``, in the order received. Raises HardFailure and SoftFailure.

        Empty when the answer has records, but none of them (a CNAME that leads nowhere).
        """
        return self._ask(host, kind).addresses

    def _ask(self, host: bytes, kind: Kind) -> Answer:
        """A NOERROR answer with at least one record. Raises HardFailure and SoftFailure."""
        try:
            question = _Question(host, kind, self._servers, self._deadline)
        except BadName as error:
            raise HardFailure("not a host name", no_name=True) from error
        answer = question.settle()
        if answer.code == Code.NXDOMAIN:
            raise HardFailure("no such name", no_name=True)
        if answer.count == 0:
            raise HardFailure("no data")
        return answer


class _Question:
    """One question on its way to an answer."""

    def __init__(self, host: bytes, kind: Kind, servers: Servers, deadline: float) -> None:
        self._name = dns.parse_host(host)
        self._kind = kind
        self._servers = servers
        self._deadline = min(deadline, time.monotonic() + servers.total_s)

    def settle(self) -> Answer:
        """The first conclusive answer. Raises SoftFailure."""
        for server, edns in self._plan():
            if time.monotonic() >= self._deadline:
                break
            answer = self._attempt(server, edns=edns)
            if answer and edns and answer.code in (Code.FORMERR, Code.NOTIMP, Code.SERVFAIL):
                edns = False
                answer = self._attempt(server, edns=edns)
            if answer and answer.truncated:
                return self._settle_by_stream(server, edns=edns)
            if answer and answer.code in (Code.NOERROR, Code.NXDOMAIN):
                return answer
        raise SoftFailure("no conclusive answer")

    def _plan(self) -> Iterator[tuple[Server, bool]]:
        for attempt in range(max(self._servers.attempts, 2)):
            for server in self._servers.servers:
                yield server, attempt == 0

    def _settle_by_stream(self, first: Server, *, edns: bool) -> Answer:
        """The whole of an answer that UDP cut short. Truncated once more, it is taken as it is. Raises SoftFailure."""
        others = (server for server in self._servers.servers if server != first)
        for server in (first, *others):
            if time.monotonic() >= self._deadline:
                break
            try:
                wire = self._exchange_by_stream(server, self._query(edns=edns))
                answer = dns.parse_answer(wire, self._kind)
            except (OSError, BadAnswer):
                continue
            if answer.code in (Code.NOERROR, Code.NXDOMAIN):
                return answer
        raise SoftFailure("truncated, and no answer over TCP")

    def _query(self, *, edns: bool) -> bytes:
        number = int.from_bytes(os.urandom(2), "big")
        return dns.format_query(self._name, self._kind, number=number, edns=edns)

    def _attempt(self, server: Server, *, edns: bool) -> Answer | None:
        """What ``server`` answers by UDP; None for no answer or a malformed one. No records when truncated."""
        try:
            wire = self._exchange(server, self._query(edns=edns))
            if dns.truncated(wire):
                return Answer(Code.NOERROR, truncated=True, count=0)
            return dns.parse_answer(wire, self._kind)
        except (OSError, BadAnswer):
            return None

    def _until(self) -> float:
        return min(self._deadline, time.monotonic() + self._servers.timeout_s)

    def _exchange(self, server: Server, query: bytes) -> bytes:
        """One datagram there and the one that answers it. Raises OSError, a TimeoutError included."""
        until = self._until()
        with socket.socket(_family(server[0]), socket.SOCK_DGRAM) as line:
            line.connect(server)
            line.send(query)
            while True:
                line.settimeout(_remaining(until))
                wire = line.recv(UDP_MAX)
                if dns.answers(wire, query):
                    return wire

    def _exchange_by_stream(self, server: Server, query: bytes) -> bytes:
        """The same over TCP, where the C library would wait without end. Raises OSError."""
        until = self._until()
        with socket.socket(_family(server[0]), socket.SOCK_STREAM) as line:
            line.settimeout(_remaining(until))
            line.connect(server)
            line.sendall(len(query).to_bytes(2, "big") + query)
            size = int.from_bytes(_receive_exactly(line, 2, until), "big")
            wire = _receive_exactly(line, size, until)
        if not dns.answers(wire, query):
            raise ConnectionError("not the answer to this question")
        return wire


def _remaining(until: float) -> float:
    """The seconds left. Raises TimeoutError when there are none."""
    left = until - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _receive_exactly(line: socket.socket, size: int, until: float) -> bytes:
    data = b""
    while len(data) < size:
        line.settimeout(_remaining(until))
        piece = line.recv(size - len(data))
        if not piece:
            raise ConnectionError("closed early")
        data += piece
    return data
