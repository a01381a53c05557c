"""What the parent of qmail-queued lends to workers that accept for themselves: a place at the door, and numbers."""

import socket
from collections.abc import Callable, Collection

from pyqmail.intake.acceptance import LEASED, NO_LEASE, OwnDoor
from pyqmail.protocol import queued
from pyqmail.warm import wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyqmail.intake.workers import WorkerLink


class Leases:
    """Each worker may have ``most`` connections of ``uids`` at ``listener``.

    ``serials`` gives so many numbers, or raises OSError; ``away`` is called when a worker has stopped to accept, and
    ``left`` when meanwhile one of those that it has is over.
    """

    def __init__(
        self,
        listener: socket.socket,
        uids: Collection[int],
        most: int,
        serials: Callable[[int], tuple[int, int]],
        away: Callable[[], None],
        left: Callable[[], None],
    ) -> None:
        self._listener = listener
        self._uids = uids
        self._most = most
        self._serials = serials
        self._away = away
        self._left = left

    def door(self) -> OwnDoor:
        """A new worker's place, with a lease of serials if there are any."""
        return OwnDoor(self._listener, self._uids, self._most, self._lease())

    def hear(self, link: "WorkerLink", word: int) -> None:
        """What a worker has said among the jobs that are over; no job is called so."""
        if word == queued.LEASE:
            self._extend(link)
        elif word == queued.AWAY:
            link.lent = link.recalled = False
            self._away()
        elif word == queued.LEFT:
            self._left()

    def tick(self, links: "list[WorkerLink]") -> None:
        """Give numbers to those that still want them."""
        for link in links:
            if link.wants_lease and not link.retiring:
                self._extend(link)

    def _extend(self, link: "WorkerLink") -> None:
        lease = self._lease()
        link.wants_lease = lease == NO_LEASE or not _say(link, lease)

    def _lease(self) -> tuple[int, int]:
        try:
            return self._serials(LEASED)
        except OSError:
            return NO_LEASE


def lend(link: "WorkerLink") -> None:
    """Have ``link`` accept."""
    link.lent = _say(link, queued.ACCEPT)


def recall(links: "list[WorkerLink]") -> None:
    """Have those of ``links`` that accept stop it; each is counted as if it did until it says that it has."""
    for link in links:
        if link.lent and not link.recalled:
            link.recalled = _say(link, queued.REST)


def look_round(links: "list[WorkerLink]") -> None:
    """Now and then: a worker that waits and has shown nothing while others did is asked to, and so found out."""
    turns = {link.pid: link.pulse.read()[0] for link in links}
    if any(link.turns != turns[link.pid] for link in links):
        for link in links:
            if link.turns == turns[link.pid] and not link.at_work() and not link.retiring:
                _say(link, queued.KNOCK)
            link.turns = turns[link.pid]


def _say(link: "WorkerLink", lease: tuple[int, int]) -> bool:
    try:
        wire.send_record(link.socket, queued.format_lease(*lease))
    except OSError:
        return False  # it has no room, or has ended
    link.sent += 1
    return True
