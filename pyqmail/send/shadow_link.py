"""What qmail-send tells qmail-shadowd, which recipients are done and which messages have left, and what it hears: until
when the messages that have copies are this node's to deliver, and which are others' by now (qmail-shadowd(8)).

What is told stays here until the copy is known to be gone, and is told again to the next qmail-shadowd; a qmail-send
that ends in order leaves it to its successor (spool/ended). A message whose end was never heard keeps its copy, and is
delivered once more when the machine is started anew, or by whoever adopts it.
"""

import socket

from pyqmail.formats.todo import parse_info_shadow
from pyqmail.log.events import Warn
from pyqmail.log.sinks import Sink
from pyqmail.protocol import shadow
from pyqmail.send.fence import Fence
from pyqmail.spool.ended import read_ended, write_ended
from pyqmail.spool.layout import Layout
from pyqmail.system import files
from pyqmail.system.boot_clock import since_boot
from pyqmail.system.loop import Loop

AGAIN_S = 1.0  # before another try to connect, or to send what was not taken
ENDED_MAX = 200_000  # that wait to be told
MARK_S = 1.0  # from a recipient to the next record of marks
MARKS_MAX = 10_000  # of one record's time
WAIT_S = 5  # before a message that waits for the lease is looked at again
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
        self._marks: list[tuple[bytes, bytes, bytes]] = []
        self._marking = False  # for the moment to tell them
        self.fence = Fence(loop.call_later, since_boot, log)
        self._until = 0.0  # of the lease, in seconds since boot
        self._margin_s = 0.0  # after it
        self._taken: set[bytes] = set()
        self._waits = False  # it was said that messages wait for the lease
        try:
            self._untold.update(dict.fromkeys(filter(shadow.is_id, read_ended(layout))))
        except OSError as error:
            log(Warn(b"unable to read queue/pyqmail/ended: " + (error.strerror or "").encode()))
        self._tell()

    def identity(self, number: int) -> bytes:
        """The ID of the copy of ``number``, which is preprocessed; nothing where it has none or that cannot be read."""
        try:
            return parse_info_shadow(files.read_file(self._layout.info(number), INFO_MAX))
        except OSError:
            return b""

    def withholds(self, identity: bytes) -> bool:
        """Whether the message of that copy may not be delivered now: its lease is over, or was never heard of."""
        if not identity:
            return False
        if since_boot() < self._until:
            self._waits = False
            return False
        if not self._waits:
            self._log(Warn(b"no lease: messages that have copies wait, or others may deliver them too"))
        self._waits = True
        return True

    def is_taken(self, identity: bytes) -> bool:
        """Whether another node has adopted the message of that copy."""
        return identity in self._taken

    def stops(self, identity: bytes) -> bool:
        """Whether no further delivery of it may start: one or the other."""
        return self.withholds(identity) or identity in self._taken

    def done(self, identity: bytes, channel: str, offset: int, recipient: bytes) -> None:
        """``recipient``, as its sender wrote it, is reached: told after a moment, unless the message ends sooner."""
        if not identity or len(self._marks) >= MARKS_MAX:
            return
        self._marks.append((identity, b"%b:%d" % (channel.encode(), offset), recipient))
        if not self._marking:
            self._marking = True
            self._loop.call_later(MARK_S, self._tell_marks)

    def _tell_marks(self) -> None:
        self._marking = False
        marks, self._marks = self._marks, []
        marks = [mark for mark in marks if mark[0] not in self._told and mark[0] not in self._untold]
        while marks and self._socket is not None:
            words = [word for mark in marks[: shadow.MARKS_MAX] for word in mark]
            try:
                self._socket.send(shadow.format_record(shadow.DONE, *words), socket.MSG_NOSIGNAL)
            except OSError:
                return  # whoever adopts the message delivers it once more
            del marks[: shadow.MARKS_MAX]

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

    def save(self) -> None:
        """Leave to the next qmail-send what is not known to be gone."""
        try:
            write_ended(self._layout, (*self._told, *self._untold))
        except OSError as error:
            self._log(Warn(b"unable to write queue/pyqmail/ended: " + (error.strerror or "").encode()))

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
            sock.send(shadow.format_record(shadow.SERVE), socket.MSG_NOSIGNAL)
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
            self._taken.difference_update(words[1:])
            self._lost = self._lost and len(self._untold) + len(self._told) >= ENDED_MAX
        elif words[0] == shadow.TAKEN:
            self._taken.update(words[1:])
            self.fence.taken(words[1:])
        elif words[0] == shadow.MARGIN and len(words) == 2 and words[1].isdigit():
            self._margin_s = float(words[1])
        elif words[0] == shadow.LEASE and len(words) == 2 and words[1].isdigit():
            self._until = float(words[1])
            self.fence.renewed(self._until, self._margin_s)
        elif words[0] == shadow.SAY:
            self._log(Warn(b"qmail-shadowd: " + b" ".join(words[1:])))

    def _close(self) -> None:
        """There is no service now: tell everything to the next one."""
        if self._socket is not None:
            self._loop.remove_reader(self._socket.fileno())
            self._socket.close()
            self._socket = None
        self._untold = {**self._told, **self._untold}
        self._told.clear()
        self._tell_later()
