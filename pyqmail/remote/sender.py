"""Deliveries by SMTP, one after another, to the exchangers of a domain or to its relay (qmail-remote(8)).

In qmail-rspawn's workers one `Sender` serves one delivery after another. With control/remotereuse it keeps a connection
on which a message was accepted for the next delivery to the same place. If that fails before any of the message was
sent, the delivery begins anew on a connection of its own, so that nothing can fail because a connection was kept.

    candidate --> connect --> greeting, EHLO --> MAIL, RCPT, DATA --> the message --> report
        ^           | no        | refused,          | 421, or the connection dies
        |           |           | or it dies        | before any of the message was sent
        +-----------+-----------+-------------------+        the next candidate (RFC 5321 section 5.1)

What is reported where the last candidate ends so is what that one said.
"""

import os
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence

from pyqmail.control import ControlUnreadable, home_of
from pyqmail.failure import MailFailure, PermanentFailure, TemporaryFailure
from pyqmail.protocol.dns import ascii_host
from pyqmail.protocol.smtp_client import carriable
from pyqmail.remote import tcpto
from pyqmail.remote.candidates import find_candidates
from pyqmail.remote.connection import Connection
from pyqmail.remote.controls import FILES, Controls, Fresh, read_controls
from pyqmail.remote.exchangers import Candidate
from pyqmail.remote.kept import Keeping
from pyqmail.remote.message import Message
from pyqmail.remote.routes import SMTP_PORT, Route, find_route
from pyqmail.remote.session import Outcome, Words, format_failure, talk
from pyqmail.spool.layout import Layout

MESSAGE_FD = 0
REPORT_FD = 1
SESSIONS_MAX = 5  # connections of one delivery on which somebody refused to begin
NEXT_WITHIN_S = 600.0  # after which no other exchanger is begun with: a delivery must end

USAGE = b"I (qmail-remote) was invoked improperly. (#5.3.5)"
NO_HOME = b"Unable to switch to home directory. (#4.3.0)"
NO_CONTROLS = b"Unable to read control files. (#4.3.0)"
NO_MEMORY = b"Out of memory. (#4.3.0)"
NO_CONNECTION = b"Sorry, I wasn't able to establish an SMTP connection. (#4.4.1)"
ROUTES_CHANGED = b"The routes have just changed. (#4.4.4)"
BAD_SENDER = b"Sender address contains CR, LF or NUL, which SMTP cannot carry. (#5.1.7)"


def ascii_recipient(recipient: bytes) -> bytes:
    """``recipient`` with an internationalised domain as the A-labels that a server without SMTPUTF8 understands."""
    if recipient.isascii():
        return recipient
    box, at, host = recipient.rpartition(b"@")
    return box + at + ascii_host(host)


def _target(controls: Controls, recipient: bytes) -> Route | bytes:
    host = recipient.rpartition(b"@")[2]
    return find_route(controls.routes, host) or host.lower()


class Sender:
    """Deliveries one after another. A process that ends after one has a Sender of its own.

    ``trusting``: the host that the caller names is right for all recipients, whatever domain they are of; else they
    must share its route, since qmail-rspawn joined them by what it had read of the control files.
    """

    def __init__(self, *, trusting: bool = False) -> None:
        self._trusting = trusting
        self._controls = Fresh(read_controls, FILES)
        self._timeouts = tcpto.Reader()
        self._keeping = Keeping()

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
        self._keeping.wait(fd)

    def close(self) -> None:
        """Say goodbye on a connection that is kept."""
        self._keeping.close()

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
        say = Words(controls.helohost, sender, recipients, Message(MESSAGE_FD), extended=controls.ehlo)
        waiting = self._keeping.take(target, controls)
        if waiting is not None:
            outcome = self._talk(waiting, say, target, controls)
            if not outcome.elsewhere:
                return outcome.reports
        connections = self._connections(find_candidates(host, route, controls), route, controls, home)
        try:
            return _try_each(connections, lambda connection: self._talk(connection, say, target, controls))
        finally:
            connections.close()

    def _connections(
        self, candidates: Iterator[Candidate], route: Route | None, controls: Controls, home: str
    ) -> Generator[Connection, None, None]:
        """A connection to each candidate that takes one, as they are wanted; others may be skipped. Raises MailFailure.

        Where a connection is kept to a candidate it comes first, and if it proves useless, a new one after it.
        """
        port = route.port if route else SMTP_PORT
        table = Layout(home, 1).tcpto  # the split has no part in that path
        kept = self._keeping.release()
        try:
            for candidate in candidates:
                verdict = self._timeouts.check(table, candidate.packed)
                if verdict is tcpto.Verdict.BLOCKED:
                    continue
                if kept and kept.leads_to(candidate.packed, port, controls):
                    same, kept = kept, None
                    yield same.connection
                if kept:
                    kept.connection.quit()
                    kept = None
                found = self._connect(candidate, port, controls, table, verdict)
                if found:
                    yield found
        finally:
            if kept:
                kept.connection.quit()

    @staticmethod
    def _connect(
        candidate: Candidate, port: int, controls: Controls, table: str, verdict: tcpto.Verdict
    ) -> Connection | None:
        """A new connection to ``candidate``, None if it takes none; the table learns of it. Raises TemporaryFailure."""
        found: Connection | None
        try:
            found = Connection(candidate.packed, port, controls.timeout_connect_s, controls.timeout_remote_s)
        except TimeoutError:
            tcpto.note_timeout(table, candidate.packed)
            return None
        except OSError:
            found = None
        if verdict is tcpto.Verdict.KNOWN:
            tcpto.note_answer(table, candidate.packed)
        return found

    def _talk(self, connection: Connection, say: Words, target: Route | bytes, controls: Controls) -> Outcome:
        """What comes of the conversation on ``connection``, which is then closed or kept."""
        outcome = talk(connection, say)
        if outcome.alive and controls.reuse_s:
            connection.accepted()
            self._keeping.keep(connection, target, controls)
        elif outcome.alive:
            connection.quit()
        return outcome


def _try_each(connections: Iterator[Connection], talk: Callable[[Connection], Outcome]) -> list[bytes]:
    """The reports of the first conversation that another host could not better, else of the last one.

    Raises MailFailure where there was none at all.
    """
    last: list[bytes] | None = None
    sessions, until = 0, time.monotonic() + NEXT_WITHIN_S
    try:
        for connection in connections:
            outcome = talk(connection)
            last = outcome.reports
            sessions += connection.fresh
            if not outcome.elsewhere or sessions >= SESSIONS_MAX or time.monotonic() > until:
                return last
    except (MailFailure, ControlUnreadable):
        if last is None:
            raise
    if last is None:
        raise TemporaryFailure(NO_CONNECTION)
    return last


def write_reports(reports: Sequence[bytes]) -> None:
    """Hand in the reports; a spawner that is gone is no reason to complain."""
    data = b"".join(report + b"\0" for report in reports)
    try:
        while data:
            data = data[os.write(REPORT_FD, data) :]
    except OSError:
        return
