"""The parent's place at the door of our own programs: behind its workers, which accept for themselves.

    listener's wait queue     worker 1, worker 2, ... , parent     (EPOLLEXCLUSIVE: the first that waits is woken)

A small message costs the parent nothing while a worker has time for it. To accept is the parent's right, which it
lends, and its limits hold: a worker that has the right counts as if it had all the connections that it may have
(intake/shared), so that what the parent gives out beside them is within the slots of each uid. A worker gives the right
back when it has so many, lacks numbers or descriptors, or is asked to, because somebody waits for a slot.

    BEHIND     woken when no worker waits; then AWAY, or, when none has the right, ACCEPTING
    AWAY       the workers are busy: once a second the parent looks whether they go on, and no connection wakes it
    ACCEPTING  nobody else takes what waits: the parent does, with slots, queues and refusals (intake/shared)

Where others are not kept from the door, or a uid has few slots, the parent is the only one who accepts, for ever.
"""

import select
import socket
from collections.abc import Callable

from pyqmail.intake.leases import lend
from pyqmail.intake.shared import Shared
from pyqmail.system.loop import Loop

BEHIND, AWAY, ACCEPTING = range(3)


class Overflow:
    """Who accepts at ``listener``: the workers of ``shared``, or ``accept``; ``tick`` has ``look`` called soon."""

    def __init__(
        self,
        loop: Loop,
        listener: socket.socket,
        shared: Shared,
        accept: Callable[[], None],
        tick: Callable[[], None],
    ) -> None:
        self._loop = loop
        self._listener = listener
        self._shared = shared
        self._accept = accept
        self._tick = tick
        self._state = AWAY
        self._closed = False
        self._accepted = 0  # by all workers, when they were last looked at

    @property
    def watching(self) -> bool:
        """Whether there is something to look at again soon."""
        if not self._shared.own_most:
            return False
        return self._state != BEHIND or not all(link.lent for link in self._shared.links())

    def look(self) -> None:
        """Once a second, while anything is under way: be where the parent is needed."""
        if self._closed:
            return
        links = self._shared.links()
        accepted = sum(link.pulse.door()[0] for link in links)
        unchanged, self._accepted = accepted == self._accepted, accepted
        free = [link for link in links if not link.lent and link.quiet == 0]
        for link in free:
            if self._shared.may_lend(link):
                lend(link)
        lent = [link for link in links if link.lent]
        if not lent:
            self._be(ACCEPTING)
        elif any(link.lent for link in free):
            self._be(AWAY)  # they come to the door now: the place behind them is free in a second
        elif self._state == ACCEPTING:
            if not self._shared.waiting() and any(link.quiet == 0 for link in lent):
                self._be(AWAY)
        elif unchanged:
            self._be(ACCEPTING if self._somebody_waits() else BEHIND)

    def lost(self) -> None:
        """A worker has stopped to accept: perhaps the last one."""
        self._tick()
        if not any(link.lent for link in self._shared.links()):
            self._be(ACCEPTING)

    def rejoin(self) -> None:
        """There is a new worker, or one fewer: stand behind those that there are."""
        self._be(AWAY)
        self._tick()
        self.look()

    def pause(self, seconds: float) -> None:
        """Nothing can be accepted here now."""
        self._leave()
        self._loop.call_later(seconds, self.look)

    def close(self) -> None:
        """Shut the door, for the workers too, and wait for nobody any more."""
        self._leave()
        self._closed = True
        try:
            self._listener.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # the workers hear of the end in another way too
        self._listener.close()

    def _leave(self) -> None:
        if self._state != AWAY:
            self._state = AWAY
            self._loop.remove_reader(self._listener.fileno())

    def _be(self, state: int) -> None:
        if state == self._state or self._closed:
            return
        self._tick()  # first: whatever fails below is tried again
        self._leave()
        if state == BEHIND:
            self._loop.add_shared_reader(self._listener.fileno(), self._nobody_waits)
        elif state == ACCEPTING:
            self._loop.add_reader(self._listener.fileno(), self._accept)
        self._state = state

    def _nobody_waits(self) -> None:
        """Somebody has connected, and no worker was waiting."""
        self._be(AWAY if any(link.lent for link in self._shared.links()) else ACCEPTING)

    def _somebody_waits(self) -> bool:
        look = select.poll()
        look.register(self._listener.fileno(), select.POLLIN)
        return bool(look.poll(0))
