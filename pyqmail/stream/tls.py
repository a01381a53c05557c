"""TLS over any other stream (RFC 8446, RFC 5246): OpenSSL works in memory, and the stream below carries its records.

So it is the same on sockets and on pipes, and the time limits are those of the stream below.
"""

import ssl
import time
from collections.abc import Callable

from pyqmail.stream.stream import CHUNK, HANDSHAKE_S, Secured, Stream, StreamEnded, StreamTimedOut, TlsFailed


class TlsStream(Stream):
    """A conversation under TLS. ``ssl_object`` has what OpenSSL knows of it."""

    def __init__(
        self,
        below: Stream,
        context: ssl.SSLContext,
        *,
        server_side: bool,
        name: str | None = None,
        within_s: float = HANDSHAKE_S,
    ) -> None:
        """Shakes hands, in ``within_s`` at most. Raises TlsFailed."""
        super().__init__()
        self._below = below
        self._over = False  # whether the peer has said goodbye, or something that is no TLS
        self._parted = False  # whether we have said goodbye
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        try:
            self.ssl_object = context.wrap_bio(self._incoming, self._outgoing, server_side, name)
            # its methods read and write are Python's and call these, for each record
            records = getattr(self.ssl_object, "_sslobj", self.ssl_object)
            self._open: Callable[[int], bytes] = records.read
            self._seal: Callable[[bytes | bytearray], int] = records.write
            self._shake_hands(within_s, first=not server_side)
        except StreamTimedOut:
            raise TlsFailed("the handshake took too long") from None
        except StreamEnded:
            raise TlsFailed("the peer closed the connection in its handshake") from None
        except (ssl.SSLError, ValueError, OSError) as error:
            self._tell_alert()
            raise TlsFailed(reason(error)) from None
        self.secured = self._describe()

    def _shake_hands(self, within_s: float, *, first: bool) -> None:
        """``first``: it is we who begin."""
        deadline = time.monotonic() + within_s
        self._below.until(deadline)
        if not first:
            self._fetch()  # what OpenSSL would ask for by an exception, which it takes long to make
        while True:
            try:
                self.ssl_object.do_handshake()
                break
            except ssl.SSLWantReadError:
                if time.monotonic() > deadline:
                    raise StreamTimedOut from None
                self._fetch()
        self._below.until(None)  # what OpenSSL has still to say goes with what is said next

    def _describe(self) -> Secured:
        cipher = self.ssl_object.cipher() or ("", "", 0)
        return Secured(self.ssl_object.version() or "", cipher[0], cipher[2], self.ssl_object.getpeercert(True))

    def _tell_alert(self) -> None:
        """Let the peer know what OpenSSL thinks of it; the handshake has failed anyhow."""
        try:
            self._push()
        except StreamEnded:
            pass

    def unread(self) -> bool:
        return bool(self.ssl_object.pending() or self._incoming.pending) or self._below.unread()

    def until(self, deadline: float | None) -> None:
        self._below.until(deadline)

    def part(self) -> None:
        out = self._out
        if self._parted and not out:
            return
        try:
            if out:
                self._encrypt(out)
        except (ssl.SSLError, ValueError):
            raise StreamEnded from None
        finally:
            out.clear()
        if not self._parted:
            self._parted = True
            try:
                self.ssl_object.unwrap()  # writes close_notify, and would read the peer's, for which nobody waits
            except (ssl.SSLError, ValueError):
                pass
        self._push()

    def close(self) -> None:
        try:
            self.part()
        except StreamEnded:
            self._tell_alert()
        self._below.close()

    def _receive(self) -> bytes:
        while not self._over:
            if not self._incoming.pending:  # of a record that was opened nothing is left: none is as large as a CHUNK
                if self._outgoing.pending:
                    self._push()
                self._incoming.write(self._below._receive())
            try:
                data = self._open(CHUNK)
            except ssl.SSLWantReadError:
                self._fetch()
                continue
            except (ssl.SSLError, ValueError):
                self._tell_alert()
                break
            if not data:
                break
            return data
        self._over = True
        raise StreamEnded

    def _send(self, data: bytes | bytearray) -> None:
        try:
            sent = self._seal(data)
            if sent < len(data):
                self._encrypt(data[sent:])
        except (ssl.SSLError, ValueError):
            raise StreamEnded from None
        self._below._send(self._outgoing.read())

    def _encrypt(self, data: bytes | bytearray) -> None:
        """Make records of ``data``, which go in one write."""
        sent = self._seal(data)
        while sent < len(data):  # a record has 16 KiB at most
            data = data[sent:]
            sent = self._seal(data)

    def _fetch(self) -> None:
        """One more read of the stream below, after everything was sent that the peer may wait for."""
        self._push()
        self._incoming.write(self._below._receive())

    def _push(self) -> None:
        """Send what OpenSSL has to say. Nothing ever gathers in the stream below. Raises StreamEnded."""
        if self._outgoing.pending:
            self._below._send(self._outgoing.read())

    def release(self) -> "tuple[ssl.SSLObject, ssl.MemoryBIO, ssl.MemoryBIO]":
        """What OpenSSL works with: the connection, and where it reads and writes records. Whoever asks moves these from
        now on; this stream has nothing more to do with its descriptors. Raises StreamEnded."""
        self.flush()
        self._push()
        self._below = self._below._surrender()
        return self.ssl_object, self._incoming, self._outgoing

    def _surrender(self) -> "TlsStream":
        other = TlsStream.__new__(TlsStream)
        other.__dict__.update(self.__dict__)
        other._out = bytearray()
        other._below = self._below._surrender()  # ours is at its end
        return other


def reason(error: Exception) -> str:
    """What went wrong in a handshake, short enough for a log line and without addresses of memory."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate: {error.verify_message}"
    words = getattr(error, "reason", None)  # which an error made by set_ciphers does not have
    if isinstance(error, ssl.SSLError) and words:
        return str(words).lower().replace("_", " ")
    return str(error.args[0] if error.args else error)
