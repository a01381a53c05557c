"""A connection to one SMTP server, and the dialogues held on it (qmail-remote(8)).

The kernel keeps the time of each read and write (SO_RCVTIMEO, SO_SNDTIMEO), so that each costs one system call.
"""

import errno
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass

from pyqmail.failure import PermanentFailure, TemporaryFailure
from pyqmail.protocol.dns import format_address
from pyqmail.protocol.message_body import BodyEncoder, LineEnds
from pyqmail.protocol.sasl_client import Login
from pyqmail.protocol.smtp_client import Dialogue
from pyqmail.protocol.smtp_extensions import Extensions
from pyqmail.protocol.smtp_transaction import Await, Finish, Send, SendBody, StartTls
from pyqmail.remote.message import Message
from pyqmail.remote.security import IN_CLEAR, Security
from pyqmail.stream.descriptors import DescriptorStream, turn_of
from pyqmail.stream.stream import Secured, Stream, StreamEnded

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyqmail.remote.limiter import Slot

# Only the start of a reply is kept, but no reply may go on for ever: the peer would hold a delivery slot with it.
REPLY_BYTES_MAX = 16_000_000
REPLY_MAX_S = 3600.0
MESSAGES_MAX = 1000  # over one connection
AGE_MAX_S = 300.0  # of a connection that is used again and again: look-ups must be repeated some time
AT_ONCE_S = 0.000_001  # the shortest time limit that the kernel does not take for none
GOODBYE_S = 1.0  # for a QUIT that the peer does not read

IP_BIND_ADDRESS_NO_PORT = 24  # ip(7); Python does not name it

NO_RESOURCES = b"System resources temporarily unavailable. (#4.3.0)"
CHANGED = b"The message is not as long as it was. (#4.3.0)"
PARTIAL_LINE = b"SMTP cannot transfer messages with partial final lines. (#5.6.2)"


def _timeval(seconds: float) -> bytes:
    return struct.pack("ll", int(seconds), int(seconds % 1 * 1_000_000))


@dataclass(frozen=True, slots=True)
class Place:
    """Where a connection leads, and how well it must be secured: who wants the same may use it too."""

    packed: bytes
    port: int
    exchanger: bytes  # the name that the address was found by
    security: Security = IN_CLEAR
    login: Login | None = None  # who we are there
    source: str = ""  # our address, empty: the kernel's choice
    helo: bytes = b""  # our name at that address, empty: helohost
    lmtp: bool = False  # in place of SMTP
    socket: bytes = b""  # the path of a Unix socket in place of address and port


def _family(place: Place) -> socket.AddressFamily:
    if place.socket:
        return socket.AF_UNIX
    return socket.AF_INET if len(place.packed) == 4 else socket.AF_INET6


def address_of(place: Place) -> bytes | tuple[str, int]:
    """What connect(2) takes."""
    return place.socket or (format_address(place.packed), place.port)


def open_socket(place: Place) -> socket.socket:
    """A socket for ``place``, which will go out from our address there. Raises OSError and TemporaryFailure."""
    try:
        sock = socket.socket(_family(place), socket.SOCK_STREAM)
    except OSError as error:
        if error.errno == errno.EAFNOSUPPORT:
            raise
        raise TemporaryFailure(NO_RESOURCES) from error
    if place.source:
        try:
            sock.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)  # the port is chosen with the other end
            sock.bind((place.source, 0))
        except OSError as error:
            sock.close()
            raise TemporaryFailure(b"Unable to send from " + place.source.encode() + b". (#4.4.1)") from error
    return sock


Handshake = Callable[[Stream, Security, bytes], Stream]


