"""DNS over sockets: MX and address look-ups against the servers of resolv.conf(5) or control/dnsservers.

How one question is asked, until somebody gives a conclusive answer (NOERROR or NXDOMAIN, but no referral):

    round 1     each server by UDP with EDNS; FORMERR, NOTIMP, SERVFAIL: at once again without
    round 2...  each server by UDP without EDNS (at least one such round: some drop what they do not know)
    TC set      the partial records are ignored and the same question goes by TCP to that server, then the others

Questions that do not depend on each other are asked at the same time. Each wait is bounded, and so are all waits of one
delivery together (the budget). Failures are types: HardFailure means the name or the data does not exist, SoftFailure
that nobody could say.
"""

import errno
import os
import select
import socket
import time
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass

from pyqmail.control import Control, ControlUnreadable
from pyqmail.protocol import dns
from pyqmail.protocol.dns import Answer, BadAnswer, BadName, Code, Kind, Mx, Name

RESOLV_CONF = "/etc/resolv.conf"
DNS_PORT = 53
SERVERS_MAX = 3  # as in the C library
TIMEOUT_S = 5.0  # resolv.conf(5)
ATTEMPTS = 2  # resolv.conf(5)
BUDGET_S = 60.0  # for all questions of one resolver: an MX set can name thousands of silent hosts
PATIENCE_MIN_S = 0.3  # with a server, however little of the budget is left
TOGETHER_MAX = 32  # questions on their way at once
UDP_MAX = 65535

Server = tuple[str, int]


class HardFailure(Exception):
    """There is no such name, or it has no data of this type; ``no_name`` when no type can have any.

    ``authentic``: the server vouches for that (AD). ``ttl_s``: how long it may be remembered.
    """

    def __init__(self, text: str, *, no_name: bool = False, authentic: bool = False, ttl_s: int = 0) -> None:
        super().__init__(text)
        self.no_name = no_name
        self.authentic = authentic
        self.ttl_s = ttl_s


class SoftFailure(Exception):
    """No server gave a conclusive answer; a later attempt may get one."""


Found = Answer | HardFailure | SoftFailure


@dataclass(frozen=True, slots=True)
class Servers:
    """Whom to ask, how often, and how long to wait for each attempt, in seconds."""

    servers: tuple[Server, ...] = (("127.0.0.1", DNS_PORT),)
    timeout_s: float = TIMEOUT_S
    attempts: int = ATTEMPTS


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
    """The look-ups of one delivery through one set of servers; no answer is remembered here.

    ``budget_s`` bounds the seconds spent waiting, in all calls together. With ``dnssec`` every query has the DO bit, so
    that answers say whether they are authentic, and is never repeated without EDNS.
    """

    def __init__(self, servers: Servers, budget_s: float = BUDGET_S, *, dnssec: bool = False) -> None:
        self._dnssec = dnssec
        self._servers = servers
        self._left_s = budget_s

    def mx(self, host: bytes) -> tuple[Mx, ...]:
        """The MX records of ``host``, null ones included. Raises HardFailure, also without any, and SoftFailure."""
        (found,) = self.look_up([(host, Kind.MX)])
        if isinstance(found, Exception):
            raise found
        if not found.mx:
            raise HardFailure("no MX records")
        return found.mx

    def addresses(self, host: bytes, kind: Kind) -> tuple[bytes, ...]:
        """The packed A or AAAA addresses of ``host``, in the order received. Raises HardFailure and SoftFailure.

        Empty when the answer has records, but none of them (a CNAME that leads nowhere).
        """
        (found,) = self.look_up([(host, kind)])
        if isinstance(found, Exception):
            raise found
        return found.addresses

    def look_up(self, questions: Sequence[tuple[bytes, Kind]]) -> list[Found]:
        """What each question found, asked together: a NOERROR answer with at least one record, or its failure.

        Raises OSError when there is no socket to ask with.
        """
        found: list[Found] = [SoftFailure("not asked")] * len(questions)
        start = time.monotonic()
        fair_s = max(self._left_s / (2 * len(self._servers.servers)), PATIENCE_MIN_S)  # each has its turn in the budget
        crew = _Crew(start + self._left_s, min(self._servers.timeout_s, fair_s))
        for place, (host, kind) in enumerate(questions):
            try:
                name = dns.parse_host(host)
            except BadName:
                found[place] = HardFailure("not a host name", no_name=True)
                continue
            crew.add(place, _settle(name, kind, self._servers, dnssec=self._dnssec))
        for place, answer in crew.run():
            found[place] = answer if isinstance(answer, SoftFailure) else _judge(answer)
        self._left_s = max(0.0, self._left_s - (time.monotonic() - start))
        return found


