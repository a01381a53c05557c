"""Connections of whoever is none of our own warm programs: each is served by a worker for its uid alone.

The parent touches nothing that came on such a connection, and does not even close one that might be the last to hold
what came: it hands it to that uid's worker, or back to the client itself. Who shares a part (intake/shares.py) has at
most PLACES workers, all strangers together TOTAL, those of the system's own users apart; what finds no worker waits.
"""

import array
import os
import select
import socket
import time
from collections import deque
from collections.abc import Callable

from pyqmail.exits import QueueExit
from pyqmail.intake.shares import Shares
from pyqmail.intake.workers import WorkerLink, Workers
from pyqmail.protocol import queued
from pyqmail.system.loop import Loop

PLACES = 2  # workers of one share
TOTAL = 16  # workers of all strangers
IN_HAND = 16  # jobs that one worker may have been sent and not have taken
TAKING_SECONDS = 0.02  # until it has probably taken some of them
IDLE_TICKS = 20  # before a worker without work is ended
WAIT_SECONDS = 60.0  # for a worker, then 53
FORK_SECONDS = 0.05  # between two workers of one share: many uids of one owner cost the others no more than that
WAITING_MAX = 400  # connections of one share that wait
SHARE = 8  # of the descriptors, the part that those may be


class Group:
    """One share: its workers, and its connections that wait."""

    __slots__ = ("forked", "key", "links", "postponed", "unburied", "waiting")

    def __init__(self, key: int) -> None:
        self.key = key
        self.links: list[WorkerLink] = []  # those that are dying too
        self.waiting: deque[tuple[int, socket.socket, float]] = deque()  # uid, connection, since when
        self.unburied: list[socket.socket] = []  # answered, and not to be closed here
        self.forked = 0.0
        self.postponed = False


