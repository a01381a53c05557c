"""The orders of qmail-q(8) on a queue that no qmail-send serves: the same answers, done at once to the files.

Whoever acts holds lock/sendmutex meanwhile, so that no qmail-send starts in between. What was done goes into
queue/pyqmail/actions, and the next qmail-send puts it into its log.
"""

import fcntl
import os
import time
from collections.abc import Collection
from types import TracebackType

from pyqmail.formats.printable import printable
from pyqmail.formats.todo import UnknownRecord, parse_info_shadow, parse_todo
from pyqmail.policy.classify import Routing
from pyqmail.protocol.control import MOVED as MOVED_ORDER
from pyqmail.protocol.control import TAKE, Request
from pyqmail.protocol.shadow import is_id
from pyqmail.send import order_states
from pyqmail.send.controls import read_controls
from pyqmail.send.holds import (
    BOUNCE,
    DELETE,
    MOVED,
    OrdersUnreadable,
    birth_of,
    format_orders,
    read_orders,
    write_orders,
)
from pyqmail.spool import ending, sweep
from pyqmail.spool.ended import read_ended, write_ended
from pyqmail.spool.history import History
from pyqmail.spool.layout import Layout
from pyqmail.system import files
from pyqmail.system.process import Acting
from pyqmail.system.typed import Self

NO_ROUTING = Routing(b"", frozenset(), frozenset(), {})
ENDINGS = {"delete": DELETE, "bounce": BOUNCE, MOVED_ORDER: MOVED}
ACTIONS = "actions"
ACTIONS_MAX = 1_000_000  # bytes of the file that qmail-send reads; older lines come first


class QueueInUse(Exception):
    """A qmail-send runs that does not answer: another qmail's, or one that is just ending."""


