"""The connections of one delivery, one after another, until one host has taken the message or answered about it.

    candidate --> connect --> greeting, EHLO, TLS --> MAIL, RCPT, DATA --> the message --> report
        ^           | no        | refused,             | 421, or the connection dies
        |           |           | or it dies           | before any of the message was sent
        +-----------+-----------+----------------------+        the next candidate (RFC 5321 section 5.1)

Where handshakes failed that nothing asks for, and nobody else takes the message, the best of these hosts has it in
clear. Who offers CHUNKING and cannot do it has it by DATA, over another connection. What is reported where the last
candidate ends so is what that one said.
"""

import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace

from pyqmail.control import ControlUnreadable
from pyqmail.failure import MailFailure, PermanentFailure, TemporaryFailure
from pyqmail.remote import tcpto
from pyqmail.remote.candidates import find_candidates
from pyqmail.remote.connection import Connection, Place
from pyqmail.remote.controls import Controls
from pyqmail.remote.outlasting import Outlasting
from pyqmail.remote.routes import LMTP, SMTP_PORT, Route
from pyqmail.remote.security import IN_CLEAR, SMTPS_PORT, LeftOut, Level, Policies, Target
from pyqmail.remote.session import Outcome, Words, talk
from pyqmail.spool.layout import Layout

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyqmail.remote.limiter import Limiter
    from pyqmail.remote.tlsrpt import Reporter

SESSIONS_MAX = 5  # connections of one delivery on which somebody refused to begin
NEXT_WITHIN_S = 600.0  # after which no other exchanger is begun with: a delivery must end

NO_CONNECTION = b"Sorry, I wasn't able to establish an SMTP connection. (#4.4.1)"


@dataclass(frozen=True, slots=True)
class Errand:
    """One delivery: to whom, how, and what is said."""

    home: str
    controls: Controls
    host: bytes
    route: Route | None
    target: Target
    policies: Policies
    say: Words
    reporter: "Reporter | None" = None
    limiter: "Limiter | None" = None


