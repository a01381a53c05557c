"""Recipients of domains that end in LMTP: their server is asked by RCPT, so that no bounce is made for strangers.

The route is that of control/smtproutes. Only a server that says 550, 551 or 553 refuses, and not where that is for
another reason than the address (RFC 3463 section 3.2); one that cannot be asked, or not in clear, refuses nobody.
Answers are kept in the process for a while.
"""

import socket
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import ClassVar

from pyqmail.control import ControlUnreadable, parse_mapping
from pyqmail.incoming.check import Check, Rules, Verdict
from pyqmail.incoming.client import Client
from pyqmail.incoming.letter import Letter
from pyqmail.incoming.refusals import NOBODY
from pyqmail.policy.interfaces import has_global_ipv6
from pyqmail.protocol.dns import format_address, parse_literal
from pyqmail.protocol.smtp_replies import Reply, ReplyReader
from pyqmail.protocol.smtp_transaction import carriable, format_path
from pyqmail.remote.exchangers import Exchangers, NoExchanger
from pyqmail.remote.routes import LMTP, Route, find_route
from pyqmail.resolver import HardFailure, Resolver, SoftFailure, read_servers

ANSWER_S = 5.0  # for a look-up, for a connection, and for a conversation
ANSWER_BYTES_MAX = 65_536  # of one answer
KEPT_S = {True: 600.0, False: 60.0}  # that a recipient is known to exist, or not to
KEPT_MAX = 10_000
AWAY_S = 60.0  # that a server is not asked after it gave no answer
_REFUSALS = (550, 551, 553)


def parse_routes(data: bytes) -> dict[bytes, bytes]:
    """The routes of control/smtproutes if some lead to LMTP, else none."""
    routes = parse_mapping(data)
    return routes if any(b"/lmtp" in value.lower() for value in routes.values()) else {}


class Answers:
    """What servers said lately of recipients, an empty one for themselves. The clock is monotonic."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._known: OrderedDict[tuple[Route, bytes], tuple[bool, float]] = OrderedDict()

    def get(self, route: Route, recipient: bytes) -> bool | None:
        """Whether ``recipient`` exists; None where that is not known, or not any more."""
        exists, until = self._known.get((route, recipient), (False, 0.0))
        return exists if self._clock() < until else None

    def put(self, route: Route, recipient: bytes, *, exists: bool, kept_s: float) -> None:
        """Know it for ``kept_s`` seconds."""
        self._known.pop((route, recipient), None)
        self._known[route, recipient] = exists, self._clock() + kept_s
        if len(self._known) > KEPT_MAX:
            self._known.popitem(last=False)


class LmtpRecipient(Check):
    """A recipient behind a route to LMTP that its server does not know; relay clients are not asked about.

    Nobody is asked where control/rcptcheck says who decides, or a filter may give the message another recipient.
    """

    name = "lmtp"
    answers: ClassVar[Answers] = Answers()

    def __init__(self, rules: Rules) -> None:
        self._control = rules.control
        self._routes: Mapping[bytes, bytes] = {}
        self._secured = False  # servers may have to be asked under TLS
        self.active = False
        try:
            self._routes = rules.site.made("smtproutes", parse_routes) or {}
            if not self._routes or b"QMAILQUEUE" in rules.environ or self._control.line("rcptcheck"):
                return
            self._secured = bool(self._control.mapping("tlsdestinations"))
            self.active = True
        except ControlUnreadable:
            return  # smtproutes may have passwords, which are not ours to read

    def recipient(self, client: Client, letter: Letter, address: bytes) -> Verdict | None:
        route = self.route_of(address) if client.relay is None and carriable(address) else None
        return None if route is None or self._exists(route, address) else Verdict(NOBODY)

    def route_of(self, address: bytes) -> Route | None:
        """The route of ``address`` whose server can be asked; None where there is none."""
        route = find_route(self._routes, address.rpartition(b"@")[2])
        if route is None or LMTP not in route.options or route.login is not None:
            return None
        return None if self._secured and not route.socket else route

    def _exists(self, route: Route, address: bytes) -> bool:
        known = self.answers.get(route, address)
        if known is not None:
            return known
        if self.answers.get(route, b""):  # it gave no answer a moment ago
            return True
        try:
            exists = ask(self._connect(route), address)
        except (OSError, HardFailure, SoftFailure, NoExchanger, ControlUnreadable):
            self.answers.put(route, b"", exists=True, kept_s=AWAY_S)
            return True
        self.answers.put(route, address, exists=exists, kept_s=KEPT_S[exists])
        return exists

    def _connect(self, route: Route) -> socket.socket:
        """A connection to the server, found as qmail-remote finds it. Raises as the look-up does, and OSError."""
        if route.socket:
            return connect(route.socket)
        literal = parse_literal(route.relay)
        if literal is None:
            resolver = Resolver(read_servers(self._control), ANSWER_S)
            literal = next(iter(Exchangers(resolver, ipv6=has_global_ipv6()).of_relay(route.relay))).packed
        return connect((format_address(literal), route.port))


def connect(where: bytes | tuple[str, int]) -> socket.socket:
    """A connection to the path of a socket, or to an address and port. Raises OSError."""
    if isinstance(where, tuple):
        return socket.create_connection(where, ANSWER_S)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.settimeout(ANSWER_S)
        sock.connect(where)
    except BaseException:
        sock.close()
        raise
    return sock


def ask(sock: socket.socket, address: bytes) -> bool:
    """False if the server on ``sock``, which is closed then, says that ``address`` is nobody's. Raises OSError."""
    until, replies = time.monotonic() + ANSWER_S, ReplyReader()
    with sock:
        for line in (b"", b"LHLO localhost\r\n", b"MAIL FROM:<>\r\n"):
            if _reply_to(line, sock, replies, until).code not in (220, 250):
                raise ConnectionError("not served")
        reply = _reply_to(b"RCPT TO:" + format_path(address) + b"\r\n", sock, replies, until)
        sock.sendall(b"QUIT\r\n")
    return not says_nobody(reply)


def _reply_to(line: bytes, sock: socket.socket, replies: ReplyReader, until: float) -> Reply:
    """The answer to ``line``, nothing for the greeting. Raises OSError."""
    sock.sendall(line)
    heard = 0
    while (reply := replies.next()) is None:
        sock.settimeout(max(0.001, until - time.monotonic()))
        data = sock.recv(4096)
        heard += len(data)
        if not data or heard > ANSWER_BYTES_MAX:
            raise ConnectionError("no answer")
        replies.feed(data)
    return reply


def says_nobody(reply: Reply) -> bool:
    """Whether a recipient was refused for want of such an address."""
    return reply.code in _REFUSALS and (reply.text[4:6] != b"5." or reply.text[4:8] == b"5.1.")