class Connection:
    """A TCP connection. Constructing it raises OSError (TimeoutError when it took too long) and TemporaryFailure.

    ``fresh`` until a message has been accepted on it; ``offered`` is what the server announced, once it has.
    """

    def __init__(
        self,
        place: Place,
        timeout_connect_s: float,
        timeout_remote_s: float,
        handshake: Handshake,
        connected: socket.socket | None = None,
    ) -> None:
        """``connected``: a socket that leads to ``place`` already."""
        self.place = place
        self.peer = place.socket or format_address(place.packed).encode("ascii")
        self.fresh = True
        self.offered: Extensions | None = None
        self._messages = 0
        self.slot: Slot | None = None  # of those that its exchangers may have at once, given back when it is closed
        self._since = time.monotonic()
        self._handshake = handshake
        self._sock = connected or open_socket(place)
        try:
            if connected is None:
                self._connect(timeout_connect_s)
            self._patience(turn_of(timeout_remote_s or AT_ONCE_S), timeout_connect_s if connected is None else None)
        except BaseException:
            self._sock.close()
            raise
        fd, timeout_s = self._sock.fileno(), timeout_remote_s or AT_ONCE_S
        self._stream: Stream = DescriptorStream(fd, fd, timeout_s, kernel_s=turn_of(timeout_s))

    def _connect(self, timeout_s: float) -> None:
        if timeout_s:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _timeval(timeout_s))
        else:
            self._sock.setblocking(False)
        try:
            self._sock.connect(address_of(self.place))
        except BlockingIOError as error:  # EINPROGRESS: the time is over
            raise TimeoutError(errno.ETIMEDOUT, "connect") from error

    def _patience(self, timeout_s: float, sending_s: float | None) -> None:
        """``timeout_s`` for a turn of each read and write from now on; ``sending_s`` is set for writes, if it is."""
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _timeval(timeout_s))
        if timeout_s != sending_s:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _timeval(timeout_s))

    def fileno(self) -> int:
        """The descriptor, to wait on while nothing is said."""
        return self._sock.fileno()

    def receive(self) -> bytes:
        """More bytes from the peer. Raises StreamEnded."""
        return self._stream.read()

    def send(self, data: bytes) -> None:
        """Send all of ``data``; the timeout is for each write, not for the whole. Raises StreamEnded."""
        self._stream.write(data)
        self._stream.flush()

    def send_at_once(self) -> None:
        """From now on no write waits for the acknowledgement of the one before (TCP_NODELAY)."""
        try:
            self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError:
            pass  # the connection is gone, as the next write will find

    def start_tls(self) -> None:
        """Shake hands, and be secured as the place asks. Raises TlsFailed, StreamEnded and TemporaryFailure."""
        self._stream = self._handshake(self._stream, self.place.security, self.place.exchanger)

    @property
    def secured(self) -> Secured | None:
        """How it is encrypted; None in clear."""
        return self._stream.secured

    def accepted(self) -> None:
        """A message was accepted here."""
        self.fresh = False
        self._messages += 1

    def reusable(self) -> bool:
        """Whether one more message may go this way: not too old, and nothing said nor closed since."""
        most = min(MESSAGES_MAX, (self.offered and self.offered.limit(b"MAILMAX")) or MESSAGES_MAX)
        if self._messages >= most or time.monotonic() - self._since > AGE_MAX_S or self._stream.unread():
            return False
        try:
            self._sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    def quit(self) -> None:
        """Say QUIT, wait for no answer, and close."""
        if self._stream.secured is None:
            try:
                self._sock.send(b"QUIT\r\n", socket.MSG_DONTWAIT)
            except OSError:
                pass  # the verdict stands
        else:
            try:
                self._stream.until(time.monotonic() + GOODBYE_S)
                self._stream.write(b"QUIT\r\n")
                self._stream.close()
            except StreamEnded:
                pass
        self.close()

    def close(self) -> None:
        """Hang up without a word."""
        self._sock.close()
        if self.slot is not None:
            self.slot.close()
            self.slot = None


class Conversation:
    """A dialogue joined to a connection and to a message."""

    def __init__(self, connection: Connection, dialogue: Dialogue, message: Message) -> None:
        self._connection = connection
        self._dialogue = dialogue
        self._message = message
        self.body_begun = False
        self.chunked = False  # the body goes by BDAT
        self.critical = False  # the final dot may have left: who now hears nothing may cause a duplicate

    def hold(self) -> Finish:
        """Talk to the end. Raises StreamEnded when the connection dies, and MailFailure."""
        dialogue, connection = self._dialogue, self._connection
        heard, until = 0, 0.0
        while True:
            step = dialogue.step()
            if isinstance(step, Await):
                data = connection.receive()
                until = until or time.monotonic() + REPLY_MAX_S
                heard += len(data)
                if heard > REPLY_BYTES_MAX or time.monotonic() > until:
                    raise StreamEnded("endless reply")
                dialogue.feed(data)
                continue
            heard, until = 0, 0.0
            if isinstance(step, Send):
                connection.send(step.line)
            elif isinstance(step, StartTls):
                connection.start_tls()
            elif isinstance(step, SendBody):
                self._send_body(step.chunk)
            else:
                connection.offered = dialogue.offered
                return step

    def _send_body(self, chunk: int | None) -> None:
        """Send the message and the final dot, or one ``chunk`` of so many octets, in one write if it fits a piece."""
        self.body_begun, self.chunked = True, chunk is not None
        encoder = BodyEncoder() if chunk is None else LineEnds()
        waiting = b"" if chunk is None else b"BDAT %d LAST\r\n" % chunk
        left = chunk
        for number, data in enumerate(self._message.pieces()):
            if number == 1:
                self._connection.send_at_once()
            if number and waiting:
                self._connection.send(waiting)
                waiting = b""
            piece = encoder.encode(data)
            waiting += piece
            if left is not None:
                left -= len(piece)
                if left < 0:
                    raise TemporaryFailure(CHANGED)
        ending = encoder.finish()
        if ending is None:
            raise PermanentFailure(PARTIAL_LINE)
        if left:
            raise TemporaryFailure(CHANGED)
        self.critical = True
        self._connection.send(waiting + ending)
