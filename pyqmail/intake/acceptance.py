"""What a shared worker accepts for itself: connections to the socket of our own programs (intake/overflow says why).

It does when the parent lets it, and may have so many connections of its own, which the parent takes for what it has.
With as many slow ones, without numbers for submissions or without descriptors it stops, says so, and waits for a word.

Only who got past the socket's access list comes here, and the kernel says who that is. Should it be anybody else, the
list has been taken away: his connection is answered, not even closed, and the worker asks to be replaced.
"""

import socket
from collections.abc import Callable, Collection

from pyqmail.exits import QueueExit
from pyqmail.intake.parent_link import ParentLink
from pyqmail.intake.pulse import Pulse
from pyqmail.intake.receipt import Receipt
from pyqmail.protocol import queued
from pyqmail.system.accepting import accept_number
from pyqmail.system.loop import Loop
from pyqmail.system.peer import peer_credentials

ACCEPTS_A_TURN = 64
LEASED = 1000  # serials of one lease
NO_LEASE = (0, 0)


class OwnDoor:
    """What a worker is born with: the ``listener``, whose clients are ``uids``, how many of their connections it may
    have at once, and a lease of serials."""

    __slots__ = ("lease", "listener", "most", "uids")

    def __init__(self, listener: socket.socket, uids: Collection[int], most: int, lease: tuple[int, int]) -> None:
        self.listener = listener
        self.uids = uids
        self.most = most
        self.lease = lease


class Acceptance:
    """A worker at its own programs' door. ``begin`` is called with each submission."""

    def __init__(
        self, loop: Loop, parent: ParentLink, pulse: Pulse, door: OwnDoor, begin: Callable[[Receipt], None]
    ) -> None:
        self._loop = loop
        self._parent = parent
        self._pulse = pulse
        self._door = door
        self._begin = begin
        self._next, self._end = door.lease
        self._further: tuple[int, int] | None = None  # the lease after this one
        self._asked = False  # for that
        self._accepted = self._open = 0
        self._accepting = self._closed = False
        self._foreign: list[Receipt] = []  # what must not even be closed

    def take(self) -> None:
        """Accept what waits, so that what came during a commit makes the next batch."""
        for _ in range(ACCEPTS_A_TURN):
            if self._open >= self._door.most:  # those that are whole are committed before the next turn
                return
            if self._next >= self._end:
                self._stop()
                return
            try:
                fd, _ = accept_number(self._door.listener)
            except BlockingIOError:
                return
            except OSError:
                self._stop()
                return
            self._accepted += 1
            self._open += 1
            self._pulse.show_door(self._accepted, self._open)
            self._admit(Receipt(-self._accepted, self._serial(), fd))

    def _admit(self, receipt: Receipt) -> None:
        receipt.uid = peer_credentials(receipt.connection)[1]
        if receipt.uid in self._door.uids:
            self._begin(receipt)
        else:
            receipt.answer(QueueExit.WRITE_ERROR)
            self._foreign.append(receipt)
            self._parent.retire()

    def _serial(self) -> int:
        serial = self._next
        self._next += 1
        if self._next >= self._end and self._further is not None:
            (self._next, self._end), self._further = self._further, None
        if not self._asked and self._further is None and self._end - self._next <= LEASED // 2:
            self._asked = True
            self._parent.over(queued.LEASE)
        return serial

    def obey(self, lease: tuple[int, int]) -> None:
        """The parent has given more serials, or a word."""
        if lease == queued.REST:
            self._stop()
        elif lease == queued.ACCEPT:
            self._accept()
        elif lease != queued.KNOCK:
            self._asked = False
            if self._next >= self._end:
                self._next, self._end = lease
            else:
                self._further = lease

    def left(self) -> None:
        """A submission that was accepted here is over."""
        self._open -= 1
        self._pulse.show_door(self._accepted, self._open)
        if not self._accepting:
            self._parent.over(queued.LEFT)

    def settle(self) -> None:
        """At the end of a turn: accept no more while there are many slow ones, nor ever when this worker is to end."""
        if self._parent.gone or self._parent.retiring:
            if not self._closed:
                self._stop()
                self._closed = True
                self._door.listener.close()
        elif self._open >= self._door.most:
            self._stop()

    def _accept(self) -> None:
        if self._closed or self._accepting:
            return
        self._accepting = True
        self._loop.add_shared_reader(self._door.listener.fileno(), self.take)

    def _stop(self) -> None:
        if self._accepting:
            self._accepting = False
            self._loop.remove_reader(self._door.listener.fileno())
            self._parent.over(queued.AWAY)