class Offline:
    """A context in which qmail-send's user has the queue. ``as_queue`` makes root the user of todo/ and mess/."""

    def __init__(self, layout: Layout, as_queue: Acting) -> None:
        self._layout = layout
        self._as_queue = as_queue
        self._mutex = -1
        self._history = History(layout)

    def __enter__(self) -> Self:
        """Take the lock. Raises QueueInUse and OSError."""
        self._mutex = files.open_write(self._layout.sendmutex)
        try:
            fcntl.flock(self._mutex, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._mutex)
            raise QueueInUse from None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._mutex)

    def act(self, request: Request) -> tuple[dict[int, str], str]:
        """Carry out ``request``: what came of each message, and what failed as a whole. Raises OSError."""
        if not os.path.isdir(self._layout.private):
            return {}, order_states.NO_PLACE
        try:
            if request.do == "retry":
                states = self._retry(request.ids)
            elif request.do in ("hold", "release"):
                states = self._hold(request)
            elif request.do == TAKE:
                return self._take(request.ids or ()), ""
            else:
                states = self._end(ENDINGS[request.do], request.ids or ())
        except OrdersUnreadable as error:
            return {}, f"queue/pyqmail/orders: {error}"
        self._log(request, states)
        return states, ""

    def _state(self, number: int) -> str:
        if not sweep.absent(self._layout.todo(number)):
            return order_states.BUSY
        return order_states.UNKNOWN if birth_of(self._layout, number) is None else order_states.DONE

    def _take(self, ids: Collection[int]) -> dict[int, str]:
        """What would be taken: nobody else works on the queue anyhow.

        Of what has a copy only a qmail-send that runs knows whether it is still this node's to deliver.
        """
        held, copies = read_orders(self._layout).held, read_controls(self._layout.home).copies
        states = {number: self._state(number) for number in ids}
        for number, state in states.items():
            if state == order_states.DONE and copies and copy_of(self._layout, number):
                states[number] = order_states.FENCED
            elif state == order_states.DONE and number in held:
                states[number] = order_states.HELD
        return states

    def _retry(self, ids: Collection[int] | None) -> dict[int, str]:
        wanted = list(sweep.Waiting(self._layout)) if ids is None else ids
        states = {number: self._state(number) for number in wanted}
        now = int(time.time())
        for number, state in states.items():
            for channel in ending.CHANNELS if state == order_states.DONE else ():
                order_states.set_due(self._layout, channel, number, now)
        return {} if ids is None else states

    def _hold(self, request: Request) -> dict[int, str]:
        orders = read_orders(self._layout)
        states = {}
        for number in request.ids or ():
            states[number] = self._state(number)
            birth = birth_of(self._layout, number)
            if request.do == "release":
                if orders.held.pop(number, None) is None and states[number] == order_states.DONE:
                    states[number] = order_states.NOT_HELD
            elif states[number] == order_states.DONE and birth is not None:
                orders.held[number] = birth
        if request.domain and request.do == "hold":
            orders.domains.add(request.domain)
        elif request.domain:
            orders.domains.discard(request.domain)
        write_orders(self._layout, format_orders(orders))
        return states

    def _end(self, kind: bytes, ids: Collection[int]) -> dict[int, str]:
        """The order is written down first, so that an interrupted one is finished by qmail-send."""
        layout = self._layout
        orders = read_orders(layout)
        routing = read_controls(layout.home).routing if kind == BOUNCE else NO_ROUTING
        states = {number: self._state(number) for number in ids}
        for number, state in states.items():
            birth = birth_of(layout, number)
            if state == order_states.DONE and birth is not None:
                orders.endings[number] = kind, birth
        write_orders(layout, format_orders(orders))
        removed = []
        if kind == DELETE:
            note_ended(layout, [number for number, state in states.items() if state != order_states.UNKNOWN])
        for number, state in states.items():
            if state == order_states.DONE:
                order = orders.endings[number]
                if not order_states.end_message(layout, self._history, number, order, routing):
                    raise OSError(f"unable to {kind.decode()} msg {number}; the next qmail-send will try again")
                del orders.endings[number]
                orders.held.pop(number, None)
            elif state == order_states.BUSY and kind == DELETE:
                with self._as_queue:
                    files.unlink(layout.todo(number))
                files.sync_directory(os.path.dirname(layout.todo(number)))
                states[number] = order_states.DONE
            if kind == DELETE and states[number] == order_states.DONE:
                removed.append(number)
        ending.sync_names(layout, states)
        for number in removed:
            self._remove_body(number)
        write_orders(layout, format_orders(orders))
        return states

    def _remove_body(self, number: int) -> None:
        with self._as_queue:
            for path in (self._layout.intd(number), self._layout.facts(number), self._layout.mess(number)):
                try:
                    files.unlink_if_present(path)
                except PermissionError:
                    return  # not root: qmail-send's cleanup finds it

    def _log(self, request: Request, states: dict[int, str]) -> None:
        moved = f" to {request.what}" if request.do == MOVED_ORDER else ""
        who = f"control: uid {os.getuid()}: while stopped: {request.do}{moved}"
        done = [number for number, state in states.items() if state == order_states.DONE]
        if request.ids is None:
            lines = [f"{who} all"]
        elif request.what and done and not moved:
            lines = [f"{who} {request.what}: {len(done)} messages"]
        else:
            lines = [f"{who} msg {number}" for number in done]
        if request.domain:
            lines.append(f"{who} domain " + request.domain.decode("ascii", "replace"))
        fd = files.open_append(f"{self._layout.private}/{ACTIONS}")
        try:
            files.write_all(fd, "".join(line + "\n" for line in lines).encode("ascii", "replace"))
        finally:
            os.close(fd)


def copy_of(layout: Layout, number: int) -> bytes:
    """The ID of the copy of ``number``; nothing where it has none. Raises OSError."""
    try:
        if not sweep.absent(layout.todo(number)):
            return parse_todo(files.read_file(layout.todo(number))).shadow
        return parse_info_shadow(files.read_file(layout.info(number)))
    except UnknownRecord:
        return b""


def note_ended(layout: Layout, numbers: Collection[int]) -> None:
    """Let the next qmail-send know which copies go with ``numbers``, or their messages come back. Raises OSError."""
    copies = list(filter(is_id, (copy_of(layout, number) for number in numbers)))
    if copies:
        write_ended(layout, dict.fromkeys([*read_ended(layout), *copies]))


def take_actions(layout: Layout) -> list[bytes]:
    """The lines that were written while no qmail-send ran; they are forgotten. Never raises."""
    path = f"{layout.private}/{ACTIONS}"
    try:
        fd = files.open_read(path)
        try:
            data = os.read(fd, ACTIONS_MAX)
        finally:
            os.close(fd)
        files.unlink(path)
    except OSError:
        return []
    return [printable(line, b"_") for line in data.split(b"\n") if line]
