"""Who is connected to qmail-shadowd, and when each is heard.

A record of the queue is heard at once: somebody waits for the answer. Those of whoever delivers can wait, and are read
twenty times a second, so that each is no turn of the loop; what has been sent is heard after the end of who sent it.
"""

import os
import socket
from collections.abc import Callable, Collection

from pyqmail.protocol import shadow
from pyqmail.system.foreign import rights_of
from pyqmail.system.loop import Loop
from pyqmail.system.peer import peer_credentials

CONNECTIONS_MAX = 256
HEAR_S = 0.05  # from one time that a client is heard who can wait to the next
HEARD_MAX = 512  # records of one client in a turn of the loop


class Client:
    """A connection. ``open``: the IDs that it asked for and has not called kept; True once they are copied."""

    def __init__(self, sock: socket.socket, uid: int) -> None:
        self.sock = sock
        self.uid = uid
        self.open: dict[str, bool] = {}
        self.serves = False  # it delivers what is ours, and can wait
        self.told: frozenset[str] = frozenset()  # which messages others have taken

    def say(self, *words: bytes) -> None:
        """One record; who has gone is heard to have."""
        try:
            self.sock.send(shadow.format_record(*words), socket.MSG_NOSIGNAL)
        except OSError:
            return


Obey = Callable[[Client, bytes, list[bytes], list[int]], bool]


class Clients:
    """All connections of ``uids``; whoever else comes is closed unread.

    ``obey`` gets each record: its word, the rest and the descriptors, which are closed unless it takes them out; it
    tells whether the client may say that, and who may not is left. ``left`` hears who has gone.
    """

    def __init__(
        self, loop: Loop, listener: socket.socket, uids: Collection[int], obey: Obey, left: Callable[[Client], None]
    ) -> None:
        self.all: set[Client] = set()
        self._loop = loop
        self._listener = listener
        self._uids = uids
        self._obey = obey
        self._left = left
        loop.add_reader(listener.fileno(), self._accept)

    def _accept(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except OSError:
            return
        uid = peer_credentials(sock)[1]
        if uid not in self._uids or len(self.all) >= CONNECTIONS_MAX:
            sock.close()
            return
        sock.setblocking(False)
        client = Client(sock, uid)
        self.all.add(client)
        self._loop.add_reader(sock.fileno(), lambda: self._heard(client))

    def _heard(self, client: Client) -> None:
        """There is a record; those of whoever can wait are heard now and then, so that each is no turn of the loop."""
        if self._hear(client) and client.serves:
            self._loop.remove_reader(client.sock.fileno())
            self._loop.call_later(HEAR_S, lambda: self._hear_all(client))

    def _hear_all(self, client: Client) -> None:
        """What has gathered of one who can wait; nothing: the next record is waited for."""
        count = 0
        while count < HEARD_MAX and self._hear(client):
            count += 1
        if client not in self.all:
            return
        if count:
            self._loop.call_later(HEAR_S, lambda: self._hear_all(client))
        else:
            self._loop.add_reader(client.sock.fileno(), lambda: self._heard(client))

    def _hear(self, client: Client) -> bool:
        """Whether there was one record. One who has gone is left, and one who says what is none."""
        fds: list[int] = []
        try:
            data, ancillary, _, _ = client.sock.recvmsg(
                shadow.RECORD_MAX + 1, socket.CMSG_SPACE(2 * 4), socket.MSG_CMSG_CLOEXEC
            )
            if ancillary:
                fds = rights_of(ancillary)
            word, *rest = shadow.parse_record(data) or [b""]
            if self._obey(client, word, rest, fds):
                return True
        except BlockingIOError:
            return False
        except OSError:
            pass
        finally:
            for fd in fds:
                os.close(fd)
        self._leave(client)
        return False

    def _leave(self, client: Client) -> None:
        self._loop.remove_reader(client.sock.fileno())
        client.sock.close()
        self.all.discard(client)
        self._left(client)
