"""qmail-smtpd: one SMTP session on descriptors 0 and 1 (qmail-smtpd(8)).

Ends 0 only after QUIT. A message goes to the queue as it arrives; nothing of it is kept here. One line for each message
taken and each refusal goes to descriptor 2 when that is a log; its form is fixed (qmail-smtpd(8), DECISIONS):

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
from pyqmail.formats.received import format_network_received
from pyqmail.intake.client import Injection
from pyqmail.policy.recipient_check import RecipientCheck
from pyqmail.policy.relaying import Relaying, size_limit
from pyqmail.protocol.smtp_server import (
    GATHERING,
    HOPS_MAX,
    TOO_BIG,
    BareLineFeed,
    BodyDecoder,
    Effect,
    Policy,
    Transaction,
    parse_command,
    step,
)
from pyqmail.system.logpipe import LINE_MAX, write_line

BUFFER = 65536
TIMEOUT_S = 1200
LOG_WAIT_S = 10.0  # for a log that is full; the client has its answer by then
COMMAND_MAX = 1048576  # bytes of one command line: more is "out of memory", which the original would reach later
RECIPIENTS_MAX = 8388608  # bytes that the recipients of one message may take, 64 for each besides its own

NO_CONTROLS = b"421 unable to read controls (#4.3.0)\r\n"
NO_ADDRESSES = b"421 unable to figure out my IP addresses (#4.3.0)\r\n"
NO_MEMORY = b"421 out of memory (#4.3.0)\r\n"
TIMEOUT = b"451 timeout (#4.4.2)\r\n"
STRAY_LF = b"451 See https://cr.yp.to/docs/smtplf.html.\r\n"
NO_QUEUE = b"451 qqt failure (#4.3.0)\r\n"
HOPS = b"554 too many hops, this message is looping (#5.4.6)\r\n"


class SessionEnd(Exception):
    """The session is over without QUIT; ``reply`` is sent first."""

    def __init__(self, reply: bytes = b"") -> None:
        super().__init__(reply)
        self.reply = reply


class Channel:
    """Descriptors 0 and 1 with a time limit on each wait; replies gather until they must go."""

    def __init__(self, timeout_s: int) -> None:
        self._timeout_s = timeout_s
        self.sockets = self._kernel_timeout = self._arm()
        self._out = bytearray()
        self._in = b""
        self._at = 0  # what of it is used up

    def _arm(self) -> bool:
        """Let the kernel limit each read and write; false where descriptor 0 or 1 is no socket."""
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
        if len(self._out) >= BUFFER:  # a client that sends and never reads
            self.flush()

    def flush(self) -> None:
        """Send what has gathered. Raises SessionEnd."""
        while self._out:
            try:
                if not self._kernel_timeout and not select.select([], [1], [], self._timeout_s)[1]:
                    raise SessionEnd
                del self._out[: os.write(1, self._out)]
            except OSError as error:
                if isinstance(error, BlockingIOError) and self._wait_ourselves(1):
                    continue
                self._out.clear()
                raise SessionEnd from None

    def _wait_ourselves(self, fd: int) -> bool:
        """After EAGAIN: whether it was no timeout but a descriptor that someone has made non-blocking."""
        if os.get_blocking(fd):
            return False
        self._kernel_timeout = False
        return True

    def read(self) -> bytes:
        """The next bytes from the client. Raises SessionEnd at the end, at an error, and after the time limit."""
        if self._at < len(self._in):
            data = self._in[self._at :] if self._at else self._in
            self._in, self._at = b"", 0
            return data
        self.flush()
        while True:
            try:
                if not self._kernel_timeout and not select.select([0], [], [], self._timeout_s)[0]:
                    raise SessionEnd(TIMEOUT)
                data = os.read(0, BUFFER)
            except BlockingIOError:
                if self._wait_ourselves(0):
                    continue
                raise SessionEnd(TIMEOUT) from None
            except OSError:
                raise SessionEnd from None
            if not data:
                raise SessionEnd
            return data

    def unread(self, data: bytes) -> None:
        """Put back ``data``, the end of what ``read`` gave last."""
        self._in, self._at = data, 0

    def line(self) -> bytes:
        """The next line without its LF. Raises SessionEnd."""
        end = self._in.find(b"\n", self._at)
        if end >= 0:
            line = self._in[self._at : end]
            self._at = end + 1
            return line
        parts, size = [], 0
        while True:
            data = self.read()
            end = data.find(b"\n")
            if end >= 0:
                self._in, self._at = data, end + 1
                parts.append(data[:end])
                return b"".join(parts)
            parts.append(data)
            size += len(data)
            if size > COMMAND_MAX:
                raise SessionEnd(NO_MEMORY)


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
        timeout_s = control.integer("timeoutsmtpd", TIMEOUT_S) & 0xFFFFFFFF  # an int, as in the original
        self.timeout_s = timeout_s if 0 < timeout_s < 0x80000000 else 1
        self.local_ip_host = control.line_or_me("localiphost")
        self.relaying = Relaying(control)
        self.databytes = size_limit(control, environ)
        self.check = RecipientCheck(control, home, environ)

    def close(self) -> None:
        """Give back what is open."""
        self.relaying.close()
        self.check.close()

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


class Session:
    """One client from greeting to end."""

    def __init__(self, settings: Settings, channel: Channel) -> None:
        self._settings = settings
        self._channel = channel
        self._environ = settings.environ
        self._helo: bytes | None = None
        self._recipients: list[bytes] = []
        self._recipient_bytes = 0
        self._log_mode = log_mode(self._environ, sockets=channel.sockets)
        self._log_wait_s = 0.0  # nothing is waited for before the client has done anything
        self._policy = Policy(
            greeting=settings.greeting,
            size_limit=settings.databytes,
            relay_suffix=self._environ.get(b"RELAYCLIENT"),
            bad_sender=settings.relaying.bad_sender,
            accepts=settings.relaying.accepts,
            exists=settings.check.exists,
            localize=settings.localize,
        )

    def run(self) -> int:
        """Serve until QUIT (0) or any other end (1). Raises SessionEnd and ControlUnreadable."""
        channel, policy = self._channel, self._policy
        transaction = Transaction()
        channel.reply(b"220 " + self._settings.greeting + b" ESMTP\r\n")
        if self._settings.relaying.rcpthosts_missing and policy.relay_suffix is None:
            self._log(b"no control/rcpthosts: only me and locals are accepted")
        self._log_wait_s = LOG_WAIT_S
        while True:
            verb, argument = parse_command(channel.line())
            before = transaction
            transaction, reply, effect, address, helo = step(before, verb, argument, policy)
            if effect is Effect.DATA:
                self._take_message(before.sender or b"")
                self._forget()
                continue
            channel.reply(reply)
            if verb not in GATHERING:
                channel.flush()
            if effect is Effect.ACCEPTED:
                self._remember(address)
            elif effect is Effect.CLEAR:
                self._forget()
                if helo is not None:
                    self._helo = helo
            elif effect is Effect.REFUSED:
                self._refused(before.sender, address, reply)
            elif effect is Effect.QUIT:
                return 0

    def _remember(self, recipient: bytes) -> None:
        self._recipients.append(recipient)
        self._recipient_bytes += len(recipient) + 64
        if self._recipient_bytes > RECIPIENTS_MAX:
            raise SessionEnd(NO_MEMORY)

    def _forget(self) -> None:
        if self._recipients:
            self._recipients = []
            self._recipient_bytes = 0

    def _take_message(self, sender: bytes) -> None:
        """Everything between 354 and the final reply. Raises SessionEnd."""
        try:
            injection = Injection.open(self._settings.home, self._environ, warm=True)
        except OSError:
            self._answer_refusal(sender, NO_QUEUE)
            return
        try:
            self._channel.reply(b"354 go ahead\r\n")
            decoder = self._copy(injection)
            answer = injection.close(sender, self._recipients)
        except SessionEnd as end:
            if end.reply:
                self._log_refusal(sender, self._recipients, end.reply)
            raise
        finally:
            injection.abort()
        letter, text = answer.letter_text()
        if letter == b"K":
            self._answer_success(sender, decoder.size, answer.number)
        elif decoder.hops >= HOPS_MAX:
            self._answer_refusal(sender, HOPS)
        elif self._overflow(decoder):
            self._answer_refusal(sender, TOO_BIG)
        else:
            self._answer_refusal(sender, (b"554 " if letter == b"D" else b"451 ") + text + b"\r\n")

    def _overflow(self, decoder: BodyDecoder) -> bool:
        return 0 < self._settings.databytes < decoder.size

    def _copy(self, injection: Injection) -> BodyDecoder:
        """Message text from the client to the queue. Raises SessionEnd."""
        decoder = BodyDecoder()
        head = format_network_received(b"SMTP", self._environ, self._helo, time.time())
        while not decoder.done:
            try:
                text = decoder.feed(self._channel.read())
            except BareLineFeed:
                raise SessionEnd(STRAY_LF) from None
            if decoder.hops >= HOPS_MAX or self._overflow(decoder):
                injection.fail()
            elif text or head:
                injection.write(head + text if head else text)
                head = b""
        if decoder.rest:
            self._channel.unread(decoder.rest)
        return decoder

    # Decisions. The client hears them first: a log that is slow must not make it send the message again.

    def _answer_success(self, sender: bytes, size: int, number: int) -> None:
        self._channel.reply(b"250 ok %d qp %d\r\n" % (time.time(), number))
        try:
            self._channel.flush()
        finally:
            tail = b" bytes=%d qp=%d" % (size, number)
            self._log(b"accepted " + self._who(sender, self._recipients, len(tail)) + tail)

    def _answer_refusal(self, sender: bytes, reply: bytes) -> None:
        self._channel.reply(reply)
        try:
            self._channel.flush()
        finally:
            self._log_refusal(sender, self._recipients, reply)

    def _refused(self, sender: bytes | None, address: bytes, reply: bytes) -> None:
        """A recipient, or with TOO_BIG a sender, was refused before there was a message."""
        if reply is TOO_BIG:
            self._log_refusal(address, (), reply)
        else:
            self._log_refusal(sender or b"", (address,), reply)

    def _log_refusal(self, sender: bytes, recipients: Sequence[bytes], reply: bytes) -> None:
        tail = b" reason=" + safe(reply.rstrip(b"\r\n")[:200])
        self._log(b"refused " + self._who(sender, recipients, len(tail)) + tail)

    def _who(self, sender: bytes, recipients: Sequence[bytes], tail: int) -> bytes:
        """The fields that all decisions have; recipients for whom the line has no room are a number at the end."""
        head = b"ip=%b helo=%b from=<%b> to=" % (
            safe(self._environ.get(b"TCPREMOTEIP", b"unknown")[:64]),
            safe((self._helo or b"")[:256]),
            safe(sender),
        )
        room = LINE_MAX - len(head) - tail - 48
        shown: list[bytes] = []
        for recipient in recipients:
            room -= len(recipient) + 3
            if room < 0:
                shown.append(b"+%d" % (len(recipients) - len(shown)))
                break
            shown.append(b"<" + safe(recipient) + b">")
        return head + b",".join(shown)

    def _log(self, line: bytes) -> None:
        """Write one line. The client is not kept waiting for a log that is full, and the session only once."""
        if not self._log_mode:
            return
        line = (b"qmail-smtpd: " + line)[: LINE_MAX - 1] + b"\n"
        regular = stat.S_ISREG(self._log_mode)
        if write_line(2, line, 0.0, regular=regular) or self._log_wait_s <= 0:
            return
        self._channel.flush()
        if not write_line(2, line, self._log_wait_s, regular=regular):
            self._log_wait_s = 0.0


def log_mode(environ: Mapping[bytes, bytes], *, sockets: bool) -> int:
    """The mode of descriptor 2 if it is a log, else 0: open, no socket, no end of the session, not sendmail -bs.

    The one socket that is a log is that of systemd's journal, which $JOURNAL_STREAM names (systemd.exec(5)).
    ``sockets`` says that both ends of the session are sockets, so that they need not be compared.
    """
    if environ.get(b"TCPREMOTEINFO") == b"sendmail-bs" and environ.get(b"TCPREMOTEIP") == b"127.0.0.1":
        return 0
    try:
        log = os.fstat(2)
        if stat.S_ISSOCK(log.st_mode):
            journal = environ.get(b"JOURNAL_STREAM") == b"%d:%d" % (log.st_dev, log.st_ino)
            return log.st_mode if journal else 0
        ends = () if sockets else (os.fstat(0), os.fstat(1))
    except OSError:
        return 0
    same = any(log.st_ino == end.st_ino and log.st_dev == end.st_dev for end in ends)
    return 0 if same else log.st_mode


def main(argv: Sequence[bytes], environ: Mapping[bytes, bytes]) -> int:
    """Serve one client on descriptors 0 and 1; arguments are ignored."""
    if signal.getsignal(signal.SIGPIPE) is not signal.SIG_IGN:
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    try:
        home = home_of(environ)
        os.chdir(home)
        settings = Settings(home, environ)
    except (OSError, ControlUnreadable) as error:
        _name_fault(environ, error)
        return _say(Channel(TIMEOUT_S), NO_CONTROLS)
    channel = Channel(settings.timeout_s)
    try:
        return Session(settings, channel).run()
    except SessionEnd as end:
        return _say(channel, end.reply)
    except ControlUnreadable as error:
        _name_fault(environ, error)
        return _say(channel, NO_CONTROLS)
    except MemoryError:
        return _say(channel, NO_MEMORY)
    finally:
        settings.close()


def _name_fault(environ: Mapping[bytes, bytes], error: Exception) -> None:
    """Tell the log which control file it is; the client hears only that there is one."""
    mode = log_mode(environ, sockets=False)
    if mode:
        line = f"qmail-smtpd: unable to read controls: {error}".encode("utf-8", "replace")[: LINE_MAX - 1] + b"\n"
        write_line(2, line, LOG_WAIT_S, regular=stat.S_ISREG(mode))


def _say(channel: Channel, reply: bytes) -> int:
    """The last words, and the exit code of every end but QUIT."""
    try:
        channel.reply(reply)
        channel.flush()
    except SessionEnd:
        pass
    return 1
