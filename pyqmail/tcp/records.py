"""TLS records between bytes in memory, for who moves the bytes himself."""

import ssl

from pyqmail.stream.stream import CHUNK, StreamEnded
from pyqmail.stream.tls import TlsStream


class Records:
    """TLS after its handshake, between bytes in memory."""

    def __init__(self, stream: TlsStream) -> None:
        """``stream`` is at its end. Raises StreamEnded."""
        self._ssl, self._incoming, self._outgoing = stream.release()

    def open(self, data: bytes) -> tuple[bytes, bool]:
        """What the client says in its records ``data``, and whether that was all."""
        self._incoming.write(data)
        plain = bytearray()
        try:
            while piece := self._ssl.read(CHUNK):
                plain += piece
        except ssl.SSLWantReadError:
            return bytes(plain), False
        except ssl.SSLError:
            pass
        return bytes(plain), True

    def seal(self, data: bytes) -> bytes:
        """The records for ``data``; for none the goodbye. Raises StreamEnded."""
        try:
            if data:
                self._ssl.write(data)
            else:
                self._ssl.unwrap()
        except ssl.SSLError:  # unwrap would wait for the client's goodbye
            if data:
                raise StreamEnded from None
        return self.waiting()

    def waiting(self) -> bytes:
        """Records that OpenSSL wants to be sent."""
        return self._outgoing.read()
