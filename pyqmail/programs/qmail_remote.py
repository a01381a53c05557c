"""qmail-remote: send one message by SMTP (qmail-remote(8)).

    qmail-remote HOST SENDER RECIPIENT...     message on fd 0, reports on fd 1, exit code 0 whatever happens

Reports end with NUL: one per recipient (r accepted, h permanent, s temporary), then one for the message (K, Z, D).
Find the addresses (smtproutes, else MX), connect to the first that accepts a connection, and hold the whole
conversation there: once connected there is no second try elsewhere.

In qmail-rspawn's workers one `Sender` serves one delivery after another. With control/remotereuse it keeps a connection
on which a message was accepted for the next delivery to the same place. If that fails before any of the message was
sent, the delivery begins anew on a connection of its own, so that nothing can fail because a connection was kept.
"""

import os
import select
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence

from pyqmail.control import ControlUnreadable, home_of
from pyqmail.failure import MailFailure, PermanentFailure, TemporaryFailure
from pyqmail.policy.exchangers import Candidate, Exchangers, NoExchanger, OnlyOurselves
from pyqmail.policy.interfaces import has_global_ipv6, local_addresses
from pyqmail.policy.routes import SMTP_PORT, Route, find_route
from pyqmail.protocol.dns import ascii_host, parse_literal
from pyqmail.protocol.smtp_client import Dialogue, carriable
from pyqmail.remote.connection import NO_RESOURCES, Connection, Conversation
from pyqmail.remote.controls import FILES, Controls, Fresh, read_controls
from pyqmail.resolver import HardFailure, Resolver, Servers, SoftFailure, read_servers
from pyqmail.spool import tcpto
from pyqmail.spool.layout import Layout

MESSAGE_FD = 0
REPORT_FD = 1
UNAVAILABLE = 421  # the server is about to close the connection (RFC 5321 section 3.8)

USAGE = b"I (qmail-remote) was invoked improperly. (#5.3.5)"
NO_HOME = b"Unable to switch to home directory. (#4.3.0)"
NO_CONTROLS = b"Unable to read control files. (#4.3.0)"
NO_MEMORY = b"Out of memory. (#4.3.0)"
NO_CONNECTION = b"Sorry, I wasn't able to establish an SMTP connection. (#4.4.1)"
NO_HOST_YET = b"Sorry, I couldn't find any host by that name. (#4.1.2)"
NO_EXCHANGER = b"Sorry, I couldn't find a mail exchanger or IP address. (#5.4.4)"
OURSELVES = (
    b"Sorry. Although I'm listed as a best-preference MX or A for that host,\n"
    b"it isn't in my control/locals file, so I don't treat it as local. (#5.4.6)"
)
ROUTES_CHANGED = b"The routes have just changed. (#4.4.4)"
BAD_SENDER = b"Sender address contains CR, LF or NUL, which SMTP cannot carry. (#5.1.7)"


def printable_host(host: bytes) -> bytes:
    """``host`` as a bounce may show it."""
    return bytes(byte if 33 <= byte <= 126 else 63 for byte in host)


def find_candidates(host: bytes, route: Route | None, controls: Controls) -> Iterator[Candidate]:
    """The addresses to try, in order, looked up as they are wanted. Raises MailFailure and ControlUnreadable."""
    target = route.relay if route else host
    literal = parse_literal(target)
    if route and literal is not None:  # the address of a relay: nothing to look up, and it may be this very machine
        yield Candidate(literal, 0)
        return
    try:
        local = frozenset() if route else local_addresses()
        if literal is not None:  # no look-up to come, so no need for the settings of one
            exchangers = Exchangers(Resolver(Servers()), ipv6=False, local=local)
        else:
            resolver = Resolver(read_servers(controls.control), controls.timeout_connect_s)
            ipv6 = has_global_ipv6()
            exchangers = Exchangers(resolver, ipv6=ipv6, prefer_ipv4=controls.prefer_ipv4, local=local)
        yield from exchangers.of_relay(target) if route else exchangers.of_host(target)
    except HardFailure as failure:
        text = b"Sorry, I couldn't find any host named " + printable_host(target) + b". (#5.1.2)"
        raise PermanentFailure(text) from failure
    except SoftFailure as failure:
        raise TemporaryFailure(NO_HOST_YET) from failure
    except NoExchanger as failure:
        raise PermanentFailure(NO_EXCHANGER) from failure
    except OnlyOurselves as failure:
        raise PermanentFailure(OURSELVES) from failure
    except OSError as error:
        raise TemporaryFailure(NO_RESOURCES) from error


def format_failure(failure: MailFailure) -> bytes:
    """The message report of ``failure``, without its NUL."""
    return (b"D" if isinstance(failure, PermanentFailure) else b"Z") + failure.text + b"\n"


def ascii_recipient(recipient: bytes) -> bytes:
    """``recipient`` with an internationalised domain as the A-labels that a server without SMTPUTF8 understands."""
    if recipient.isascii():
        return recipient
    box, at, host = recipient.rpartition(b"@")
    return box + at + ascii_host(host)


def _target(controls: Controls, recipient: bytes) -> Route | bytes:
    host = recipient.rpartition(b"@")[2]
    return find_route(controls.routes, host) or host.lower()


class _Kept:
    """A connection between two deliveries, who it was for, and until when it may wait (monotonic seconds)."""

    __slots__ = ("connection", "controls", "target", "until")

    def __init__(self, connection: Connection, target: Route | bytes, controls: Controls) -> None:
        self.connection = connection
        self.target = target
        self.controls = controls
        self.until = time.monotonic() + controls.reuse_s

    def leads_to(self, packed: bytes, port: int, controls: Controls) -> bool:
        """Whether the next delivery to that address may use it."""
        connection = self.connection
        same = (connection.packed, connection.port) == (packed, port)
        return same and self.controls is controls and connection.reusable()


