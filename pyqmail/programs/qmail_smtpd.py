"""qmail-smtpd: one SMTP session on descriptors 0 and 1 (qmail-smtpd(8)).

Ends 0 only after QUIT. A message goes to the queue as it arrives; nothing of it is kept here. One line per message, or
per refused recipient, goes to descriptor 2 when that is a log:

    qmail-smtpd: accepted ip=IP helo=NAME from=<SENDER> to=<RCPT>,<RCPT> bytes=N qp=N
    qmail-smtpd: refused ip=IP helo=NAME from=<SENDER> to=<RCPT> reason=REPLY
"""

import _socket
import os
import select
import signal
import stat
import struct
import time
from collections.abc import Mapping, Sequence

from pyqmail.control import Control, ControlUnreadable, home_of
from pyqmail.formats.logline import safe
from pyqmail.formats.received import MONTHS
from pyqmail.policy.interfaces import local_addresses
from pyqmail.policy.relaying import Relaying
from pyqmail.protocol.smtp_server import (
    FLUSHING,
    HOPS_MAX,
    BareLineFeed,
    BodyDecoder,
    Effect,
    Policy,
    Transaction,
    parse_command,
    step,
)
from pyqmail.spool.submit import Submission

BUFFER = 65536
LOG_MAX = 4096  # a pipe takes this much in one piece (PIPE_BUF)
UNSIGNED_MAX = 4294967295

NO_CONTROLS = b"421 unable to read controls (#4.3.0)\r\n"
NO_ADDRESSES = b"421 unable to figure out my IP addresses (#4.3.0)\r\n"
NO_MEMORY = b"421 out of memory (#4.3.0)\r\n"
TIMEOUT = b"451 timeout (#4.4.2)\r\n"
STRAY_LF = b"451 See https://cr.yp.to/docs/smtplf.html.\r\n"
NO_QUEUE = b"451 qqt failure (#4.3.0)\r\n"
HOPS = b"554 too many hops, this message is looping (#5.4.6)\r\n"
TOO_BIG = b"552 sorry, that message size exceeds my databytes limit (#5.3.4)\r\n"

_SAFE = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789.@%+/=:-[]")
_RECEIVED = bytes(byte if byte in _SAFE else 0x3F for byte in range(256))


class SessionEnd(Exception):
    """The session is over without QUIT; ``reply`` is sent first."""

    def __init__(self, reply: bytes = b"") -> None:
        super().__init__(reply)
        self.reply = reply


class Channel:
    """Descriptors 0 and 1 with a time limit on each wait; replies gather until they must go."""

    def __init__(self, timeout_s: int) -> None:
        self._timeout_s = timeout_s
        self._kernel_timeout = self._arm()
        self._out = bytearray()
        self._in = b""

    def _arm(self) -> bool:
        """Let the kernel limit each read and write; false where descriptor 0 is no socket."""
        try:
            sock = _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM, 0, fileno=0)
        except OSError:
            return False
        try:
            limit = struct.pack("ll", self._timeout_s, 0)
            sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_RCVTIMEO, limit)
            sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_SNDTIMEO, limit)
            return stat.S_ISSOCK(os.fstat(1).st_mode)
        except OSError:
            return False
        finally:
            sock.detach()

    def reply(self, data: bytes) -> None:
        """Send later, at the latest before the next wait for the client."""
        self._out += data

    def flush(self) -> None:
        """Send what has gathered. Raises SessionEnd."""
        while self._out:
            if not self._kernel_timeout and not select.select([], [1], [], self._timeout_s)[1]:
                raise SessionEnd
            try:
                del self._out[: os.write(1, self._out)]
            except OSError:
                self._out.clear()
                raise SessionEnd from None

    def read(self) -> bytes:
        """The next bytes from the client. Raises SessionEnd at the end, at an error, and after the time limit."""
        if self._in:
            data, self._in = self._in, b""
            return data
        self.flush()
        if not self._kernel_timeout and not select.select([0], [], [], self._timeout_s)[0]:
            raise SessionEnd(TIMEOUT)
        try:
            data = os.read(0, BUFFER)
        except BlockingIOError:
            raise SessionEnd(TIMEOUT) from None
        except OSError:
            raise SessionEnd from None
        if not data:
            raise SessionEnd
        return data

    def unread(self, data: bytes) -> None:
        """Put ``data`` before what comes next."""
        self._in = data + self._in

    def line(self) -> bytes:
        """The next line without its LF. Raises SessionEnd."""
        data = self.read()
        line, newline, rest = data.partition(b"\n")
        parts = [line]
        while not newline:
            line, newline, rest = self.read().partition(b"\n")
            parts.append(line)
        if rest:
            self.unread(rest)
        return b"".join(parts)


