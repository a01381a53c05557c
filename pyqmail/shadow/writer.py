"""Threads that wait for the database, so that the loop does not: two for copies of large messages, one for what is
removed, one that keeps the lease (shadow/lease), one that puts into the queue what it lacks (shadow/adoption). Small
messages are copied by the loop itself (shadow/small).

What has gathered while one transaction was under way makes the next, so that many messages share a COMMIT. A server
that failed is left alone for AGAIN_S: until then every copy fails at once.
"""

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import TypeVar

from pyqmail.shadow.database import Away, Database
from pyqmail.shadow.lease import RENEWALS, Lease
from pyqmail.shadow.nodes import Nodes
from pyqmail.shadow.settings import Settings
from pyqmail.shadow.small import TYPES, SmallCopies
from pyqmail.shadow.statement import Statement
from pyqmail.shadow.store import ADOPTED, INSERT, TOO_LONG, Copy, Fenced, Mark, Node, Refused, SmallCopy, Store
from pyqmail.system.loop import Loop

WRITERS = 2
COPIES_MAX = 64  # of one transaction
BYTES_MAX = 8 << 20  # of one transaction, envelopes and facts too; a message of several rows has one to itself
REMOVALS_MAX = 1000  # of one transaction
MARKS_MAX = 200_000  # that wait
AGAIN_S = 2.0
TAKE_IN_AGAIN_S = 15.0  # after the queue has refused one
GATHER_S = 0.1  # for removals and marks that come together
SIZE_S = 60.0  # from one look how much is stored to the next

Connected = TypeVar("Connected", bound=Database)
Result = Callable[[], None]  # what the loop is to do


class Gathered:
    """Copies that wait for a writer."""

    def __init__(self) -> None:
        self._waiting: deque[Copy] = deque()
        self._change = threading.Condition()

    def put(self, copy: Copy) -> None:
        """One more."""
        with self._change:
            self._waiting.append(copy)
            self._change.notify()

    def take(self) -> list[Copy]:
        """The next transaction's, once there are any."""
        with self._change:
            while not self._waiting:
                self._change.wait()
            batch = [self._waiting.popleft()]
            size = batch[0].row_bytes
            while self._waiting and len(batch) < COPIES_MAX and not batch[0].large and not self._waiting[0].large:
                size += self._waiting[0].row_bytes
                if size > BYTES_MAX:
                    break
                batch.append(self._waiting.popleft())
            return batch


class Removals:
    """IDs of copies that are not wanted any more; each stays until it is known to be gone. Marks, in their order."""

    def __init__(self) -> None:
        self._waiting: dict[str, bool] = {}  # True: nobody knows whether there is a copy
        self._marks: deque[Mark] = deque(maxlen=MARKS_MAX)  # a mark that is lost is a delivery too many
        self._change = threading.Condition()

    def mark(self, marks: Iterable[Mark]) -> None:
        """Some recipients are done."""
        with self._change:
            self._marks.extend(marks)
            self._change.notify()

    def marks(self) -> list[Mark]:
        """The next transaction's; they are forgotten here."""
        with self._change:
            return [self._marks.popleft() for _ in range(min(len(self._marks), REMOVALS_MAX))]

    def put(self, identities: Sequence[str], *, uncertain: bool) -> None:
        """Some more."""
        with self._change:
            self._waiting.update(dict.fromkeys(identities, uncertain))
            self._change.notify()

    def look(self, seconds: float) -> dict[str, bool]:
        """The next transaction's, as they wait; none where none have come for ``seconds``."""
        with self._change:
            if not self._waiting and not self._marks:
                self._change.wait(seconds)
        time.sleep(GATHER_S)
        with self._change:
            return dict(islice(self._waiting.items(), REMOVALS_MAX))

    def forget(self, identities: Iterable[str]) -> None:
        """They are gone."""
        with self._change:
            for identity in identities:
                self._waiting.pop(identity, None)