def _judge(answer: Answer) -> Found:
    if answer.code == Code.NXDOMAIN:
        return HardFailure("no such name", no_name=True, authentic=answer.authentic, ttl_s=answer.ttl_s)
    return answer if answer.count else HardFailure("no data", authentic=answer.authentic, ttl_s=answer.ttl_s)


@dataclass(frozen=True, slots=True)
class _Ask:
    """One attempt: this query to this server."""

    server: Server
    query: bytes
    stream: bool = False


_Script = Generator[_Ask, bytes | None, Answer]  # is sent the reply to each attempt, None when there was none in time


def _settle(name: Name, kind: Kind, servers: Servers, *, dnssec: bool) -> _Script:
    """The attempts of one question, and the first conclusive answer. Raises SoftFailure."""
    for attempt in range(max(servers.attempts, 2)):
        for server in servers.servers:
            edns = dnssec or attempt == 0
            answer = _parsed((yield _Ask(server, _query(name, kind, edns=edns, dnssec=dnssec))), kind)
            if answer and edns and not dnssec and answer.code in (Code.FORMERR, Code.NOTIMP, Code.SERVFAIL):
                edns = False
                answer = _parsed((yield _Ask(server, _query(name, kind, edns=edns, dnssec=False))), kind)
            if answer and answer.truncated:
                return (yield from _settle_by_stream(name, kind, servers, server, edns=edns, dnssec=dnssec))
            if answer and answer.code in (Code.NOERROR, Code.NXDOMAIN) and not answer.lame:
                return answer
    raise SoftFailure("no conclusive answer")


def _settle_by_stream(name: Name, kind: Kind, servers: Servers, first: Server, *, edns: bool, dnssec: bool) -> _Script:
    """The whole of an answer that UDP cut short. Truncated once more, it is taken as it is. Raises SoftFailure."""
    for server in (first, *(server for server in servers.servers if server != first)):
        wire = yield _Ask(server, _query(name, kind, edns=edns, dnssec=dnssec), stream=True)
        try:
            answer = None if wire is None else dns.parse_answer(wire, kind)
        except BadAnswer:
            continue
        if answer and answer.code in (Code.NOERROR, Code.NXDOMAIN):
            return answer
    raise SoftFailure("truncated, and no answer over TCP")


def _query(name: Name, kind: Kind, *, edns: bool, dnssec: bool) -> bytes:
    return dns.format_query(name, kind, number=int.from_bytes(os.urandom(2), "big"), edns=edns, dnssec=dnssec)


def _parsed(wire: bytes | None, kind: Kind) -> Answer | None:
    """What a datagram says; None for no datagram or a malformed one. No records when truncated."""
    if wire is None:
        return None
    if dns.truncated(wire):
        return Answer(Code.NOERROR, truncated=True, count=0)
    try:
        return dns.parse_answer(wire, kind)
    except BadAnswer:
        return None


