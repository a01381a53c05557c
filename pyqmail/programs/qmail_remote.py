"""qmail-remote: send one message by SMTP (qmail-remote(8)).

    qmail-remote HOST SENDER RECIPIENT...     message on fd 0, reports on fd 1, exit code 0 whatever happens

Reports end with NUL: one per recipient (r accepted, h permanent, s temporary), then one for the message (K, Z, D).
Find the addresses (smtproutes, else MX), connect to the first that accepts a connection, and hold the whole
conversation there: once connected there is no second try elsewhere.
"""

import errno
import os
import signal
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pyqmail.control import Control, ControlUnreadable, home_of
from pyqmail.failure import MailFailure, PermanentFailure, TemporaryFailure
from pyqmail.policy.exchangers import Candidate, Exchangers, spare_ourselves
from pyqmail.policy.interfaces import has_global_ipv6, local_addresses
from pyqmail.policy.routes import SMTP_PORT, find_route
from pyqmail.protocol.dns import format_address, parse_literal
from pyqmail.protocol.smtp_client import Await, BodyEncoder, Dialogue, Finish, Send, SendBody, carriable
from pyqmail.resolver import HardFailure, Resolver, Servers, SoftFailure, read_servers
from pyqmail.spool import tcpto
from pyqmail.spool.layout import Layout

MESSAGE_FD = 0
REPORT_FD = 1
PIECE = 65536  # bytes of the message in memory at once
TIMEOUT_MAX_S = 1_000_000  # what fits every clock of the kernel; control files may ask for more
INSTANT_S = 0.000_001  # a timeout of 0 is taken literally, and a socket's own 0 means something else

USAGE = b"I (qmail-remote) was invoked improperly. (#5.3.5)"
NO_HOME = b"Unable to switch to home directory. (#4.3.0)"
NO_CONTROLS = b"Unable to read control files. (#4.3.0)"
NO_MEMORY = b"Out of memory. (#4.3.0)"
NO_RESOURCES = b"System resources temporarily unavailable. (#4.3.0)"
NO_MESSAGE = b"Unable to read message. (#4.3.0)"
NO_CONNECTION = b"Sorry, I wasn't able to establish an SMTP connection. (#4.4.1)"
NO_HOST_YET = b"Sorry, I couldn't find any host by that name. (#4.1.2)"
NO_EXCHANGER = b"Sorry, I couldn't find a mail exchanger or IP address. (#5.4.4)"
PARTIAL_LINE = b"SMTP cannot transfer messages with partial final lines. (#5.6.2)"
OURSELVES = (
    b"Sorry. Although I'm listed as a best-preference MX or A for that host,\n"
    b"it isn't in my control/locals file, so I don't treat it as local. (#5.4.6)"
)
BAD_SENDER = b"Sender address contains CR, LF or NUL, which SMTP cannot carry. (#5.1.7)"


@dataclass(frozen=True, slots=True)
class Controls:
    """What the control directory says about one delivery; timeouts in seconds."""

    helohost: bytes
    routes: Mapping[bytes, bytes]
    servers: Callable[[], Servers]
    timeout_connect_s: float
    timeout_remote_s: float
    prefer_ipv4: bool


def read_controls(home: str) -> Controls:
    """The control files of qmail-remote. Raises ControlUnreadable, also when there is neither helohost nor me."""
    control = Control(home)
    helohost = control.line_or_me("helohost")
    if helohost is None:
        raise ControlUnreadable("control/me: no such file")
    return Controls(
        helohost=helohost,
        routes=control.mapping("smtproutes") or {},
        servers=lambda: read_servers(control),  # only where DNS is asked
        timeout_connect_s=_seconds(control.integer("timeoutconnect", 60)),
        timeout_remote_s=_seconds(control.integer("timeoutremote", 1200)),
        prefer_ipv4=control.integer("preferipv4", 1) != 0,
    )


def _seconds(value: int) -> float:
    return min(value, TIMEOUT_MAX_S) or INSTANT_S


def printable_host(host: bytes) -> bytes:
    """``host`` as a bounce may show it."""
    return bytes(byte if 33 <= byte <= 126 else 63 for byte in host)


def find_candidates(host: bytes, controls: Controls) -> tuple[list[Candidate], int]:
    """The addresses to try, in order, and their port. Raises MailFailure and ControlUnreadable."""
    route = find_route(controls.routes, host)
    target = route.relay if route else host
    try:
        if parse_literal(target) is not None:  # no look-up to come, so no need for the settings of one
            candidates = Exchangers(Resolver(Servers()), ipv6=False).of_relay(target)
        else:
            resolver = Resolver(controls.servers())
            exchangers = Exchangers(resolver, ipv6=has_global_ipv6(), prefer_ipv4=controls.prefer_ipv4)
            candidates = exchangers.of_relay(target) if route else exchangers.of_host(target)
        local = frozenset() if route else local_addresses()
    except HardFailure as failure:
        text = b"Sorry, I couldn't find any host named " + printable_host(target) + b". (#5.1.2)"
        raise PermanentFailure(text) from failure
    except SoftFailure as failure:
        raise TemporaryFailure(NO_HOST_YET) from failure
    except OSError as error:
        raise TemporaryFailure(NO_RESOURCES) from error
    if not candidates:
        raise PermanentFailure(NO_EXCHANGER)
    if route:  # a route to this very machine is legal
        return candidates, route.port
    allowed = spare_ourselves(candidates, local)
    if not allowed:
        raise PermanentFailure(OURSELVES)
    return allowed, SMTP_PORT