class Writer:
    """The threads. What becomes of their work is told by ``copied``, ``removed`` and ``sized``, from ``collect``."""

    def __init__(
        self,
        loop: Loop,
        settings: Settings,
        lease: Lease,
        copied: Callable[[Sequence[Copy | SmallCopy], str | None], None],
        removed: Callable[[list[str], int], None],
        sized: Callable[[int], None],
    ) -> None:
        """``copied`` gets what one transaction had, and why that failed or None; ``removed`` what is gone, and how many
        bytes of the database with it; ``sized`` how many it has. ``node`` is None without a lease."""
        self.node: Node | None = None
        self.event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._settings = settings
        self._lease = lease
        self._copied = copied
        self._removed = removed
        self._sized = sized
        self._gathered = Gathered()
        self._removals = Removals()
        self._results: deque[Result] = deque()
        self._until = 0.0  # when the server is asked again
        self._why = ""
        statement = Statement(settings.url, settings.password, INSERT.encode(), TYPES)
        self._small = SmallCopies(loop, statement, lambda: self.node, copied, self.tell)

    def start(self) -> None:
        """Begin to work."""
        for work in (*(self._copy,) * WRITERS, self._remove):
            self._start_thread(Store, work)
        self._start_thread(Nodes, self._lease.keep)

    def take_in(self, take_in: Callable[[Nodes, Node], int], told: Callable[[int, str], None]) -> None:
        """Have ``take_in`` put into the queue what only the database has, with each renewal of the lease, and sooner
        after a failure.

        ``told`` hears how many there were, or why some are left.
        """

        def work(nodes: Nodes) -> None:
            while True:
                if (node := self.node) is None:
                    time.sleep(AGAIN_S)
                    continue
                count, why, wait_s = 0, "", self._settings.lease_s / RENEWALS
                try:
                    count = take_in(nodes, node)
                except Away:
                    wait_s = AGAIN_S  # who keeps the lease says why
                except (Refused, OSError) as error:
                    why, wait_s = str(error), min(TAKE_IN_AGAIN_S, wait_s)
                nodes.close()
                if count or why:
                    self.tell(lambda count=count, why=why: told(count, why))  # type: ignore[misc]
                time.sleep(wait_s)

        self._start_thread(Nodes, work)

    def copy(self, copy: Copy | SmallCopy) -> None:
        """Copy one, and give back its files."""
        if isinstance(copy, SmallCopy):
            self._small.put(copy)
        elif copy.too_long:  # it alone: those beside it are copied
            copy.close()
            self._copied([copy], TOO_LONG)
        else:
            self._gathered.put(copy)

    def remove(self, identities: Sequence[str], *, uncertain: bool = False) -> None:
        """Remove the copies of ``identities``, as soon as the server lets us.

        ``uncertain``: nobody knows whether they were stored, so then a look tells how much is.
        """
        self._removals.put(identities, uncertain=uncertain)

    def mark(self, marks: Iterable[Mark]) -> None:
        """These recipients are done; a message that has ended meanwhile needs no mark."""
        self._removals.mark(marks)

    def collect(self) -> None:
        """Do in the loop what the threads have told."""
        try:
            os.eventfd_read(self.event)
        except BlockingIOError:
            return
        while self._results:
            self._results.popleft()()

    def tell(self, result: Result) -> None:
        """Have the loop do that; may be called from any thread."""
        self._results.append(result)
        os.eventfd_write(self.event, 1)

    def _start_thread(self, kind: type[Connected], work: Callable[[Connected], None]) -> None:
        """One that works with a connection of its own."""
        threading.Thread(target=self._to_the_end, args=(kind, work), daemon=True).start()

    def _to_the_end(self, kind: type[Connected], work: Callable[[Connected], None]) -> None:
        """A process without one of its threads would leave others waiting; one that has ended is started again."""
        try:
            work(kind(self._settings.url, self._settings.password))
        except BaseException as error:
            self.tell(_raiser(error))

    def _copy(self, store: Store) -> None:
        while True:
            batch = self._gathered.take()
            why = self._why if time.monotonic() < self._until else self._try(store, batch)
            for copy in batch:
                copy.close()
            self.tell(lambda batch=batch, why=why: self._copied(batch, why))  # type: ignore[misc]

    def _try(self, store: Store, batch: list[Copy]) -> str | None:
        """Copy ``batch``; None, or why that failed."""
        node = self.node
        if node is None:
            return "this node has no lease"
        try:
            store.add(node, batch)
            return None
        except Away as error:
            self._why, self._until = str(error), time.monotonic() + AGAIN_S
            return str(error)
        except OSError as error:
            return f"unable to read a message: {error.strerror}"
        except Fenced:
            return ADOPTED

    def _remove(self, store: Store) -> None:
        look_again = 0.0
        while True:
            batch, node = self._removals.look(SIZE_S if look_again else 0.0), self.node
            if node is None:
                time.sleep(AGAIN_S)
                continue
            try:
                if batch:
                    freed = store.remove(node, batch)
                    self._removals.forget(batch)
                    self.tell(lambda batch=batch, freed=freed: self._removed(list(batch), freed))  # type: ignore[misc]
                    if any(batch.values()):
                        look_again = 0.0
                if marks := self._removals.marks():
                    store.mark(node, marks)
                if time.monotonic() >= look_again:
                    size = store.stored(node)
                    look_again = time.monotonic() + SIZE_S
                    self.tell(lambda size=size: self._sized(size))  # type: ignore[misc]
            except Away:
                look_again = 0.0  # a removal may have been made all the same
                time.sleep(AGAIN_S)


def _raiser(error: BaseException) -> Result:
    def again() -> None:
        raise RuntimeError("a thread has ended") from error

    return again