class Settings:
    """What one session knows before it begins. Raises ControlUnreadable, also when there is no name to greet with."""

    def __init__(self, home: str, environ: Mapping[bytes, bytes]) -> None:
        control = Control(home)
        greeting = control.line_or_me("smtpgreeting")
        if greeting is None:
            raise ControlUnreadable("control/smtpgreeting: neither it nor control/me exists")
        self.greeting = greeting
        self.home = home
        self.environ = environ
        self.timeout_s = max(1, control.integer("timeoutsmtpd", 1200))
        self.local_ip_host = control.line_or_me("localiphost")
        self.relaying = Relaying(control)
        self.databytes = control.integer("databytes", 0)
        given = environ.get(b"DATABYTES")
        if given is not None:
            digits = given[: len(given) - len(given.lstrip(b"0123456789"))]
            self.databytes = int(digits[:18] or b"0")
        if self.databytes == UNSIGNED_MAX:
            self.databytes -= 1

    def localize(self, address: bytes) -> bytes:
        """``address`` with a ``[local ip]`` domain replaced by control/localiphost. Raises SessionEnd."""
        box, at, host = address.rpartition(b"@")
        if self.local_ip_host is None or not at or host[:1] != b"[" or host[-1:] != b"]":
            return address
        octets = host[1:-1].split(b".")
        if len(octets) != 4 or not all(octet.isdigit() and len(octet) <= 9 for octet in octets):
            return address
        try:
            own = local_addresses()
        except OSError:
            raise SessionEnd(NO_ADDRESSES) from None
        packed = bytes(int(octet) & 255 for octet in octets)
        return box + at + self.local_ip_host if packed in own else address


