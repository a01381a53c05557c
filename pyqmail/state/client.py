"""Asking qmail-stated (qmail-stated(8)). Light: qmail-smtpd imports it once something is limited."""

import _socket
import struct

from pyqmail.protocol.state import RECORD_MAX, SOCKET, format_record, parse_record

ANSWER_S = 1  # to wait for; it takes well below a millisecond


class StateClient:
    """A connection to qmail-stated of ``home``, opened when it is needed and again when the service is another one."""

    def __init__(self, home: str) -> None:
        self.home = home
        self._socket: _socket.socket | None = None

    def ask(self, *words: bytes) -> list[bytes]:
        """The answer; nothing where nobody answers. Never raises."""
        record = format_record(*words)
        for _ in range(2):
            fresh = self._socket is None
            try:
                sock = self._socket = self._socket or connect(self.home)
                sock.send(record, _socket.MSG_NOSIGNAL)
                answer = parse_record(sock.recv(RECORD_MAX + 1))
                ended = not answer
            except OSError as error:
                answer, ended = [], isinstance(error, ConnectionError)
            if answer:
                return answer
            self.close()  # an answer that is late goes with it
            if fresh or not ended:
                break
        return []

    def close(self) -> None:
        """Give back the connection."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def connect(home: str) -> _socket.socket:
    """A connection to qmail-stated that waits ANSWER_S at most for anything. Raises OSError."""
    sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC)
    try:
        limit = struct.pack("ll", ANSWER_S, 0)
        sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_RCVTIMEO, limit)
        sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_SNDTIMEO, limit)
        sock.connect(home + SOCKET)
    except OSError:
        sock.close()
        raise
    return sock
