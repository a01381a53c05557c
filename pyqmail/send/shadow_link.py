"""What qmail-send tells qmail-shadowd: which messages have left the queue (qmail-shadowd(8)).

What is told stays here until the copy is known to be gone, and is told again to the next qmail-shadowd. A message whose
end was never heard keeps its copy, and would be delivered once more if this machine died for good.
"""

import socket

from pyqmail.formats.todo import parse_info_shadow
from pyqmail.log.events import Warn
from pyqmail.log.sinks import Sink
from pyqmail.protocol import shadow
from pyqmail.spool.layout import Layout
from pyqmail.system import files
from pyqmail.system.loop import Loop

AGAIN_S = 1.0  # before another try to connect, or to send what was not taken
ENDED_MAX = 200_000  # that wait to be told
INFO_MAX = 4096  # bytes of info/N that are read


class ShadowLink:
    """The connection, made when it is needed and again when the service is another one."""

    def __init__(self, loop: Loop, layout: Layout, log: Sink) -> None:
        self._loop = loop
        self._layout = layout
        self._log = log
        self._socket: socket.socket | None = None
        self._untold: dict[bytes, None] = {}
        self._told: dict[bytes, None] = {}
        self._waiting = False  # for the moment to tell
        self._lost = False  # some were forgotten
        self._tell()

    def identity(self, number: int) -> bytes:
        """The ID of the copy of ``number``, which is preprocessed; nothing where it has none or that cannot be read."""
        try:
            return parse_info_shadow(files.read_file(self._layout.info(number), INFO_MAX))
        except OSError:
            return b""

    def ended(self, identity: bytes) -> None:
        """The message of that copy has left the queue; nothing for a message without one."""
        if not identity:
            return
        if len(self._untold) + len(self._told) >= ENDED_MAX:
            if not self._lost:
                self._log(Warn(b"qmail-shadowd does not answer: copies of messages that have ended stay"))
            self._lost = True
            return
        self._untold[identity] = None
        if not self._waiting:
            self._waiting = True
            self._loop.before_wait(self._tell)

    @property
    def idle(self) -> bool:
        """Whether all was told that can be."""
        return self._socket is None or not self._untold

    def _tell(self) -> None:
        """Tell what has gathered."""
        self._waiting = False
        try:
            sock = self._connection()
            while self._untold:
                ids = list(self._untold)[: shadow.IDS_MAX]
                sock.send(shadow.format_record(shadow.ENDED, *ids), socket.MSG_NOSIGNAL)
                for identity in ids:
                    del self._untold[identity]
                    self._told[identity] = None
        except BlockingIOError:
            self._tell_later()
        except OSError:
            self._close()

    def _tell_later(self) -> None:
        if not self._waiting:
            self._waiting = True
            self._loop.call_later(AGAIN_S, self._tell)

    def _connection(self) -> socket.socket:
        """The connection. Raises OSError."""
        if self._socket is None:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
            try:
                sock.connect(self._layout.home + shadow.SOCKET)
            except OSError:
                sock.close()
                raise
            self._socket = sock
            self._loop.add_reader(sock.fileno(), self._hear)
        return self._socket

    def _hear(self) -> None:
        """Which copies are gone, or the end of the service."""
        assert self._socket is not None
        try:
            words = shadow.parse_record(self._socket.recv(shadow.RECORD_MAX))
        except BlockingIOError:
            return
        except OSError:
            words = []
        if not words:
            self._close()
            return
        if words[0] == shadow.GONE:
            for identity in words[1:]:
                self._told.pop(identity, None)
            self._lost = self._lost and len(self._untold) + len(self._told) >= ENDED_MAX

    def _close(self) -> None:
        """There is no service now: tell everything to the next one."""
        if self._socket is not None:
            self._loop.remove_reader(self._socket.fileno())
            self._socket.close()
            self._socket = None
        self._untold = {**self._told, **self._untold}
        self._told.clear()
        self._tell_later()
