"""What SMTP, QMTP and QMQP do alike with one client: ask the checks, make letters, have them queued.

The protocols know how things are said. What is accepted is decided here, by the checks alone.
"""

import time
from collections.abc import Mapping

from pyqmail.incoming.checks import Checks
from pyqmail.incoming.client import Client
from pyqmail.incoming.completion import RULE
from pyqmail.incoming.decisions import DecisionLog
from pyqmail.incoming.letter import Letter
from pyqmail.intake.client import FACTS
from pyqmail.protocol.reply import Reply
from pyqmail.stream.stream import Stream


class Session:
    """One client's mail. ``client`` is replaced as more is known of it; ``environ`` is what the queue program gets."""

    def __init__(
        self, home: str, environ: Mapping[bytes, bytes], checks: Checks, log: DecisionLog, protocol: bytes = b""
    ) -> None:
        self.environ = environ
        self._given = environ  # before anything was learnt
        self.client = Client.from_environ(environ)
        self.checks = checks
        self.log = log
        self._home = home
        self._protocol = protocol  # the word for Received, where it is not the client's

    def secured(self, stream: Stream, variables: Mapping[bytes, bytes]) -> None:
        """After a handshake: what the client said before it is forgotten, and the queue program hears of it."""
        assert stream.secured is not None
        self.client = self.client.secured_by(stream.secured, self._given)
        self.environ = {**self._given, **variables}

    def authenticated(self, user: bytes, method: bytes) -> None:
        """The client has proved to be ``user``, and the queue program hears of it (tcp-environ(5))."""
        self.client = self.client.known_as(user, method)
        self.environ = {
            **self.environ,
            b"RELAYCLIENT": self.client.relay or b"",
            b"TCPREMOTEINFO": user,
            b"SMTPAUTHUSER": user,
            b"SMTPAUTHMETHOD": method,
            b"SMTP_AUTH_USER": user,
        }

    def greet(self) -> Reply | None:
        """The refusal of a client that has just connected."""
        verdict = self.checks.connected(self.client)
        return None if verdict is None else verdict.reply

    def judge_sender(self, letter: Letter) -> Reply | None:
        """The refusal that its sender hears now; one that its recipients hear is the letter's."""
        verdict = self.checks.sender(self.client, letter)
        if verdict is None:
            return None
        if verdict.at_once:
            return verdict.reply
        letter.refusal = verdict.reply
        return None

    def add(self, letter: Letter, address: bytes, *, checked: bool = True) -> Reply | None:
        """Make ``address`` a recipient of ``letter``; or the refusal. Raises TooManyRecipients."""
        if letter.refusal is not None:
            return letter.refusal
        verdict = self.checks.recipient(self.client, letter, address) if checked else None
        self.say_notes()
        if verdict is not None:
            return verdict.reply
        letter.add(address + self.client.relay if self.client.relay else address)
        return None

    def open(self, letter: Letter) -> None:
        """Let its text come. Raises OSError without a queue."""
        word = self._protocol or self.client.received_with
        if self.client.relay is not None and self.client.user is None and self.checks.names_relay_clients:
            word += b" (relay client)"
        if self.client.relay is not None and RULE in self.environ:
            letter.complete(self.checks.id_host)
        hide = self.client.user is not None and self.environ.get(b"HIDECLIENT", b"") not in (b"", b"0")
        environ = self.environ
        if letter.evidence:
            spf = dict(letter.evidence).get(b"spf")
            environ = environ if spf is None else {**environ, b"SPFRESULT": spf}
        if letter.facts is not None:
            if letter.facts.smtputf8:  # UTF8SMTP, UTF8SMTPSA (RFC 6531 section 4.3)
                word = b"UTF8SMTP" + word.removeprefix(b"E").removeprefix(b"SMTP")
            environ = {**environ, FACTS: letter.facts.format(letter.sender)}
        letter.open(self._home, environ, self.client, word, hold=self.checks.hold(self.client), hide=hide)

    def close(self, letter: Letter) -> tuple[Reply, int]:
        """The last word on ``letter``: 250 and its number, or the refusal and 0."""
        verdict = None if letter.refusal else self.checks.message(self.client, letter)
        refusal = letter.refusal if verdict is None else verdict.reply
        if refusal is not None:
            letter.fail()
        answer = letter.close()
        if refusal is not None:
            return refusal, 0
        kind, text = answer.letter_text()
        if kind == b"K":
            return Reply(250, b"ok %d qp %d" % (time.time(), answer.number)), answer.number
        return Reply(554 if kind == b"D" else 451, text), 0

    def say_notes(self) -> None:
        """Let the log hear what is wrong with the lists that the checks are made of."""
        notes = self.checks.notes
        if notes:
            for note in notes:
                self.log.say(note)
            notes.clear()

    def log_decision(self, letter: Letter, reply: Reply, number: int) -> None:
        """One line for the whole letter."""
        if reply.code == 250:
            self.log.accepted(self.client, letter, number)
        else:
            self.log.refused(self.client, letter, letter.recipients, reply)
        self.say_notes()