class Sender:
    """Deliveries one after another. A process that ends after one has a Sender of its own.

    ``trusting``: the host that the caller names is right for all recipients, whatever domain they are of; else they
    must share its route, since qmail-rspawn joined them by what it had read of the control files.
    """

    def __init__(self, *, trusting: bool = False) -> None:
        self._trusting = trusting
        self._controls = Fresh(read_controls, FILES)
        self._timeouts = tcpto.Reader()
        self._kept: _Kept | None = None

    def main(self, argv: Sequence[bytes], environ: Mapping[bytes, bytes]) -> int:
        """Deliver, report and return 0."""
        try:
            reports = self._deliver(argv[1:], home_of(environ))
        except MailFailure as failure:
            reports = [format_failure(failure)]
        except ControlUnreadable:
            reports = [format_failure(TemporaryFailure(NO_CONTROLS))]
        except MemoryError:
            reports = [format_failure(TemporaryFailure(NO_MEMORY))]
        write_reports(reports)
        return 0

    def wait(self, fd: int) -> None:
        """Return once ``fd`` is readable, or no connection is kept: its time is over, or the peer closed it."""
        while self._kept is not None:
            left_s = max(0.0, self._kept.until - time.monotonic())
            poll = select.poll()
            poll.register(fd, select.POLLIN)
            poll.register(self._kept.connection.fileno(), select.POLLIN)
            if any(ready == fd for ready, _ in poll.poll(left_s * 1000)):
                return
            self.close()

    def close(self) -> None:
        """Say goodbye on a connection that is kept."""
        if self._kept is not None:
            kept, self._kept = self._kept, None
            kept.connection.quit()

    def _deliver(self, arguments: Sequence[bytes], home: str) -> list[bytes]:
        """The reports of one delivery. Raises MailFailure while there is no connection, and ControlUnreadable."""
        if len(arguments) < 3:
            raise PermanentFailure(USAGE)
        host, sender, *recipients = arguments
        try:
            os.chdir(home)
        except OSError as error:
            raise TemporaryFailure(NO_HOME) from error
        controls = self._controls.get(home)
        if not carriable(sender):
            raise PermanentFailure(BAD_SENDER)
        route = find_route(controls.routes, host)
        target = route or host.lower()
        if len(recipients) > 1 and not self._trusting and any(_target(controls, one) != target for one in recipients):
            raise TemporaryFailure(ROUTES_CHANGED)
        recipients = [ascii_recipient(recipient) for recipient in recipients]
        while True:
            connection = self._waiting_for(target, controls)
            if connection is None:
                connection = self._connect(find_candidates(host, route, controls), route, controls, home)
            greeted = not connection.fresh
            dialogue = Dialogue(connection.peer, controls.helohost, sender, recipients, greeted=greeted)
            reports = self._talk(connection, dialogue, target, controls)
            if reports is not None:
                return reports

    def _waiting_for(self, target: Route | bytes, controls: Controls) -> Connection | None:
        """The connection that is kept, if it was made for ``target``; no look-up is needed then."""
        kept = self._kept
        if kept is None or kept.target != target or kept.controls is not controls:
            return None
        self._kept = None
        if kept.connection.reusable():
            return kept.connection
        kept.connection.close()
        return None

    def _connect(
        self, candidates: Iterator[Candidate], route: Route | None, controls: Controls, home: str
    ) -> Connection:
        """A connection to the first candidate that takes one; others may be skipped. Raises MailFailure."""
        port = route.port if route else SMTP_PORT
        table = Layout(home, 1).tcpto  # the split has no part in that path
        kept, self._kept = self._kept, None
        found: Connection | None
        try:
            for candidate in candidates:
                verdict = self._timeouts.check(table, candidate.packed)
                if verdict is tcpto.Verdict.BLOCKED:
                    continue
                if kept and kept.leads_to(candidate.packed, port, controls):
                    same, kept = kept, None
                    return same.connection
                if kept:
                    kept.connection.quit()
                    kept = None
                try:
                    found = Connection(candidate.packed, port, controls.timeout_connect_s, controls.timeout_remote_s)
                except TimeoutError:
                    tcpto.note_timeout(table, candidate.packed)
                    continue
                except OSError:
                    found = None
                if verdict is tcpto.Verdict.KNOWN:
                    tcpto.note_answer(table, candidate.packed)
                if found:
                    return found
        finally:
            if kept:
                kept.connection.quit()
        raise TemporaryFailure(NO_CONNECTION)

    def _talk(
        self, connection: Connection, dialogue: Dialogue, target: Route | bytes, controls: Controls
    ) -> list[bytes] | None:
        """All reports of the conversation; None to begin anew: a connection that was kept proved useless."""
        used = not connection.fresh
        conversation = Conversation(connection, dialogue, MESSAGE_FD)
        try:
            finish = conversation.hold()
        except MailFailure as failure:
            connection.close()
            return [*dialogue.reports, format_failure(failure)]
        except OSError:
            connection.close()
            if used and not conversation.body_begun:
                return None
            duplicate = b"Possible duplicate! " if conversation.critical else b""
            report = b"ZConnected to " + connection.peer + b" but connection died. " + duplicate + b"(#4.4.2)\n"
            return [*dialogue.reports, report]
        if used and not conversation.body_begun and dialogue.last_code == UNAVAILABLE:
            connection.quit()
            return None
        if finish.accepted and controls.reuse_s:
            connection.accepted()
            self._kept = _Kept(connection, target, controls)
        else:
            connection.quit()
        return [*dialogue.reports, finish.report]


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
    sender = Sender(trusting=True)
    code = sender.main(argv, environ)
    sender.close()
    return code