class _Datagram:
    """One datagram there, and the one that answers it; others are not believed."""

    def __init__(self, ask: _Ask, until: float) -> None:
        self.until = until
        self.events = select.POLLIN
        self.reply: bytes | None = None
        self._query = ask.query
        self.line = socket.socket(_family(ask.server[0]), socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            self.line.connect(ask.server)
            self.line.send(ask.query)
        except OSError:
            self.until = 0.0  # no way there: the wait is over at once

    def ready(self) -> bool:
        """Whether the wait is over. Raises OSError."""
        wire = self.line.recv(UDP_MAX)
        if dns.answers(wire, self._query):
            self.reply = wire
        return self.reply is not None


class _Stream:
    """The same over TCP, in steps that never block: the C library would wait without end."""

    def __init__(self, ask: _Ask, until: float) -> None:
        self.until = until
        self.events = select.POLLOUT
        self.reply: bytes | None = None
        self._query = ask.query
        self._unsent = len(ask.query).to_bytes(2, "big") + ask.query
        self._data = b""
        self.line = socket.socket(_family(ask.server[0]), socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            self.line.connect(ask.server)
        except BlockingIOError:
            pass
        except OSError:
            self.until = 0.0

    def ready(self) -> bool:
        """Whether the wait is over. Raises OSError."""
        if self._unsent:
            self._unsent = self._unsent[self.line.send(self._unsent) :]
            self.events = select.POLLOUT if self._unsent else select.POLLIN
            return False
        piece = self.line.recv(UDP_MAX + 2)
        self._data += piece
        size = 2 + int.from_bytes(self._data[:2], "big") if len(self._data) >= 2 else UDP_MAX
        if len(self._data) < size:
            return not piece
        wire = self._data[2:size]
        self.reply = wire if dns.answers(wire, self._query) else None
        return True


_Placed = tuple[int, Answer | SoftFailure]


class _Crew:
    """Questions on their way together, at most TOGETHER_MAX; ``until`` is the end of all waiting (monotonic)."""

    def __init__(self, until: float, timeout_s: float) -> None:
        self._until = until
        self._timeout_s = timeout_s
        self._waiting: deque[tuple[int, _Script]] = deque()
        self._lines: dict[int, tuple[int, _Script, _Datagram | _Stream]] = {}
        self._poll = select.poll()

    def add(self, place: int, script: _Script) -> None:
        """One more question, known by its place."""
        self._waiting.append((place, script))

    def run(self) -> Iterator[_Placed]:
        """Place and answer of each question, as they come. Raises OSError; no socket is left open."""
        try:
            while self._waiting or self._lines:
                while self._waiting and len(self._lines) < TOGETHER_MAX:
                    yield from self._advance(*self._waiting.popleft(), reply=None)
                yield from self._wait()
        finally:
            for _, _, line in self._lines.values():
                line.line.close()

    def _advance(self, place: int, script: _Script, *, reply: bytes | None) -> Iterator[_Placed]:
        """Give a script its reply, and make its next attempt or yield its answer."""
        while True:
            try:
                ask = script.send(reply)
                if time.monotonic() >= self._until:
                    raise SoftFailure("no time left")
            except StopIteration as end:
                yield place, end.value
                return
            except SoftFailure as failure:
                yield place, failure
                return
            until = min(self._until, time.monotonic() + self._timeout_s)
            try:
                line = _Stream(ask, until) if ask.stream else _Datagram(ask, until)
            except OSError as error:
                if error.errno != errno.EAFNOSUPPORT:
                    raise
                reply = None  # a server of a family that this machine has not
                continue
            self._lines[line.line.fileno()] = place, script, line
            self._poll.register(line.line.fileno(), line.events)
            return

    def _wait(self) -> Iterator[_Placed]:
        if not self._lines:
            return
        wait_s = min(line.until for _, _, line in self._lines.values()) - time.monotonic()
        ready = {fd for fd, _ in self._poll.poll(max(0.0, wait_s) * 1000 + 1)}
        now = time.monotonic()
        for fd, (place, script, line) in list(self._lines.items()):
            over = now >= line.until
            if fd in ready:
                try:
                    over = line.ready() or over
                    self._poll.modify(fd, line.events)
                except BlockingIOError:
                    pass
                except OSError:
                    over = True
            if over:
                self._poll.unregister(fd)
                del self._lines[fd]
                line.line.close()
                yield from self._advance(place, script, reply=line.reply)
