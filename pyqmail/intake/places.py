"""Which worker the next connection of a stranger goes to, and when there is a place for a new one.

Who shares a part (intake/shares.py) has at most PLACES workers, all strangers together TOTAL, those of the system's own
users apart. A full place is made free by an idle worker only; else the connection waits.
"""

import _socket
import time
from collections import deque
from collections.abc import Callable, Mapping

from pyqmail.intake.workers import WorkerLink, Workers
from pyqmail.system.loop import Loop

PLACES = 2  # workers of one share
TOTAL = 16  # workers of all strangers
IN_HAND = 16  # jobs that one worker may have been sent and not have taken
TAKING_SECONDS = 0.02  # until it has probably taken some of them
FORK_SECONDS = 0.05  # between two workers of one share: many uids of one owner cost the others no more than that


class Group:
    """One share: its workers, and its connections that wait."""

    __slots__ = ("forked", "key", "links", "postponed", "unburied", "waiting")

    def __init__(self, key: int) -> None:
        self.key = key
        self.links: list[WorkerLink] = []  # those that are dying too
        self.waiting: deque[tuple[int, _socket.socket, float]] = deque()  # uid, connection, since when
        self.unburied: list[_socket.socket] = []  # answered, and not to be closed here
        self.forked = 0.0
        self.postponed = False


class Places:
    """The places for workers of strangers; ``again`` is called with a group that is worth another look."""

    def __init__(
        self,
        loop: Loop,
        workers: Workers,
        slots: Callable[[int], int],
        groups: Mapping[int, Group],
        again: Callable[[Group], None],
    ) -> None:
        self._loop = loop
        self._workers = workers
        self._slots = slots  # open submissions that a uid may have
        self._groups = groups
        self._again = again
        accounts = workers.accounts
        self.system = {
            0, accounts.uid_alias, accounts.uid_daemon, accounts.uid_passwd, accounts.uid_queue, accounts.uid_remote,
            accounts.uid_send,
        }  # fmt: skip
        self.stopping = False  # no new workers

    def link_for(self, group: Group, uid: int) -> WorkerLink | None:
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
        return self.start(group, uid)

    def start(self, group: Group, uid: int) -> WorkerLink | None:
        """A new worker for ``uid``; None when there is no place, which an idle one is asked to leave."""
        if self.stopping:
            return None
        if len(group.links) >= PLACES:
            self._end_idle(group.links)
            return None
        if group.key not in self.system:
            others = [link for key, one in self._groups.items() if key not in self.system for link in one.links]
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
                self._again(group)

            self._loop.call_later(seconds, again)

    def _end_idle(self, links: list[WorkerLink]) -> None:
        """Make a place, unless one is being made: the worker that has had nothing to do for longest goes."""
        if any(link.retiring and not link.jobs and link.quiet < 2 for link in links):
            return
        idle = [link for link in links if not link.jobs and not link.retiring]
        if idle:
            self._workers.replace(max(idle, key=lambda link: link.idle_ticks))
