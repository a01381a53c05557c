"""Copies of small messages, made by the loop: one connection, and no thread that would have to be woken for each.

    waits ──► asked ──► copied, or not: after a failure the server is left alone for AGAIN_S

What has gathered while one transaction was under way makes the next, so that many messages share a COMMIT. A
connection is made by a thread of its own, for that may take a while; what comes meanwhile waits.
"""

import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from functools import lru_cache

from pyqmail.shadow.database import STATEMENT_S, Away
from pyqmail.shadow.statement import BIGINT, BIGINTS, BYTEAS, UUID, UUIDS, Statement, array, bigint
from pyqmail.shadow.store import ADOPTED, Node, SmallCopy
from pyqmail.system.loop import Loop

COPIES_MAX = 64  # of one transaction
WAITING_MAX = 2048  # in memory: 64 MiB, for each has at most SMALL_MAX with its envelope and facts
AGAIN_S = 2.0
LOOK_S = 5.0  # from one look to the next whether the server answers
ANSWER_S = STATEMENT_S + LOOK_S  # by then it has ended the statement itself, if it still lives
TYPES = (UUIDS, BIGINTS, BYTEAS, BYTEAS, BYTEAS, UUID, BIGINT)

Result = Callable[[], None]  # what the loop is to do


class SmallCopies:
    """Those that wait, and those that the server has been asked for. All but the thread is the loop's."""

    def __init__(
        self,
        loop: Loop,
        statement: Statement,
        node: Callable[[], Node | None],
        copied: Callable[[Sequence[SmallCopy], str | None], None],
        tell: Callable[[Result], None],
    ) -> None:
        """``copied`` gets what one transaction had, and why that failed or None; ``tell`` has the loop do something."""
        self._loop = loop
        self._statement = statement
        self._node = node
        self._copied = copied
        self._tell = tell
        self._waiting: deque[SmallCopy] = deque()
        self._asked: list[SmallCopy] = []
        self._asked_at = 0.0
        self._fd = -1  # of the connection, once it is watched
        self._gathering = False  # for the end of this turn of the loop
        self._connecting = False
        self._until = 0.0  # when the server is asked again
        self._why = ""
        self._look()

    def put(self, copy: SmallCopy) -> None:
        """One more."""
        if len(self._waiting) >= WAITING_MAX:
            self._copied([copy], "too many wait")
            return
        self._waiting.append(copy)
        if not self._gathering and not self._asked:
            self._gathering = True
            self._loop.before_wait(self._ask)

    def _ask(self) -> None:
        """Have the next ones copied, unless some are."""
        self._gathering = False
        if self._asked or not self._waiting:
            return
        node = self._node()
        if node is None:
            self._refuse("this node has no lease")
        elif time.monotonic() < self._until:
            self._refuse(self._why)
        elif not self._statement.ready:
            self._connect()
        else:
            self._send(node)

    def _refuse(self, why: str) -> None:
        batch = list(self._waiting)
        self._waiting.clear()
        self._copied(batch, why)

    def _connect(self) -> None:
        if not self._connecting:
            self._connecting = True
            threading.Thread(target=self._prepare, daemon=True).start()

    def _prepare(self) -> None:
        """The thread."""
        try:
            fd = self._statement.prepare()
        except Away as error:
            why = str(error)
            self._tell(lambda: self._connected(-1, why))
        except BaseException as error:
            bug = error
            self._tell(lambda: self._broken(bug))
        else:
            self._tell(lambda: self._connected(fd, ""))

    def _broken(self, bug: BaseException) -> None:
        raise RuntimeError("no connection can be made") from bug

    def _connected(self, fd: int, why: str) -> None:
        self._connecting = False
        if why:
            self._fail(why)
            return
        self._fd = fd
        self._loop.add_reader(fd, self._hear)
        self._ask()

    def _send(self, node: Node) -> None:
        batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), COPIES_MAX))]
        self._asked, self._asked_at = batch, time.monotonic()
        try:
            if not self._statement.send(_values(node, batch)):
                self._loop.add_writer(self._fd, self._go_on)
        except Away as error:
            self._fail(str(error))

    def _go_on(self) -> None:
        """The server takes more."""
        try:
            if self._statement.flush():
                self._loop.remove_writer(self._fd)
        except Away as error:
            self._fail(str(error))

    def _hear(self) -> None:
        """An answer, or a part of one; what the server says unasked is as a rule that it hangs up."""
        if not self._asked:
            self._disconnect()
            return
        try:
            count = self._statement.receive()
        except Away as error:
            self._fail(str(error))
            return
        if count is not None:
            batch, self._asked = self._asked, []
            self._copied(batch, None if count else ADOPTED)
            self._ask()

    def _fail(self, why: str) -> None:
        """None of those that wait or were asked for is copied, as far as is known."""
        self._why, self._until = why, time.monotonic() + AGAIN_S
        self._disconnect()
        batch, self._asked = [*self._asked, *self._waiting], []
        self._waiting.clear()
        if batch:
            self._copied(batch, why)

    def _disconnect(self) -> None:
        """Another connection is made when it is needed."""
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            self._loop.remove_writer(self._fd)
            self._fd = -1
        self._statement.close()

    def _look(self) -> None:
        """A server that has stopped does not end a statement."""
        if self._asked and time.monotonic() - self._asked_at > ANSWER_S:
            self._fail("the server does not answer")
        self._loop.call_later(LOOK_S, self._look)


def _values(node: Node, batch: Sequence[SmallCopy]) -> tuple[bytes, ...]:
    """What the statement is asked with."""
    return (
        array(UUIDS, [bytes.fromhex(copy.identity) for copy in batch]),
        array(BIGINTS, [bigint(copy.size) for copy in batch]),
        array(BYTEAS, [copy.facts for copy in batch]),
        array(BYTEAS, [copy.envelope for copy in batch]),
        array(BYTEAS, [copy.message for copy in batch]),
        *_owner(node),
    )


@lru_cache(maxsize=1)
def _owner(node: Node) -> tuple[bytes, bytes]:
    return uuid.UUID(node.queue).bytes, bigint(node.epoch)
