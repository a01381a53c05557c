"""One command of qmail-q on one queue: through a running qmail-send, else on the queue's files (qmail-q(8))."""

import json
import os
from collections.abc import Mapping

from pyqmail.admin.queue_report import message_json, message_lines, shown, text_of
from pyqmail.policy.accounts import read_accounts
from pyqmail.protocol import control
from pyqmail.protocol.control import Request
from pyqmail.send import order_states
from pyqmail.send.control_client import Live, QueueError, Running
from pyqmail.send.control_socket import connect
from pyqmail.send.holds import OrdersUnreadable, read_orders
from pyqmail.send.offline import Offline, QueueInUse
from pyqmail.spool import queue_view
from pyqmail.spool.history import History
from pyqmail.spool.layout import Layout, read_layout
from pyqmail.spool.queue_view import MessageView
from pyqmail.system import files
from pyqmail.system.process import Acting
from pyqmail.system.progress import told

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyqmail.admin.draining import Draining

OK, UNKNOWN, USAGE, TROUBLE = 0, 1, 100, 111
SAYS = {
    order_states.PENDING: "as soon as its running deliveries have reported",
    order_states.DELIVERING: "is being delivered right now",
    order_states.HELD: "is held",
    order_states.ENDING: "is about to be deleted or bounced",
    order_states.BUSY: "is new, or its bounce is being queued: try again in a moment",
    order_states.NOT_HELD: "is not held",
}
IN_USE = "a qmail-send that does not listen to qmail-q is running, or is just ending"
FINE = (order_states.DONE, order_states.PENDING, order_states.DELIVERING)


