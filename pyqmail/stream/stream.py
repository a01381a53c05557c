"""A conversation with one peer: bytes in, bytes out, a limit on each wait, and TLS on top when both agree to it.

What is written gathers, and goes at the latest before the next wait for the peer. Whatever ends the conversation is one
exception, so that no caller has to know which kinds of trouble sockets, pipes and TLS have.
"""

from abc import ABC, abstractmethod

TYPE_CHECKING = False
if TYPE_CHECKING:
    import ssl

    from pyqmail.stream.tls import TlsStream

CHUNK = 65536
HANDSHAKE_S = 60.0  # for a whole TLS handshake, however its bytes come


class StreamEnded(Exception):
    """Nothing more can be read from the peer or written to it."""


class StreamTimedOut(StreamEnded):
    """The peer has said nothing for the time it had; what it is told may still arrive."""


class TlsFailed(StreamEnded):
    """The handshake came to nothing; the text says why, in OpenSSL's words."""


class Secured:
    """How a connection is encrypted: ``version`` and ``cipher`` as OpenSSL names them, the key's ``bits``, and the
    peer's ``certificate`` (DER) if it showed one."""

    __slots__ = ("bits", "certificate", "cipher", "version")

    def __init__(self, version: str, cipher: str, bits: int, certificate: bytes | None = None) -> None:
        self.version = version
        self.cipher = cipher
        self.bits = bits
        self.certificate = certificate


class Stream(ABC):
    """One conversation. It serves one reader, and after ``start_tls`` nobody: only what that returned goes on."""

    secured: Secured | None = None

    def __init__(self) -> None:
        self._out = bytearray()

    def read(self) -> bytes:
        """The next bytes from the peer, at least one; what has gathered is sent first.

        Raises StreamEnded at the end and at an error, StreamTimedOut after the time limit.
        """
        if self._out:
            self.flush()
        return self._receive()

    def write(self, data: bytes | bytearray) -> None:
        """Send ``data``, at the latest before the next wait for the peer. Raises StreamEnded."""
        self._out += data
        if len(self._out) >= CHUNK:  # a peer that sends and never reads
            self.flush()

    def flush(self) -> None:
        """Send what has gathered. Raises StreamEnded; what was not sent is forgotten then."""
        out = self._out
        if out:
            try:
                self._send(out)
            finally:
                out.clear()

    def say(self, data: bytes) -> None:
        """Send ``data`` now, behind what has gathered. Raises StreamEnded."""
        if self._out:
            self._out += data
            self.flush()
        else:
            self._send(data)

    def part(self) -> None:
        """Send what has gathered, which is all that will be said, and the goodbye with it. Raises StreamEnded."""
        self.flush()

    def start_tls(
        self, context: "ssl.SSLContext", *, server_side: bool, name: str | None = None, within_s: float = HANDSHAKE_S
    ) -> "TlsStream":
        """Shake hands; the stream that is left to talk on, its own time limits the same.

        ``name`` is the server that a client asks for. What the peer has said in clear and nobody has read counts as the
        beginning of its handshake; what a LineReader has read stays with that, and never comes out of the new stream.
        Raises TlsFailed, and StreamEnded when what was gathered cannot be sent.
        """
        from pyqmail.stream.tls import TlsStream  # nobody pays for ssl who does not use it

        self.flush()
        return TlsStream(self._surrender(), context, server_side=server_side, name=name, within_s=within_s)

    def unread(self) -> bool:
        """Whether something has come from the peer's descriptor that ``read`` has not given yet."""
        return False

    @abstractmethod
    def until(self, deadline: float | None) -> None:
        """Let no wait last beyond ``deadline`` (time.monotonic), besides the limit on each; None takes it back."""

    @abstractmethod
    def close(self) -> None:
        """Say goodbye as the protocols below have it; descriptors stay with whoever opened them. Never raises."""

    @abstractmethod
    def _receive(self) -> bytes:
        """At least one byte, or what ``read`` raises."""

    @abstractmethod
    def _send(self, data: bytes | bytearray) -> None:
        """Send all of ``data``. Raises StreamEnded."""

    @abstractmethod
    def _surrender(self) -> "Stream":
        """The same conversation as another object; this one is at its end."""
