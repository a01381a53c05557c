"""Connections of whoever is none of our own warm programs: each is served by a worker for its uid alone.

The parent touches nothing that came on such a connection, and does not even close one that might be the last to hold
what came: it hands it to that uid's worker, or back to the client itself. What finds no worker (intake/places) waits.
"""

import _socket
import array
import os
import socket
import time
from collections.abc import Callable

from pyqmail.exits import QueueExit
from pyqmail.intake.first_words import FirstWords
from pyqmail.intake.places import IN_HAND, Group, Places
from pyqmail.intake.shares import Shares
from pyqmail.intake.workers import WorkerLink, Workers
from pyqmail.protocol import queued
from pyqmail.system.loop import Loop

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyqmail.intake.flood import Flood

IDLE_TICKS = 20  # before a worker without work is ended
WAIT_SECONDS = 60.0  # for a worker, then 53
WAITING_MAX = 400  # connections of one share that wait
SHARE = 8  # of the descriptors, the part that those may be


class Strangers:
    """Who waits for which worker."""

    def __init__(
        self,
        loop: Loop,
        workers: Workers,
        serial: Callable[[], int],
        slots: Callable[[int], int],
        descriptors: int,
        flood: "Flood | None" = None,
    ) -> None:
        self._flood = flood
        self._workers = workers
        self._serial = serial
        self._waiting_max = min(WAITING_MAX, descriptors // SHARE)
        self._held_max = descriptors // 2
        self._held = 0
        self._shares = Shares()
        self._groups: dict[int, Group] = {}
        self._first_words = FirstWords(loop)
        self.places = Places(loop, workers, slots, self._groups, self.advance)

    @property
    def full(self) -> bool:
        """Whether as many connections are held as may be: the public door waits."""
        return self._held >= self._held_max

    @property
    def busy(self) -> bool:
        """Whether there is anybody to look after."""
        return bool(self._groups)

    def take(self, uid: int, connection: _socket.socket) -> None:
        """See to a connection of ``uid``."""
        group = self._group(uid)
        self._held += 1
        if group.key == 0 and not group.links:
            self._wait_for_a_word(uid, connection)
        elif len(group.waiting) >= self._waiting_max:
            self._refuse(group, connection)
        elif self._flood is not None and group.key not in self.places.system and self._flood.over(group.key):
            self._refuse(group, connection, QueueExit.NEXT_HOP_TEMPORARY)
        else:
            self._enter(group, uid, connection)

    def answer(self, uid: int, connection: _socket.socket, record: bytes) -> None:
        """Say ``record`` to ``uid`` and let go of the connection where that harms nobody."""
        group = self._group(uid)
        self._held += 1
        _say(connection, record)
        self._put_away(group, connection)

    def _group(self, uid: int) -> Group:
        key = uid if uid in self.places.system else self._shares.of(uid)
        group = self._groups.get(key)
        if group is None:
            group = self._groups[key] = Group(key)
        return group

    def _enter(self, group: Group, uid: int, connection: _socket.socket) -> None:
        group.waiting.append((uid, connection, time.monotonic()))
        self.advance(group)

    def _wait_for_a_word(self, uid: int, connection: _socket.socket) -> None:
        """No worker is made for a root who only looks whether somebody answers here."""

        def gone() -> None:
            self._held -= 1

        self._first_words.wait(connection, lambda: self._enter(self._group(uid), uid, connection), gone)

    def freed(self, link: WorkerLink) -> None:
        """A worker has finished a job."""
        group = self._groups.get(link.share)
        if group is not None:
            self.advance(group)

    def ended(self, link: WorkerLink) -> None:
        """A worker has really ended: its place is free."""
        group = self._groups.get(link.share)
        if group is not None and link in group.links:
            group.links.remove(link)
        self._take_back(link)
        for other in list(self._groups.values()):
            self.advance(other)

    def _take_back(self, link: WorkerLink) -> None:
        """What was never sent to a worker that has ended waits again."""
        group = self._groups.setdefault(link.share, Group(link.share))
        while link.unsent:
            payload, uid, connection = link.unsent.pop()
            self._held += 1
            if queued.parse_job(payload)[2]:
                group.unburied.append(connection)
            else:
                group.waiting.appendleft((uid, connection, time.monotonic()))

    def advance(self, group: Group) -> None:
        """Give what waits to a worker, as far as there is one with room."""
        while group.waiting:
            uid, connection, _ = group.waiting[0]
            link = self.places.link_for(group, uid)
            if link is None:
                break
            group.waiting.popleft()
            self._held -= 1
            self._workers.give(link, uid, connection, self._serial())
        if group.unburied and not group.links:
            self.places.start(group, group.key)  # if only to close what nobody else can
        for link in group.links:
            self._bury(group, link)
        if not group.waiting and not group.links and not group.unburied:
            self._groups.pop(group.key, None)

    def tick(self) -> None:
        """Refuse who has waited too long, end workers that have been idle, and look again at all others."""
        late = time.monotonic() - WAIT_SECONDS
        for group in list(self._groups.values()):
            while group.waiting and group.waiting[0][2] <= late:
                _, connection, _ = group.waiting.popleft()
                self._refuse(group, connection)
            for link in group.links:
                if link.idle_ticks >= IDLE_TICKS:
                    self._workers.retire(link)
            self.advance(group)

    def held(self) -> list[_socket.socket]:
        """The connections that nobody has been given."""
        found = self._first_words.release()
        for group in self._groups.values():
            found += [connection for _, connection, _ in group.waiting] + group.unburied
            group.waiting.clear()
            group.unburied.clear()
        return found

    def _refuse(self, group: Group, connection: _socket.socket, code: int = QueueExit.WRITE_ERROR) -> None:
        _say(connection, queued.format_answer(code, 0))
        self._put_away(group, connection)

    def _put_away(self, group: Group, connection: _socket.socket) -> None:
        """Let the client be the last to hold a connection; if that one has gone, keep it for a worker of the share."""
        if group.key == 0 or _leave_to_client(connection):  # root can do worse than to make this process wait
            connection.close()
            self._held -= 1
            return
        group.unburied.append(connection)
        self.advance(group)

    def _bury(self, group: Group, link: WorkerLink) -> None:
        while group.unburied and not link.retiring and link.quiet < 1 and link.in_hand() < IN_HAND:
            self._held -= 1
            self._workers.give(link, link.uid or 0, group.unburied.pop(), 0, QueueExit.WRITE_ERROR)


def _say(connection: _socket.socket, record: bytes) -> None:
    try:
        connection.send(record, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
    except OSError:
        return  # the client has gone


def _leave_to_client(connection: _socket.socket) -> bool:
    """Put ``connection`` itself on its way to the client, who then is the last to hold it, and what came on it."""
    rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [connection.fileno()]).tobytes())
    try:
        connection.sendmsg([b"\0"], [rights], socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
    except OSError:
        return False
    return True


def keep_until_closed(connections: list[_socket.socket], keep_only: Callable[[tuple[int, ...]], None]) -> None:
    """Close ``connections`` here while a child holds them too, which closes them last: it may take for ever."""
    if not connections:
        return
    reader, writer = os.pipe()
    if os.fork() == 0:
        try:
            keep_only((reader, *(connection.fileno() for connection in connections)))
            os.read(reader, 1)
        finally:
            os._exit(0)
    os.close(reader)
    for connection in connections:
        connection.close()
    os.close(writer)
