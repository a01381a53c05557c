"""One SMTP session: the protocol core joined to a stream, and to what all protocols do alike (qmail-smtpd(8))."""

import _socket
from collections.abc import Mapping, Sequence

from pyqmail.control import ControlUnreadable
from pyqmail.formats.logline import safe
from pyqmail.incoming.authentication import FAILURES_MAX, Authentication
from pyqmail.incoming.check import Rules
from pyqmail.incoming.checks import CHECKS, Checks
from pyqmail.incoming.decisions import LOG_WAIT_S, DecisionLog
from pyqmail.incoming.letter import Letter, TooManyRecipients
from pyqmail.incoming.patience import Patience
from pyqmail.incoming.refusals import (
    BEFORE_TLS,
    NO_ADDRESSES,
    NO_CLIENT_CERTIFICATE,
    NO_MEMORY,
    NO_QUEUE,
    NO_TLS,
    NOT_ASCII,
    STRAY_LF,
    TALKED_EARLY,
    TIMEOUT,
    TLS_FIRST,
    TOO_MANY_ERRORS,
)
from pyqmail.incoming.security import Security, TlsUnavailable, tls_variables, without_claims
from pyqmail.incoming.session import Session
from pyqmail.protocol.reply import Reply
from pyqmail.protocol.smtp_server import (
    ADDRESS_MAX,
    GATHERING,
    GO_AHEAD,
    OK,
    READY_FOR_TLS,
    SYNTAX,
    BareLineFeed,
    BodyDecoder,
    Effect,
    Offer,
    State,
    parse_address,
    parse_command,
    parse_parameters,
    step,
)
from pyqmail.stream.lines import LineReader, LineTooLong
from pyqmail.stream.stream import Stream, StreamEnded, StreamTimedOut, TlsFailed

TIMEOUT_S = 1200
COMMAND_MAX = 1048576  # bytes of one command line: more is "out of memory", which the original would reach later


class SessionEnd(Exception):
    """The session is over without QUIT; ``reply`` is sent first."""

    def __init__(self, reply: Reply | None = None) -> None:
        super().__init__(b"" if reply is None else reply.line)
        self.reply = reply


class Settings:
    """What one session knows before it begins. Raises ControlUnreadable, also when there is no name to greet with."""

    def __init__(self, home: str, environ: Mapping[bytes, bytes], words: Sequence[bytes] = ()) -> None:
        """``words`` name the checker of passwords."""
        environ = without_claims(environ)
        self.rules = Rules(home, environ)
        control = self.rules.control
        greeting = control.line_or_me("smtpgreeting")
        if greeting is None:
            raise ControlUnreadable("control/smtpgreeting: neither it nor control/me exists")
        self.greeting = greeting
        self.home = home
        self.environ = environ
        timeout_s = control.integer("timeoutsmtpd", TIMEOUT_S) & 0xFFFFFFFF  # an int, as in the original
        self.timeout_s = timeout_s if 0 < timeout_s < 0x80000000 else 1
        self.local_ip_host = control.line_or_me("localiphost")
        self.security = Security(control, environ)
        self.authentication = Authentication(control, words, environ)
        self.patience = Patience(environ)
        self.checks = Checks(CHECKS, self.rules)

    def close(self) -> None:
        """Give back what is open."""
        self.checks.close()
        self.rules.close()

    def localize(self, address: bytes) -> bytes:
        """``address`` with a ``[local ip]`` domain replaced by control/localiphost. Raises SessionEnd."""
        if not address.endswith(b"]") or self.local_ip_host is None:
            return address
        box, at, host = address.rpartition(b"@")
        packed = literal_address(host)
        if not at or packed is None:
            return address
        from pyqmail.policy.interfaces import local_addresses  # seldom needed, and it takes its time to import

        try:
            own = local_addresses()
        except OSError:
            raise SessionEnd(NO_ADDRESSES) from None
        return box + at + self.local_ip_host if packed in own else address


def literal_address(host: bytes) -> bytes | None:
    """The packed address in ``[a.b.c.d]`` or ``[IPv6:...]`` (RFC 5321 section 4.1.3); None for any other text.

    As in the original, each of the four numbers counts by its last eight bits.
    """
    if host[:1] != b"[" or host[-1:] != b"]":
        return None
    text = host[1:-1]
    if text[:5].lower() == b"ipv6:":
        try:
            return _socket.inet_pton(_socket.AF_INET6, text[5:].decode("ascii"))
        except (OSError, ValueError):
            return None
    octets = text.split(b".")
    if len(octets) != 4 or not all(octet.isdigit() and len(octet) <= 9 for octet in octets):
        return None
    return bytes(int(octet) & 255 for octet in octets)