class QueueSession:
    """One command on one queue. Within ``as_send`` root touches its files as qmail-send's user does, who owns many."""

    def __init__(self, home: str, *, as_json: bool) -> None:
        self.layout: Layout = read_layout(home)
        self.history = History(self.layout)
        self.as_json = as_json
        self.running = self._connect()  # as who we are: qmail-send's log says it
        accounts = read_accounts(home)
        self.as_send = Acting(accounts.uid_send, accounts.gid_qmail)
        self._as_queue = Acting(accounts.uid_queue, accounts.gid_qmail)

    def _connect(self) -> Running | None:
        try:
            return Running(connect(self.layout.send_socket))
        except (FileNotFoundError, ConnectionRefusedError):
            return None

    def live(self, ids: tuple[int, ...] = ()) -> Live:
        """What is not in the message files."""
        if self.running is not None:
            return self.running.state(ids)
        try:
            orders = read_orders(self.layout)
        except OrdersUnreadable as error:
            raise QueueError(f"queue/pyqmail/orders: {error}") from None
        domains = tuple(text_of(name) for name in sorted(orders.domains))
        return Live(False, held=frozenset(orders.held), endings=frozenset(orders.endings), domains=domains)

    def act(self, request: Request) -> tuple[dict[int, str], str]:
        """Have ``request`` done."""
        if self.running is not None:
            return self.running.act(request)
        try:
            with Offline(self.layout, self._as_queue) as queue:
                return queue.act(request)
        except QueueInUse:
            raise QueueError(IN_USE) from None

    def drain(self, home: str, node: str | None) -> int:
        """Move all that is queued to another node."""
        from pyqmail.admin.draining import drain  # with it comes ssl, which no other order needs

        held = tuple(name.encode("utf-8", "surrogateescape") for name in self.live((1,)).domains)
        if self.running is not None:
            return self._drained(drain(home, self.layout, self.running, held, node))
        try:
            with Offline(self.layout, self._as_queue) as queue:
                return self._drained(drain(home, self.layout, queue, held, node))
        except QueueInUse:
            raise QueueError(IN_USE) from None

    def _drained(self, draining: "Draining") -> int:
        if self.as_json:
            left = {str(number): reason for number, reason in draining.left.items()}
            say(1, json.dumps({"order": "xfer", "moved": draining.moved, "left": left}) + "\n")
        else:
            say(1, f"xfer: {draining.moved} messages moved, {len(draining.left)} left\n")
        for number, reason in draining.left.items():
            say(2, f"qmail-q: message {number} stays: {reason}\n")
        return UNKNOWN if draining.left else OK

    def print(self, view: MessageView, live: Live, *, recipients: bool) -> None:
        """Show one message."""
        if self.as_json:
            say(1, json.dumps(message_json(view, live, recipients=recipients)) + "\n")
        else:
            say(1, "".join(message_lines(view, live, recipients=recipients)))

    def list_all(self, domain: bytes | None) -> int:
        """Show every message, or those with a recipient left in ``domain``."""
        live = self.live()
        if live.domains and not self.as_json:
            say(1, "".join(f"held domain {name}\n" for name in live.domains))
        numbers = queue_view.numbers(self.layout)
        for number in numbers if os.isatty(1) else told(numbers, "reading the queue"):
            view = queue_view.read_message(self.layout, self.history, number)
            if view is not None and (domain is None or queue_view.has_domain(view, domain)):
                self.print(view, live, recipients=False)
        return OK

    def show(self, numbers: tuple[int, ...]) -> int:
        """Show some messages with all their recipients."""
        live = self.live(numbers)
        code = OK
        for number in numbers:
            view = queue_view.read_message(self.layout, self.history, number)
            if view is None:
                say(2, f"qmail-q: no message {number}\n")
                code = UNKNOWN
            else:
                self.print(view, live, recipients=True)
        return code

    def order(self, do: str, numbers: tuple[int, ...], domains: list[bytes], *, everything: bool) -> int:
        """Have an order carried out, and say what came of it."""
        if everything:
            return self._report(do, *self.act(Request(do, None)))
        code = OK
        for domain in domains:
            if do in ("hold", "release"):
                code = max(code, self._report(do, *self.act(Request(do, (), domain)), domain=domain))
            if do in ("retry", "release") and code < TROUBLE:
                code = max(code, self._retry_domain(domain, announce=do == "retry"))
        for start in range(0, len(numbers), control.IDS_MAX):
            code = max(code, self._report(do, *self.act(Request(do, numbers[start : start + control.IDS_MAX]))))
        return code

    def _retry_domain(self, domain: bytes, *, announce: bool) -> int:
        what = f"domain {domain.decode('ascii', 'replace')}"
        numbers = told(queue_view.numbers(self.layout), "reading the queue")
        found = tuple(queue_view.with_domain(self.layout, self.history, numbers, domain))
        for start in range(0, len(found), control.IDS_MAX):
            states, trouble = self.act(Request("retry", found[start : start + control.IDS_MAX], what=what))
            if trouble:
                return self._report("retry", states, trouble)
        if announce:
            self._report("retry", {}, "", domain=domain, count=len(found))
        return OK

    def _report(
        self, do: str, states: Mapping[int, str], trouble: str, *, domain: bytes = b"", count: int | None = None
    ) -> int:
        """Print an answer; the exit code."""
        if trouble:
            raise QueueError(trouble)
        if self.as_json:
            answer: dict[str, object] = {"order": do, "ids": {str(number): state for number, state in states.items()}}
            if domain:
                answer["domain"] = text_of(domain)
            if count is not None:
                answer["messages"] = count
            say(1, json.dumps(answer) + "\n")
        elif count is not None:
            say(1, f"{do} {shown(domain)}: {count} messages\n")
        unknown = [number for number, state in states.items() if state == order_states.UNKNOWN]
        for number in unknown:
            say(2, f"qmail-q: no message {number}\n")
        refused = [(number, state) for number, state in states.items() if state not in (*FINE, order_states.UNKNOWN)]
        for number, state in refused:
            say(2, f"qmail-q: message {number} {SAYS.get(state, state)}\n")
        if not self.as_json:
            for number, state in states.items():
                if state in FINE:
                    say(1, f"{do} {number}{'' if state == order_states.DONE else ': ' + SAYS[state]}\n")
        return UNKNOWN if unknown or refused else OK


def say(fd: int, text: str) -> None:
    """Write a line, whatever the bytes."""
    files.write_all(fd, text.encode("utf-8", "surrogateescape"))
