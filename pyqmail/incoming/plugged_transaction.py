"""A transaction of SMTP in which plug-ins have a word before our own checks (incoming/plugins)."""

from collections.abc import Mapping
from types import MappingProxyType

from pyqmail.incoming.decisions import DecisionLog
from pyqmail.incoming.letter import Letter
from pyqmail.incoming.plugins import AUTH, CONNECTION, DATA, HELO, MAIL, PASS, RCPT, Outcome, Plugins, changed
from pyqmail.incoming.session import Session
from pyqmail.incoming.smtp_connection import SessionEnd, SmtpConnection
from pyqmail.incoming.smtp_settings import Settings
from pyqmail.incoming.smtp_transaction import SmtpTransaction
from pyqmail.protocol.reply import Reply

NOTHING: Mapping[bytes, bytes] = MappingProxyType({})


class PluggedTransaction(SmtpTransaction):
    """Each command asks the plug-ins of its section, and what they have set is there for the queue program."""

    def __init__(
        self, settings: Settings, session: Session, connection: SmtpConnection, log: DecisionLog, plugins: Plugins
    ) -> None:
        super().__init__(settings, session, connection, log)
        self._plugins = plugins
        self._asked = 0  # recipients of this transaction, accepted or not

    def connected(self) -> None:
        refusal = self._run(CONNECTION).refusal
        if refusal is not None:
            raise SessionEnd(refusal)

    def greeted(self) -> bytes:
        refusal = self._run(HELO).refusal
        return b"" if refusal is None else refusal.line

    def admitted(self, user: bytes, method: bytes) -> Reply | None:
        return self._run(AUTH, more={b"SMTPAUTHUSER": user, b"SMTPAUTHMETHOD": method}).refusal

    def forget(self) -> bytes:
        self._plugins.forget()
        return super().forget()

    def _begin(self, letter: Letter, *, checked: bool = True) -> bytes:
        outcome = self._run(MAIL, letter.sender, b"SMTPMAILFROM")
        if outcome.refusal is not None:
            return self._refuse(letter, (), outcome.refusal)
        letter.sender = outcome.address
        self._asked = 0
        return super()._begin(letter, checked=not outcome.unchecked)

    def _add(self, letter: Letter, recipient: bytes, *, checked: bool = True) -> Reply | None:
        if letter.refusal is not None:
            return letter.refusal
        self._asked += 1
        outcome = self._run(RCPT, recipient, b"SMTPRCPTTO")
        if outcome.refusal is not None:
            return outcome.refusal
        refusal = super()._add(letter, outcome.address, checked=checked and not outcome.unchecked)
        if refusal is None:
            refusal = self._run(PASS, outcome.address, b"SMTPRCPTTO").refusal
            if refusal is not None:
                letter.take_back()
        return refusal

    def _begin_text(self, letter: Letter) -> Reply | None:
        refusal = self._run(DATA).refusal
        if refusal is not None:
            return refusal
        self._session.environ = changed(self._session.environ, self._plugins.variables)
        refusal = super()._begin_text(letter)
        if refusal is None and self._plugins.headers:
            letter.prepend(self._plugins.headers)
        self._plugins.forget()  # they were for this message
        return refusal

    def _run(
        self, section: bytes, address: bytes = b"", variable: bytes = b"", more: Mapping[bytes, bytes] = NOTHING
    ) -> Outcome:
        """What the plug-ins say; ``more`` is in their environment. Raises SessionEnd where they hang up."""
        environ = {**self._session.environ, **self._variables(address), **more}
        outcome = self._plugins.run(section, environ, address, variable)
        if outcome.said:
            self._connection.stream.write(outcome.said)
        if outcome.hangs_up:
            raise SessionEnd(outcome.refusal)
        return outcome

    def _variables(self, recipient: bytes) -> dict[bytes, bytes]:
        client, letter = self._session.client, self._letter
        found = {b"SMTPHELOHOST": client.helo or b""}
        if letter is not None:
            ours = client.relay is not None or self._settings.rules.relaying.accepts(recipient)
            found |= {
                b"SMTPMAILFROM": letter.sender,
                b"SMTPRCPTCOUNT": b"%d" % len(letter.recipients),
                b"SMTPRCPTCOUNTALL": b"%d" % self._asked,
                b"SMTPRCPTHOSTSOK": b"1" if ours else b"0",
            }
        return found