class SmtpSession:
    """One client from greeting to end. ``stream`` is what the last words are said on."""

    def __init__(self, settings: Settings, stream: Stream, log: DecisionLog) -> None:
        self._settings = settings
        self._log = log
        self._go_on(stream)
        self._session = Session(settings.home, settings.environ, settings.checks, log)
        self._letter: Letter | None = None

    def run(self) -> int:
        """Serve until QUIT: 0. Raises SessionEnd, StreamEnded and ControlUnreadable."""
        if self._settings.security.implicit:
            self._secure()
        self._greet()
        while True:
            verb, argument = parse_command(self._line())
            effect, reply, argument = step(self._state(), verb, argument, self._offer)
            reply = self._act(effect, argument) or reply
            self.stream.write(reply)
            if self._settings.patience.exhausted(reply):
                raise SessionEnd(TOO_MANY_ERRORS)
            if reply[:4] == b"421 ":  # whoever hears this has to go (RFC 5321 section 3.8)
                raise SessionEnd
            if verb not in GATHERING:
                self.stream.flush()
            if effect is Effect.QUIT:
                return 0

    def _go_on(self, stream: Stream) -> None:
        """Talk on ``stream`` from now on; nothing that the one before has read is a command any more."""
        self.stream = stream
        self._settings.patience.limit(stream)
        self._lines = LineReader(stream, COMMAND_MAX)
        self._log.before_waiting = stream.flush
        secured = stream.secured is not None
        mechanisms = self._settings.authentication.offer(secured=secured)
        tls = self._settings.security.offered and not secured
        self._offer = Offer(
            self._settings.greeting,
            self._settings.rules.size_limit,
            tls=tls,
            mechanisms=mechanisms,
            recipients_max=self._settings.checks.recipients_max,
        )

    def _greet(self) -> None:
        refusal = self._session.greet()
        if refusal is not None:
            raise SessionEnd(refusal)
        trusted = self._session.client.relay is not None
        if self._settings.patience.wait_before_greeting(self.stream, self._lines, trusted=trusted):
            self._log.refused(self._session.client, Letter(0), (), TALKED_EARLY)
            raise SessionEnd(TALKED_EARLY)
        self.stream.write(b"220 " + self._settings.greeting + b" ESMTP\r\n")
        if self._settings.rules.relaying.rcpthosts_missing and self._session.client.relay is None:
            self._log.say(b"no control/rcpthosts: only me and locals are accepted")
        self._session.say_notes()
        self._log.wait_s = LOG_WAIT_S

    def _state(self) -> State:
        if self._letter is None:
            return State.IDLE
        return State.RECIPIENTS if self._letter.recipients else State.SENDER

    def _line(self) -> bytes:
        """The next command. Raises SessionEnd and StreamEnded."""
        try:
            return self._lines.line()
        except StreamTimedOut:
            self._settings.patience.give_last_words(self.stream)
            raise SessionEnd(TIMEOUT) from None
        except LineTooLong:
            raise SessionEnd(NO_MEMORY) from None

    def _secure(self, ready: bytes = b"") -> None:
        """Shake hands; of what was said in clear nothing stays. Raises SessionEnd and StreamEnded."""
        try:
            stream, addresses = self._settings.security.start(self.stream, self._alert, ready)
        except TlsUnavailable:
            raise
        except TlsFailed as failure:
            self._log.say(b"tls-failed ip=%b reason=%b" % (self._session.client.ip, safe(str(failure).encode())))
            raise
        self._go_on(stream)
        self._letter = None
        self._session.secured(self.stream, tls_variables(self.stream, addresses))
        if self._settings.security.may_relay(addresses):
            self._session.client = self._session.client.trusted()

    def _alert(self, text: str) -> None:
        self._log.say(b"alert: " + text.encode("utf-8", "replace"))

    # The commands. Each returns the reply, empty for the one that the protocol has.

    def _act(self, effect: Effect, argument: bytes) -> bytes:
        if effect is Effect.SENDER:
            return self._begin(argument)
        if effect is Effect.RECIPIENT:
            return self._add(argument)
        if effect is Effect.DATA:
            return self._take_message()
        if effect is Effect.HELLO:
            return self._hello(argument)
        if effect is Effect.TLS:
            return self._start_tls()
        if effect is Effect.AUTH:
            return self._authenticate(argument)
        return self._forget() if effect is Effect.RESET else b""

    def _hello(self, name: bytes) -> bytes:
        self._session.client = self._session.client.greeted(name)
        return self._forget()

    def _start_tls(self) -> bytes:
        """STARTTLS."""
        if self._lines.pending:
            raise SessionEnd(BEFORE_TLS)
        try:
            self._secure(READY_FOR_TLS)
        except TlsUnavailable:
            return NO_TLS.line
        return b""

    def _authenticate(self, argument: bytes) -> bytes:
        """AUTH."""
        authentication = self._settings.authentication
        reply = authentication.answer(argument, self._session, self._line, self.stream.write)
        if authentication.failures >= FAILURES_MAX:
            raise SessionEnd(reply)
        return reply.line

    def _forget(self) -> bytes:
        self._letter = None
        return b""

    def _begin(self, argument: bytes) -> bytes:
        """MAIL. Where it is refused, what was before it stands."""
        refusal = self._insecure()
        if refusal is not None:
            return refusal.line
        sender = self._settings.localize(parse_address(argument))
        if len(sender) > ADDRESS_MAX:
            return SYNTAX
        letter = Letter(self._settings.rules.size_limit, sender, parse_parameters(argument))
        if not sender.isascii():  # SMTPUTF8 is not offered (RFC 6531 section 3.1, item 8)
            self._log.refused(self._session.client, letter, (), NOT_ASCII)
            return NOT_ASCII.line
        refusal = self._session.judge_sender(letter)
        if refusal is not None:
            self._log.refused(self._session.client, letter, (), refusal)
            return refusal.line
        self._letter = letter
        return OK

    def _insecure(self) -> Reply | None:
        """The refusal of a client that must do something about TLS first, or say who it is."""
        security = self._settings.security
        secured = self.stream.secured
        if security.required and secured is None:
            return TLS_FIRST
        if security.needs_client_certificate and (secured is None or secured.certificate is None):
            return NO_CLIENT_CERTIFICATE
        return self._settings.authentication.missing(self._session.client.user)

    def _add(self, argument: bytes) -> bytes:
        """RCPT."""
        assert self._letter is not None
        recipient = self._settings.localize(parse_address(argument))
        if len(recipient) > ADDRESS_MAX:
            return SYNTAX
        try:
            refusal = self._session.add(self._letter, recipient) if recipient.isascii() else NOT_ASCII
        except TooManyRecipients:
            raise SessionEnd(NO_MEMORY) from None
        if refusal is None:
            return OK
        self._log.refused(self._session.client, self._letter, (recipient,), refusal)
        return refusal.line

    def _take_message(self) -> bytes:
        """DATA: everything between 354 and the final reply, which is sent here, before the log hears of it."""
        letter, self._letter = self._letter, None
        assert letter is not None
        reply, number = NO_QUEUE, 0
        try:
            if self._open(letter):
                self.stream.write(GO_AHEAD)
                self._copy(letter)
                reply, number = self._session.close(letter)
        except SessionEnd as end:
            if end.reply is not None:
                self._session.log_decision(letter, end.reply, 0)
            raise
        except OSError:  # whatever it is, the client hears that it has to come again
            reply, number = NO_QUEUE, 0
        finally:
            letter.abort()
        try:
            self.stream.write(reply.line)
            self.stream.flush()
        finally:
            self._session.log_decision(letter, reply, number)
        return b""

    def _open(self, letter: Letter) -> bool:
        try:
            self._session.open(letter)
        except OSError:
            return False
        return True

    def _copy(self, letter: Letter) -> None:
        """Message text from the client to the letter. Raises SessionEnd and StreamEnded."""
        decoder = BodyDecoder(letter.hops)
        while not decoder.done:
            try:
                letter.write(decoder.feed(self._lines.read()))
            except BareLineFeed:
                raise SessionEnd(STRAY_LF) from None
            except StreamTimedOut:
                self._settings.patience.give_last_words(self.stream)
                raise SessionEnd(TIMEOUT) from None
        if decoder.rest:
            self._lines.unread(decoder.rest)


def say_last(stream: Stream, reply: Reply | None) -> int:
    """The last words, and the exit code of every end but QUIT."""
    try:
        if reply is not None:
            stream.write(reply.line)
        stream.flush()
    except StreamEnded:
        pass
    return 1