def connect(packed: bytes, port: int, timeout_s: float) -> socket.socket:
    """A connection to the address. Raises OSError (TimeoutError when it took too long) and TemporaryFailure."""
    family = socket.AF_INET if len(packed) == 4 else socket.AF_INET6
    try:
        line = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        if error.errno == errno.EAFNOSUPPORT:
            raise
        raise TemporaryFailure(NO_RESOURCES) from error
    try:
        line.settimeout(timeout_s)
        line.connect((format_address(packed), port))
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except BaseException:
        line.close()
        raise
    return line


def connect_any(
    candidates: Sequence[Candidate], port: int, table: str, timeout_s: float
) -> tuple[socket.socket, bytes]:
    """A connection to the first candidate that takes one, and its address in print; others may be skipped.

    ``table`` is the path of tcpto, which is told of each timeout. Raises TemporaryFailure.
    """
    for candidate in candidates:
        verdict = tcpto.check(table, candidate.packed)
        if verdict is tcpto.Verdict.BLOCKED:
            continue
        try:
            line = connect(candidate.packed, port, timeout_s)
        except TimeoutError:
            tcpto.note_timeout(table, candidate.packed)
            continue
        except OSError:
            line = None
        if verdict is tcpto.Verdict.KNOWN:
            tcpto.note_answer(table, candidate.packed)
        if line:
            return line, format_address(candidate.packed).encode("ascii")
    raise TemporaryFailure(NO_CONNECTION)


class Conversation:
    """A dialogue joined to a socket and to the message on a descriptor."""

    def __init__(self, line: socket.socket, dialogue: Dialogue, message: int) -> None:
        self._line = line
        self._dialogue = dialogue
        self._message = message
        self.critical = False  # the final dot may have left: who now hears nothing may cause a duplicate

    def hold(self) -> bytes:
        """Talk to the end and return the message report. Raises OSError when the connection dies, and MailFailure."""
        while True:
            match self._dialogue.step():
                case Await():
                    data = self._line.recv(PIECE)
                    if not data:
                        raise ConnectionResetError
                    self._dialogue.feed(data)
                case Send(command):
                    self._send(command)
                case SendBody():
                    self._send_body()
                case Finish(report):
                    self._say_quit()
                    return report

    def _send(self, data: bytes) -> None:
        """Send all of ``data``; the timeout is for each write, not for the whole."""
        sent = self._line.send(data)
        if sent < len(data):
            rest = memoryview(data)[sent:]
            while rest:
                rest = rest[self._line.send(rest) :]

    def _send_body(self) -> None:
        """Send the message and the final dot, in one write when it fits one piece."""
        encoder = BodyEncoder()
        waiting = b""
        while data := self._read():
            if waiting:
                self._send(waiting)
            waiting = encoder.encode(data)
        ending = encoder.finish()
        if ending is None:
            raise PermanentFailure(PARTIAL_LINE)
        self.critical = True
        self._send(waiting + ending)

    def _read(self) -> bytes:
        try:
            return os.read(self._message, PIECE)
        except OSError as error:
            raise TemporaryFailure(NO_MESSAGE) from error

    def _say_quit(self) -> None:
        try:
            self._send(b"QUIT\r\n")
        except OSError:
            return  # the verdict stands; nobody waits for the answer to QUIT


def format_failure(failure: MailFailure) -> bytes:
    """The message report of ``failure``, without its NUL."""
    return (b"D" if isinstance(failure, PermanentFailure) else b"Z") + failure.text + b"\n"


def talk(line: socket.socket, dialogue: Dialogue, peer: bytes) -> list[bytes]:
    """All reports of the conversation on ``line``, which is closed at the end."""
    conversation = Conversation(line, dialogue, MESSAGE_FD)
    try:
        report = conversation.hold()
    except MailFailure as failure:
        report = format_failure(failure)
    except OSError:
        duplicate = b"Possible duplicate! " if conversation.critical else b""
        report = b"ZConnected to " + peer + b" but connection died. " + duplicate + b"(#4.4.2)\n"
    finally:
        line.close()
    return [*dialogue.reports, report]


def deliver(arguments: Sequence[bytes], home: str) -> list[bytes]:
    """The reports of one delivery. Raises MailFailure while there is no connection, and ControlUnreadable."""
    if len(arguments) < 3:
        raise PermanentFailure(USAGE)
    host, sender, *recipients = arguments
    try:
        os.chdir(home)
    except OSError as error:
        raise TemporaryFailure(NO_HOME) from error
    controls = read_controls(home)
    if not carriable(sender):
        raise PermanentFailure(BAD_SENDER)
    candidates, port = find_candidates(host, controls)
    table = Layout(home, 1).tcpto  # the split has no part in that path
    line, peer = connect_any(candidates, port, table, controls.timeout_connect_s)
    line.settimeout(controls.timeout_remote_s)
    return talk(line, Dialogue(peer, controls.helohost, sender, recipients), peer)


def write_reports(reports: Sequence[bytes]) -> None:
    """Hand in the reports; a spawner that is gone is no reason to complain."""
    data = b"".join(report + b"\0" for report in reports)
    try:
        while data:
            data = data[os.write(REPORT_FD, data) :]
    except OSError:
        return


def main(argv: Sequence[bytes], environ: Mapping[bytes, bytes]) -> int:
    """Deliver, report and return 0."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    try:
        reports = deliver(argv[1:], home_of(environ))
    except MailFailure as failure:
        reports = [format_failure(failure)]
    except ControlUnreadable:
        reports = [format_failure(TemporaryFailure(NO_CONTROLS))]
    except MemoryError:
        reports = [format_failure(TemporaryFailure(NO_MEMORY))]
    write_reports(reports)
    return 0