class Session:
    """One client from greeting to end."""

    def __init__(self, settings: Settings, channel: Channel) -> None:
        self._settings = settings
        self._channel = channel
        self._environ = settings.environ
        self._remote_host = self._environ.get(b"TCPREMOTEHOST", b"unknown")
        self._remote_ip = self._environ.get(b"TCPREMOTEIP", b"unknown")
        self._helo: bytes | None = None
        self._logs = _log_wanted(self._environ)
        self._policy = Policy(
            greeting=settings.greeting,
            size_limit=settings.databytes,
            relay_suffix=self._environ.get(b"RELAYCLIENT"),
            bad_sender=settings.relaying.bad_sender,
            accepts=settings.relaying.accepts,
            localize=settings.localize,
        )

    def run(self) -> int:
        """Serve until QUIT (0) or any other end (1)."""
        channel = self._channel
        transaction = Transaction()
        channel.reply(b"220 " + self._settings.greeting + b" ESMTP\r\n")
        if self._settings.relaying.rcpthosts_missing and self._policy.relay_suffix is None:
            self._log(b"no control/rcpthosts: only me and locals are accepted")
        while True:
            verb, argument = parse_command(channel.line())
            outcome = step(transaction, verb, argument, self._policy)
            transaction = outcome.transaction
            if outcome.helo is not None:
                self._helo = outcome.helo
            if outcome.effect is Effect.DATA:
                self._take_message(transaction)
                transaction = Transaction()
                continue
            channel.reply(outcome.reply)
            if outcome.effect is Effect.REFUSED:
                self._log_refusal(transaction, (outcome.recipient,), outcome.reply)
            if verb not in FLUSHING:
                channel.flush()
            if outcome.effect is Effect.QUIT:
                return 0

    def _take_message(self, transaction: Transaction) -> None:
        try:
            submission = Submission.open(self._settings.home, self._environ, warm=True)
        except OSError:
            self._channel.reply(NO_QUEUE)
            self._channel.flush()
            return
        try:
            self._channel.reply(b"354 go ahead\r\n")
            decoder = self._copy(submission)
            answer = submission.close(transaction.sender or b"", transaction.recipients)
        finally:
            submission.abort()
        letter, text = answer.letter_text()
        if letter == b"K":
            reply = b"250 ok %d qp %d\r\n" % (time.time(), answer.number)
            self._log_acceptance(transaction, decoder.size, answer.number)
        else:
            reply = (b"554 " if letter == b"D" else b"451 ") + text + b"\r\n"
            if decoder.hops >= HOPS_MAX:
                reply = HOPS
            elif self._overflow(decoder):
                reply = TOO_BIG
            self._log_refusal(transaction, transaction.recipients, reply)
        self._channel.reply(reply)
        self._channel.flush()

    def _overflow(self, decoder: BodyDecoder) -> bool:
        return 0 < self._settings.databytes < decoder.size

    def _copy(self, submission: Submission) -> BodyDecoder:
        """Message text from the client to the queue. Raises SessionEnd."""
        decoder = BodyDecoder()
        head = self._received()
        while not decoder.done:
            try:
                text = decoder.feed(self._channel.read())
            except BareLineFeed:
                raise SessionEnd(STRAY_LF) from None
            if decoder.hops >= HOPS_MAX or self._overflow(decoder):
                submission.fail()
            elif head or text:
                submission.write(head + text)
                head = b""
        if decoder.rest:
            self._channel.unread(decoder.rest)
        return decoder

    def _received(self) -> bytes:
        host, ip = self._remote_host, self._remote_ip
        info = self._environ.get(b"TCPREMOTEINFO")
        local = self._environ.get(b"TCPLOCALHOST", self._environ.get(b"TCPLOCALIP", b"unknown"))
        helo = b""
        if self._helo is not None and self._helo.lower() != host.lower():
            helo = b"(HELO " + self._helo.translate(_RECEIVED) + b") "
        who = b"" if info is None else info.translate(_RECEIVED) + b"@"
        now = time.gmtime()
        return b"Received: from %s %s(%s%s)\n  by %s with SMTP; %d %s %d %02d:%02d:%02d -0000\n" % (
            host.translate(_RECEIVED),
            helo,
            who,
            ip.translate(_RECEIVED),
            local.translate(_RECEIVED),
            now.tm_mday,
            MONTHS[now.tm_mon - 1],
            now.tm_year,
            now.tm_hour,
            now.tm_min,
            now.tm_sec,
        )

    def _log_acceptance(self, transaction: Transaction, size: int, number: int) -> None:
        tail = b" bytes=%d qp=%d" % (size, number)
        self._log(b"accepted " + self._who(transaction, transaction.recipients, len(tail)) + tail)

    def _log_refusal(self, transaction: Transaction, recipients: tuple[bytes, ...], reply: bytes) -> None:
        tail = b" reason=" + safe(reply.rstrip(b"\r\n")[:200])
        self._log(b"refused " + self._who(transaction, recipients, len(tail)) + tail)

    def _who(self, transaction: Transaction, recipients: tuple[bytes, ...], tail: int) -> bytes:
        names = b",".join(b"<" + safe(recipient) + b">" for recipient in recipients)
        head = b"ip=%s helo=%s from=<%s> to=" % (
            safe(self._remote_ip[:64]),
            safe((self._helo or b"")[:256]),
            safe(transaction.sender or b""),
        )
        return head + names[: LOG_MAX - len(head) - tail - 40]

    def _log(self, line: bytes) -> None:
        if self._logs:
            try:
                os.write(2, (b"qmail-smtpd: " + line)[: LOG_MAX - 1] + b"\n")
            except OSError:
                self._logs = False


def _log_wanted(environ: Mapping[bytes, bytes]) -> bool:
    """Whether descriptor 2 is a log: open, no socket, none of the descriptors of the session, not sendmail -bs."""
    if environ.get(b"TCPREMOTEINFO") == b"sendmail-bs":
        return False
    try:
        log = os.fstat(2)
        ends = [os.fstat(fd) for fd in (0, 1)]
    except OSError:
        return False
    same = any((log.st_dev, log.st_ino) == (end.st_dev, end.st_ino) for end in ends)
    return not same and not stat.S_ISSOCK(log.st_mode)


def main(argv: Sequence[bytes], environ: Mapping[bytes, bytes]) -> int:
    """Serve one client on descriptors 0 and 1; arguments are ignored."""
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    channel = Channel(1200)
    try:
        home = home_of(environ)
        os.chdir(home)
        settings = Settings(home, environ)
    except (OSError, ControlUnreadable):
        return _say(channel, NO_CONTROLS)
    if settings.timeout_s != 1200:
        channel = Channel(settings.timeout_s)
    try:
        return Session(settings, channel).run()
    except SessionEnd as end:
        return _say(channel, end.reply)
    except ControlUnreadable:
        return _say(channel, NO_CONTROLS)
    except MemoryError:
        return _say(channel, NO_MEMORY)


def _say(channel: Channel, reply: bytes) -> int:
    """The last words, and the exit code of every end but QUIT."""
    try:
        channel.reply(reply)
        channel.flush()
    except SessionEnd:
        pass
    return 1
