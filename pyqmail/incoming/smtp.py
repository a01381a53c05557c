"""One SMTP session: the protocol core joined to a stream, and to what all protocols do alike (qmail-smtpd(8))."""

from collections.abc import Callable

from pyqmail.formats.logline import safe
from pyqmail.incoming.authentication import FAILURES_MAX
from pyqmail.incoming.decisions import LOG_WAIT_S, DecisionLog
from pyqmail.incoming.letter import Letter
from pyqmail.incoming.patience import waits_for_nobody
from pyqmail.incoming.refusals import BEFORE_TLS, NO_CLIENT_CERTIFICATE, NO_TLS, TLS_FIRST
from pyqmail.incoming.security import TlsUnavailable, tls_variables
from pyqmail.incoming.session import Session
from pyqmail.incoming.smtp_connection import SessionEnd, SmtpConnection
from pyqmail.incoming.smtp_settings import Settings
from pyqmail.incoming.smtp_transaction import SmtpTransaction
from pyqmail.protocol.reply import Reply
from pyqmail.protocol.smtp_server import GATHERING, READY_FOR_TLS, Effect, Offer, parse_command, step
from pyqmail.stream.stream import Stream, TlsFailed


class SmtpSession:
    """One client from greeting to end."""

    def __init__(self, settings: Settings, stream: Stream, log: DecisionLog) -> None:
        self._settings = settings
        self._log = log
        self._connection = SmtpConnection(stream, settings.patience)
        log.before_waiting = stream.flush
        self._session = Session(settings.home, settings.environ, settings.checks, log)
        self._offer: Offer | None = None  # not known yet, or not any more
        self.transaction = self._new_transaction()

    def _new_transaction(self) -> SmtpTransaction:
        settings = self._settings
        if settings.plugins is None:
            return SmtpTransaction(settings, self._session, self._connection, self._log)
        from pyqmail.incoming.plugged_transaction import PluggedTransaction  # most do without

        return PluggedTransaction(settings, self._session, self._connection, self._log, settings.plugins)

    @property
    def stream(self) -> Stream:
        """What the last words are said on."""
        return self._connection.stream

    def run(self) -> int:
        """Serve until QUIT: 0. Raises SessionEnd, StreamEnded and ControlUnreadable."""
        try:
            if self._settings.security.implicit:
                self._secure()
            self._greet()
            return self._converse()
        finally:
            self.transaction.forget()

    def _converse(self) -> int:
        connection, transaction = self._connection, self.transaction
        nothing = Effect.NONE  # looked up once: an enum's members take long
        while True:
            verb, argument = parse_command(connection.command())
            if verb == b"EHLO" or self._offer is None:
                self._offer = self._offer_now(told=verb == b"EHLO")
            effect, reply, argument = step(transaction.state, verb, argument, self._offer)
            if effect is not nothing:
                if effect is Effect.QUIT:
                    connection.stream.write(reply)
                    connection.stream.part()
                    return 0
                reply = ACTS[effect](self, argument) or reply
            if reply:
                connection.answer(reply, at_once=verb not in GATHERING)

    def _offer_now(self, *, told: bool) -> Offer:
        """What there is for the client to use; where it is ``told``, by EHLO, with what only that names."""
        settings, client = self._settings, self._session.client
        secured = self._connection.stream.secured is not None
        return Offer(
            settings.greeting,
            settings.size_limit,
            settings.security.offered and not secured,
            settings.authentication.offer(secured=secured),
            settings.chunking,
            *((settings.checks.recipients_max, *settings.extensions(client)) if told else ()),
        )

    def _greet(self) -> None:
        refusal = self._session.greet()
        if refusal is not None:
            raise SessionEnd(refusal)
        self.transaction.connected()
        settings, client = self._settings, self._session.client
        if settings.patience.delay_s and not waits_for_nobody(settings.rules, client):
            self._wait()
        self._connection.stream.write(b"220 " + settings.greeting + b" ESMTP\r\n")
        if settings.rules.relaying.rcpthosts_missing and client.relay is None:
            self._log.say(b"no control/rcpthosts: only me and locals are accepted")
        self._session.say_notes()
        self._log.wait_s = LOG_WAIT_S

    def _wait(self) -> None:
        """Let the client wait before it is greeted. Raises SessionEnd if it must go."""
        try:
            self._connection.wait_before_greeting()
        except SessionEnd as end:
            if end.reply is not None:
                self._log.refused(self._session.client, Letter(0), (), end.reply)
            raise

    def _secure(self, ready: bytes = b"") -> None:
        """Shake hands; of what was said in clear nothing stays. Raises SessionEnd and StreamEnded."""
        try:
            stream, addresses = self._settings.security.start(self.stream, self._alert, ready)
        except TlsUnavailable:
            raise
        except TlsFailed as failure:
            self._log.say(b"tls-failed ip=%b reason=%b" % (self._session.client.ip, safe(str(failure).encode())))
            raise
        self._connection.go_on(stream)
        self._offer = None
        self._log.before_waiting = stream.flush
        self.transaction.forget()
        self._session.secured(stream, tls_variables(stream, addresses))
        if addresses and self._settings.security.may_relay(addresses):
            self._session.client = self._session.client.trusted()

    def _alert(self, text: str) -> None:
        self._log.say(b"alert: " + text.encode("utf-8", "replace"))

    def mail(self, argument: bytes) -> bytes:
        """MAIL."""
        refusal = self._missing()
        return self.transaction.begin(argument) if refusal is None else refusal.line

    def hello(self, name: bytes) -> bytes:
        """HELO and EHLO."""
        self._session.client = self._session.client.greeted(name)
        return self.transaction.forget() or self.transaction.greeted()

    def start_tls(self, argument: bytes) -> bytes:
        """STARTTLS."""
        if self._connection.pending:
            raise SessionEnd(BEFORE_TLS)
        try:
            self._secure(READY_FOR_TLS)
        except TlsUnavailable:
            return NO_TLS.line
        return b""

    def authenticate(self, argument: bytes) -> bytes:
        """AUTH."""
        authentication, connection = self._settings.authentication, self._connection
        admitted = self.transaction.admitted
        reply = authentication.answer(argument, self._session, connection.command, self.stream.write, admitted)
        if authentication.failures >= FAILURES_MAX:
            raise SessionEnd(reply)
        return reply.line

    def _missing(self) -> Reply | None:
        """The refusal of MAIL from a client that must do something about TLS first, or say who it is."""
        security = self._settings.security
        secured = self._connection.stream.secured
        if security.required and secured is None:
            return TLS_FIRST
        if security.needs_client_certificate and (secured is None or secured.certificate is None):
            return NO_CLIENT_CERTIFICATE
        return self._settings.authentication.missing(self._session.client.user)


# What the effects of commands are. Each returns the reply, empty for the one that the protocol has.
ACTS: dict[Effect, Callable[[SmtpSession, bytes], bytes]] = {
    Effect.SENDER: SmtpSession.mail,
    Effect.RECIPIENT: lambda session, argument: session.transaction.add(argument),
    Effect.DATA: lambda session, argument: session.transaction.take_message(),
    Effect.CHUNK: lambda session, argument: session.transaction.take_chunk(argument),
    Effect.RESET: lambda session, argument: session.transaction.forget(),
    Effect.HELLO: SmtpSession.hello,
    Effect.TLS: SmtpSession.start_tls,
    Effect.AUTH: SmtpSession.authenticate,
}