class Attempts:
    """The attempts of one errand."""

    def __init__(self, errand: Errand, lasting: Outlasting) -> None:
        self._errand = errand
        self._say = errand.say
        self._lasting = lasting
        self._table = Layout(errand.home, 1).tcpto  # the split has no part in that path
        self._port = errand.route.port if errand.route else SMTP_PORT
        self._login = errand.route.login if errand.route else None
        self._left_out: LeftOut | None = None  # why an exchanger was, be it by a policy or for want of one
        self._others = False  # whether there is an exchanger that may take it later
        self._without_tls: list[Place] = []  # where only the handshake failed
        self._once_more: Place | None = None  # without what a policy wants that is only rehearsed, or without BDAT
        self._asked_for_less: set[bytes] = set()  # exchangers, of which none has taken the message since

    def deliver(self) -> list[bytes]:
        """The reports. Raises MailFailure while there is no connection, and ControlUnreadable."""
        controls = self._errand.controls
        waiting = self._lasting.keeping.take(self._errand.target, controls, self._fits)
        if waiting is not None:
            outcome = self._talk(waiting)
            if not outcome.elsewhere:
                return outcome.reports
        connections = self._connections()
        try:
            return self._try_each(connections)
        finally:
            connections.close()
            self._slow_down()

    def _try_each(self, connections: Generator[Connection, None, None]) -> list[bytes]:
        """The reports of the first conversation that another host could not better, else of the last one.

        Raises MailFailure where there was none at all.
        """
        last: list[bytes] | None = None
        sessions, until = 0, time.monotonic() + NEXT_WITHIN_S
        try:
            for connection in connections:
                outcome = self._talk(connection)
                last = outcome.reports
                sessions += connection.fresh
                if not outcome.elsewhere or sessions >= SESSIONS_MAX or time.monotonic() > until:
                    return last
        except (MailFailure, ControlUnreadable):
            if last is None:
                raise
        if last is None:
            raise self._no_connection()
        return last

    def _slow_down(self) -> None:
        """Only now: its other addresses were to be tried first (RFC 5321 section 5.1)."""
        if self._errand.limiter is not None:
            for exchanger in self._asked_for_less:
                self._errand.limiter.heard(exchanger, less=True, accepted=False)

    def _no_connection(self) -> MailFailure:
        """Why there was none at all."""
        if self._left_out is None:
            return TemporaryFailure(NO_CONNECTION)
        final = self._left_out.final and not self._others
        return (PermanentFailure if final else TemporaryFailure)(self._left_out.text)

    def _connections(self) -> Generator[Connection, None, None]:
        """A connection to each candidate that takes one, as they are wanted; others may be skipped. Raises MailFailure.

        Where a connection is kept to a candidate it comes first, and if it proves useless, a new one after it.
        """
        errand = self._errand
        kept = self._lasting.keeping.release()
        winner = b""  # the address of a rival
        try:
            for candidate in find_candidates(errand.host, errand.route, errand.controls):
                if winner and candidate.packed == winner:
                    continue
                verdict = self._timed_out(candidate.packed)
                if verdict is tcpto.Verdict.BLOCKED:
                    self._others = True
                    continue
                try:
                    place = self.place(candidate.packed, candidate.name)
                except LeftOut as left_out:
                    self._left_out = left_out
                    self._others = self._others or not left_out.final
                    continue
                self._others = True
                if kept and kept.leads_to(place, errand.controls):
                    same, kept = kept, None
                    yield same.connection
                if kept:
                    kept.connection.quit()
                    kept = None
                for found in self._connected(place, verdict, self._rival(place, candidate.rival)):
                    winner = found.place.packed if candidate.rival else winner
                    yield found
        finally:
            if kept:
                kept.connection.quit()
        for place in self._without_tls[: 0 if self._left_out else 1]:  # what was not learnt could ask for TLS
            for found in self._connected(replace(place, security=IN_CLEAR), tcpto.Verdict.UNKNOWN):
                self._lasting.plain.note(place.packed)
                yield found

    def _connected(self, place: Place, verdict: tcpto.Verdict, rival: Place | None = None) -> Iterator[Connection]:
        """A connection to ``place``, and another one where what became of it asks for that. Raises TemporaryFailure."""
        wanted: Place | None = place
        while wanted is not None:
            found = self._connect(wanted, verdict, rival)
            if found:
                yield found
            wanted, self._once_more, rival = self._once_more, None, None

    def _timed_out(self, packed: bytes) -> tcpto.Verdict:
        """What is known of an address; a socket has none."""
        return self._lasting.timeouts.check(self._table, packed) if packed else tcpto.Verdict.UNKNOWN

    def place(self, packed: bytes, exchanger: bytes) -> Place:
        """Where a connection to ``packed``, found as ``exchanger``, leads. Raises as `Policies.of`."""
        security = self._errand.policies.of(exchanger)
        if security.level is Level.MAY and packed in self._lasting.plain:
            security = IN_CLEAR
        route = self._errand.route
        lmtp = route is not None and LMTP in route.options
        if route is not None and route.socket:  # nobody else hears what is said there
            security = security if security.must else IN_CLEAR
            return Place(b"", 0, exchanger, security, self._login, lmtp=lmtp, socket=route.socket)
        sources = self._errand.controls.sources
        source = sources.of(self._errand.say.sender, packed)
        return Place(packed, self._port, exchanger, security, self._login, source, sources.name_of(source), lmtp)

    def _fits(self, place: Place) -> bool:
        """Whether a connection to ``place`` is what this errand would make there."""
        try:
            return self.place(place.packed, place.exchanger) == place
        except LeftOut:
            return False

    def _rival(self, place: Place, packed: bytes) -> Place | None:
        """The same exchanger at its address in the other family, if that may be tried."""
        wanted = bool(packed) and self._errand.controls.timeout_connect_s > 0
        if not wanted or self._timed_out(packed) is tcpto.Verdict.BLOCKED:
            return None
        rival = self.place(packed, place.exchanger)
        return rival if rival.security == place.security else None

    def _connect(self, place: Place, verdict: tcpto.Verdict, rival: Place | None = None) -> Connection | None:
        """A new connection to ``place``, None if it takes none; the table learns of it. Raises TemporaryFailure.

        Where ``rival`` takes one sooner, it leads there.
        """
        controls = self._errand.controls
        limiter = self._errand.limiter if place.packed else None
        slot = limiter.connection(place.exchanger) if limiter else None
        found: Connection | None = None
        times = controls.timeout_connect_s, controls.timeout_remote_s
        tried = [place, rival] if rival else [place]
        try:
            goal, connected = self._lasting.race(place, rival, times[0]) if rival else (place, None)
            if goal is rival:  # the other said nothing for a while
                tcpto.note_timeout(self._table, place.packed)
            found = Connection(goal, *times, self._lasting.handshake, connected)
            found.slot = slot
        except TimeoutError:
            for packed in filter(None, (each.packed for each in tried)):
                tcpto.note_timeout(self._table, packed)
            return None
        except OSError:
            pass
        finally:
            if slot is not None and found is None:
                slot.close()
        if verdict is tcpto.Verdict.KNOWN and (found is None or found.place is place):
            tcpto.note_answer(self._table, place.packed)
        return found

    def _talk(self, connection: Connection) -> Outcome:
        """What comes of the conversation on ``connection``, which is then closed or kept. Raises TemporaryFailure."""
        place, fresh = connection.place, connection.fresh
        limiter = self._errand.limiter if place.packed else None
        if limiter and not fresh:
            try:
                limiter.message(place.exchanger)
            except TemporaryFailure:
                connection.quit()
                raise
        outcome = talk(connection, self._say)
        if limiter and outcome.less and outcome.elsewhere:
            self._asked_for_less.add(place.exchanger)
        elif limiter:
            limiter.heard(place.exchanger, less=outcome.less, accepted=outcome.alive)
            self._asked_for_less.discard(place.exchanger)
        if fresh and self._errand.reporter is not None:
            self._errand.reporter.tell(connection, outcome.tls_trouble)
        if outcome.tls_trouble and place.security.rehearsed:
            self._once_more = replace(place, security=place.security.lenient(outcome.tls_trouble))
        elif outcome.tls_trouble and not place.security.must and place.port != SMTPS_PORT:
            self._without_tls.append(place)
        if outcome.unchunked:
            self._say.message.rewind()
            self._say = replace(self._say, chunking=False)
            self._once_more = place if fresh else None  # after a kept connection comes a new one anyway
        if outcome.alive and self._errand.controls.reuse_s:
            connection.accepted()
            self._lasting.keeping.keep(connection, self._errand.target, self._errand.controls)
        elif outcome.alive:
            connection.quit()
        return outcome
