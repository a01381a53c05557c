"""One caller of run/send/control: requests in, answers out, and the loop never waits (protocol/control.py)."""

import socket
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice

from pyqmail.protocol import control
from pyqmail.protocol.control import BadRequest, Request
from pyqmail.send.holds import BOUNCE, DELETE
from pyqmail.send.order_book import OrderBook
from pyqmail.send.order_requests import OrderRequests
from pyqmail.send.retry import Schedule
from pyqmail.system.loop import Loop, Timer
from pyqmail.system.typed import Protocol

IDLE_S = 30.0
TAKEN_S = 900.0  # while it has taken messages: longer than the transfer of one may last
TIMES_A_LINE = 500
UNSENT_MAX = 65536


class Passes(Protocol):
    """What is needed of a channel."""

    schedule: Schedule

    @property
    def jobs(self) -> Mapping[int, object]:
        """The messages that are being delivered."""


@dataclass(slots=True)
class Served:
    """What all callers ask. ``closed``: no more orders are taken."""

    channels: Mapping[str, Passes]
    book: OrderBook
    requests: OrderRequests
    measure: Callable[[], bytes]
    closed: bool = False


class ControlConnection:
    """One caller. Requests are answered one after another."""

    def __init__(
        self, loop: Loop, sock: socket.socket, who: str, served: Served, closed: Callable[["ControlConnection"], None]
    ) -> None:
        self._loop = loop
        self._sock = sock
        self._who = who
        self._served = served
        self._closed = closed
        self._in = b""
        self._out = b""
        self._pieces: Iterator[bytes] | None = None
        self._busy = False  # an order is on its way to the disk
        self._timer: Timer | None = None
        sock.setblocking(False)
        loop.add_reader(sock.fileno(), self._read)
        self._touch()

    def _touch(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        taken = self._served.book.taken
        idle = TAKEN_S if taken and self in taken.values() else IDLE_S
        self._timer = self._loop.call_later(idle, self._close)

    def _close(self) -> None:
        if self._sock.fileno() < 0:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._loop.remove_reader(self._sock.fileno())
        self._loop.remove_writer(self._sock.fileno())
        self._sock.close()
        self._pieces = None
        self._served.requests.give_back(self)
        self._closed(self)

    def _read(self) -> None:
        try:
            data = self._sock.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data or len(self._in) + len(data) > control.REQUEST_MAX:
            self._close()
            return
        self._touch()
        self._in += data
        self._next_request()

    def _next_request(self) -> None:
        if self._busy or self._pieces is not None or b"\n" not in self._in or self._sock.fileno() < 0:
            return
        line, _, self._in = self._in.partition(b"\n")
        try:
            request = control.parse_request(line)
        except BadRequest as error:
            self._send(control.format_answer({}, f"bad request: {error}"))
            return
        if request.do == control.STATE:
            self._pieces = self._state(set(request.ids or ()))
            self._loop.add_writer(self._sock.fileno(), self._write)
            return
        if request.do == control.METRICS:
            self._send(control.format_metrics(self._served.measure()))
            return
        if self._served.closed:
            self._send(control.format_answer({}, "qmail-send is ending"))
            return
        self._busy = True
        self._order(request)

    def _order(self, request: Request) -> None:
        requests, who, ids = self._served.requests, self._who, request.ids or ()
        if request.do == "retry":
            requests.retry(who, request.ids, request.what, self._answer)
        elif request.do == "hold":
            requests.hold(who, ids, request.domain, self._answer)
        elif request.do == "release":
            requests.release(who, ids, request.domain, self._answer)
        elif request.do == control.TAKE:
            requests.take(self, ids, self._answer)
        elif request.do == control.MOVED:
            requests.moved(self, who, ids, request.what, self._answer)
        else:
            requests.end(who, DELETE if request.do == "delete" else BOUNCE, ids, self._answer)

    def _answer(self, states: dict[int, str], trouble: str) -> None:
        self._busy = False
        self._send(control.format_answer(states, trouble))
        self._next_request()

    def _state(self, only: set[int]) -> Iterator[bytes]:
        """What the scheduler knows, in pieces; of the messages in ``only``, or of all if it is empty."""
        book, channels = self._served.book, self._served.channels
        for name, passes in channels.items():
            times = passes.schedule.snapshot()
            while part := list(islice(times, TIMES_A_LINE)):
                found = [(name, number, when) for number, when in part if not only or number in only]
                yield control.format_times(found) if found else b""
            parked = book.parked[name].items()
            yield control.format_times((name, number, when) for number, when in parked if not only or number in only)
        orders = book.orders
        delivering = [(name, number) for name, passes in channels.items() for number in passes.jobs]
        yield control.format_rest(orders.held, orders.endings, sorted(orders.domains), delivering)

    def _send(self, data: bytes) -> None:
        if self._sock.fileno() < 0:
            return
        self._out += data
        if self._out:
            self._loop.add_writer(self._sock.fileno(), self._write)

    def _write(self) -> None:
        """Send what the caller takes, and make the next piece; one piece for each turn of the loop."""
        if self._pieces is not None and len(self._out) < UNSENT_MAX:
            piece = next(self._pieces, None)
            if piece is None:
                self._pieces = None
            else:
                self._out += piece
        if self._out:
            try:
                self._out = self._out[self._sock.send(self._out) :]
                self._touch()
            except BlockingIOError:
                return
            except OSError:
                self._close()
                return
        if not self._out and self._pieces is None:
            self._loop.remove_writer(self._sock.fileno())
            self._next_request()