class Strangers:
    """Who waits for which worker."""

    def __init__(
        self, loop: Loop, workers: Workers, serial: Callable[[], int], slots: Callable[[int], int], descriptors: int
    ) -> None:
        self._loop = loop
        self._workers = workers
        self._serial = serial
        self._slots = slots  # open submissions that a uid may have
        self._waiting_max = min(WAITING_MAX, descriptors // SHARE)
        self._held_max = descriptors // 2
        self._held = 0
        self._shares = Shares()
        accounts = workers.accounts
        self._system = {
            0, accounts.uid_alias, accounts.uid_daemon, accounts.uid_passwd, accounts.uid_queue, accounts.uid_remote,
            accounts.uid_send,
        }  # fmt: skip
        self._groups: dict[int, Group] = {}
        self._silent: set[socket.socket] = set()  # of root's, who has not said anything yet
        self.stopping = False

    @property
    def full(self) -> bool:
        """Whether as many connections are held as may be: the public door waits."""
        return self._held >= self._held_max

    @property
    def busy(self) -> bool:
        """Whether there is anybody to look after."""
        return bool(self._groups)

    def take(self, uid: int, connection: socket.socket) -> None:
        """See to a connection of ``uid``."""
        group = self._group(uid)
        self._held += 1
        if group.key == 0 and not group.links:
            self._wait_for_a_word(group, uid, connection)
        elif len(group.waiting) >= self._waiting_max:
            self._refuse(group, connection)
        else:
            self._enter(group, uid, connection)

    def answer(self, uid: int, connection: socket.socket, record: bytes) -> None:
        """Say ``record`` to ``uid`` and let go of the connection where that harms nobody."""
        group = self._group(uid)
        self._held += 1
        _say(connection, record)
        self._put_away(group, connection)

    def _group(self, uid: int) -> Group:
        key = uid if uid in self._system else self._shares.of(uid)
        group = self._groups.get(key)
        if group is None:
            group = self._groups[key] = Group(key)
        return group

    def _enter(self, group: Group, uid: int, connection: socket.socket) -> None:
        group.waiting.append((uid, connection, time.monotonic()))
        self.advance(group)

    def _wait_for_a_word(self, group: Group, uid: int, connection: socket.socket) -> None:
        """No worker is made for a root who only looks whether somebody answers here."""

        def word() -> None:
            self._loop.remove_reader(connection.fileno())
            self._silent.discard(connection)
            look = select.poll()
            look.register(connection, 0)
            if look.poll(0):  # hung up
                connection.close()
                self._held -= 1
            else:
                self._enter(self._group(uid), uid, connection)

        self._silent.add(connection)
        self._loop.add_reader(connection.fileno(), word)

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
            link = self._link_for(group, uid)
            if link is None:
                break
            group.waiting.popleft()
            self._held -= 1
            self._workers.give(link, uid, connection, self._serial())
        if group.unburied and not group.links:
            self._start(group, group.key)  # if only to close what nobody else can
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

    def held(self) -> list[socket.socket]:
        """The connections that nobody has been given."""
        found = list(self._silent)
        for connection in found:
            self._loop.remove_reader(connection.fileno())
        self._silent.clear()
        for group in self._groups.values():
            found += [connection for _, connection, _ in group.waiting] + group.unburied
            group.waiting.clear()
            group.unburied.clear()
        return found

    def _link_for(self, group: Group, uid: int) -> WorkerLink | None:
        """The worker that the next connection of ``uid`` goes to; None if it has to wait."""
        if sum(len(link.jobs) for link in group.links) >= self._slots(uid):
            return None
        mine = [link for link in group.links if link.uid == uid and not link.retiring and link.quiet < 2]
        if mine:
            link = min(mine, key=WorkerLink.in_hand)
            if link.in_hand() < IN_HAND:
                return link
            self._postpone(group, TAKING_SECONDS)
            return None
        return self._start(group, uid)

    def _start(self, group: Group, uid: int) -> WorkerLink | None:
        """A new worker for ``uid``; None when there is no place, which an idle one is asked to leave."""
        if self.stopping:
            return None
        if len(group.links) >= PLACES:
            self._end_idle(group.links)
            return None
        if group.key not in self._system:
            others = [link for key, one in self._groups.items() if key not in self._system for link in one.links]
            if len(others) >= TOTAL:
                self._end_idle(others)
                return None
        pause = group.forked + FORK_SECONDS - time.monotonic()
        if pause > 0 and group.links:
            self._postpone(group, pause)
            return None
        group.forked = time.monotonic()
        link = self._workers.start(uid, group.key)
        if link is None:
            self._postpone(group, 1.0)
        else:
            group.links.append(link)
        return link

    def _postpone(self, group: Group, seconds: float) -> None:
        if not group.postponed:
            group.postponed = True

            def again() -> None:
                group.postponed = False
                self.advance(group)

            self._loop.call_later(seconds, again)

    def _end_idle(self, links: list[WorkerLink]) -> None:
        """Make a place, unless one is being made: the worker that has had nothing to do for longest goes."""
        if any(link.retiring and not link.jobs and link.quiet < 2 for link in links):
            return
        idle = [link for link in links if not link.jobs and not link.retiring]
        if idle:
            self._workers.replace(max(idle, key=lambda link: link.idle_ticks))

    def _refuse(self, group: Group, connection: socket.socket) -> None:
        _say(connection, queued.format_answer(QueueExit.WRITE_ERROR, 0))
        self._put_away(group, connection)

    def _put_away(self, group: Group, connection: socket.socket) -> None:
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


def _say(connection: socket.socket, record: bytes) -> None:
    try:
        connection.send(record, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
    except OSError:
        return  # the client has gone


def _leave_to_client(connection: socket.socket) -> bool:
    """Put ``connection`` itself on its way to the client, who then is the last to hold it, and what came on it."""
    rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [connection.fileno()]).tobytes())
    try:
        connection.sendmsg([b"\0"], [rights], socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
    except OSError:
        return False
    return True


def keep_until_closed(connections: list[socket.socket], keep_only: Callable[[tuple[int, ...]], None]) -> None:
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
