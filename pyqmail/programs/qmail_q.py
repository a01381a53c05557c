"""qmail-q: look at the queue and act on it, whether qmail-send runs or not (qmail-q(8)).

    qmail-q [--json] list [DOMAIN]
    qmail-q [--json] show ID...
    qmail-q [--json] retry ID...|DOMAIN...|all
    qmail-q [--json] hold|release ID...|DOMAIN...
    qmail-q [--json] delete|bounce ID...

What is shown is read from the queue's files, and from the running qmail-send what only it knows: when each message is
due, and which one is being delivered. What is ordered is qmail-send's to do; only on a stopped queue it is done here.
"""

import json
import os
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from pyqmail.control import ControlUnreadable, home_of
from pyqmail.formats.logline import safe
from pyqmail.policy.accounts import AccountMissing, read_accounts
from pyqmail.protocol import control
from pyqmail.protocol.control import Request
from pyqmail.send import order_states
from pyqmail.send.control_socket import connect
from pyqmail.send.holds import OrdersUnreadable, read_orders
from pyqmail.send.offline import Offline, QueueInUse
from pyqmail.spool import queue_view
from pyqmail.spool.history import History
from pyqmail.spool.layout import Layout, read_layout
from pyqmail.spool.queue_view import ChannelView, MessageView
from pyqmail.system import files
from pyqmail.system.process import Acting

OK, UNKNOWN, USAGE, TROUBLE = 0, 1, 100, 111
USAGE_TEXT = (
    "usage: qmail-q [--json] list [DOMAIN] | show ID... | retry ID...|DOMAIN...|all |"
    " hold|release ID...|DOMAIN... | delete|bounce ID...\n"
)
ANSWER_S = 120.0
SAYS = {
    order_states.PENDING: "as soon as its running deliveries have reported",
    order_states.DELIVERING: "is being delivered right now",
    order_states.HELD: "is held",
    order_states.ENDING: "is about to be deleted or bounced",
    order_states.BUSY: "is new, or its bounce is being queued: try again in a moment",
    order_states.NOT_HELD: "is not held",
}
FINE = (order_states.DONE, order_states.PENDING, order_states.DELIVERING)


class Trouble(Exception):
    """Nothing more can be done; the text is the line to print."""


class Misuse(Exception):
    """The command line is none."""


@dataclass(slots=True)
class Live:
    """What is not in the message's own files. ``times`` is by channel and number."""

    running: bool
    times: dict[str, dict[int, int]] = field(default_factory=lambda: {name: {} for name in queue_view.CHANNELS})
    held: frozenset[int] = frozenset()
    endings: frozenset[int] = frozenset()
    domains: tuple[str, ...] = ()
    delivering: frozenset[tuple[str, int]] = frozenset()


class Running:
    """A conversation with a running qmail-send. Raises Trouble when it breaks off."""

    def __init__(self, sock: socket.socket) -> None:
        sock.settimeout(ANSWER_S)
        self._sock = sock
        self._lines = sock.makefile("rb")

    def _ask(self, request: Request) -> None:
        try:
            self._sock.sendall(control.format_request(request))
        except OSError as error:
            raise Trouble(f"qmail-send does not take the order: {error.strerror}") from None

    def _answer(self) -> dict[str, object]:
        try:
            line = self._lines.readline()
            answer = json.loads(line)
        except (OSError, ValueError):
            raise Trouble("qmail-send did not answer; its log says what it has done") from None
        if not isinstance(answer, dict):
            raise Trouble("qmail-send gave an answer that is none")
        return answer

    def act(self, request: Request) -> tuple[dict[int, str], str]:
        """What came of each message, and what failed as a whole."""
        self._ask(request)
        answer = self._answer()
        ids = answer.get("ids")
        states = {int(number): str(state) for number, state in ids.items()} if isinstance(ids, dict) else {}
        return states, str(answer.get("trouble", ""))

    def state(self, ids: tuple[int, ...]) -> Live:
        """What qmail-send knows of ``ids``, or of everything."""
        self._ask(Request(control.STATE, ids))
        live = Live(True)
        while True:
            answer = self._answer()
            if "times" not in answer:
                break
            for name, number, when in _rows(answer["times"]):
                live.times[str(name)][int(number)] = int(when)
        live.held = frozenset(_integers(answer.get("held")))
        live.endings = frozenset(_integers(answer.get("endings")))
        live.domains = tuple(str(name) for name in _list(answer.get("domains")))
        live.delivering = frozenset((str(name), int(number)) for name, number in _rows(answer.get("delivering")))
        return live


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def _rows(value: object) -> Iterator[list[str]]:
    for row in _list(value):
        if isinstance(row, list):
            yield row


def _integers(value: object) -> Iterator[int]:
    for number in _list(value):
        if isinstance(number, int):
            yield number


def _say(fd: int, text: str) -> None:
    files.write_all(fd, text.encode("utf-8", "surrogateescape"))


# what to print


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def _shown(data: bytes) -> str:
    """A stranger's bytes for a terminal."""
    return safe(data).decode("ascii")


def _state(view: MessageView, live: Live) -> str:
    number = view.number
    if view.new:
        return "new"
    if number in live.endings:
        return "ending"
    if any((name, number) in live.delivering for name in queue_view.CHANNELS):
        return "delivering"
    if number in live.held:
        return "held"
    return "waiting" if view.channels else "finished"


def _due(channel: ChannelView, number: int, live: Live) -> int | None:
    """When the next attempt is due; None while one runs, or where only a running qmail-send would know."""
    if channel.name == "new" or (channel.name, number) in live.delivering:
        return None
    return live.times[channel.name].get(number) if live.running else channel.due


def _json(view: MessageView, live: Live, *, recipients: bool) -> dict[str, object]:
    channels: dict[str, object] = {}
    for channel in view.channels:
        entry: dict[str, object] = {
            "next_attempt": _due(channel, view.number, live),
            "attempts": channel.attempts,
            "last_attempt": channel.tried,
            "recipients_left": len(channel.left),
            "last_reply": _last_reply(channel),
        }
        if recipients:
            entry["recipients"] = [
                {"address": _text(each.address), "done": each.done, "last_reply": _text(each.reply) or None}
                for each in channel.recipients
            ]
        channels[channel.name] = entry
    return {
        "id": view.number,
        "state": _state(view, live),
        "sender": _text(view.sender),
        "bytes": view.size,
        "queued": view.queued,
        "failures": view.bouncing,
        "channels": channels,
    }


def _last_reply(channel: ChannelView) -> str | None:
    replies = [each.reply for each in channel.left if each.reply]
    return _text(replies[-1]) if replies else None


def _date(seconds: int | None) -> str:
    return "-" if seconds is None else time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def _lines(view: MessageView, live: Live, *, recipients: bool) -> Iterator[str]:
    bouncing = "  some recipients have failed" if view.bouncing else ""
    yield (
        f"#{view.number}  {_state(view, live)}  {view.size} bytes  queued {_date(view.queued)}"
        f"  <{_shown(view.sender)}>{bouncing}\n"
    )
    for channel in view.channels:
        left = channel.left
        many = f"{len(left)} recipients" if len(left) != 1 else f"<{_shown(left[0].address)}>"
        due = _due(channel, view.number, live)
        line = f"  {channel.name}  {many}  attempts {channel.attempts}  next {_date(due)}"
        reply = _last_reply(channel)
        yield line + (f"  last reply: {reply}\n" if reply else "\n")
        for each in channel.recipients if recipients else ():
            done = "done" if each.done else "left"
            reply = f"  last reply: {_shown(each.reply)}" if each.reply else ""
            yield f"    {done}  <{_shown(each.address)}>{reply}\n"


# what to do


class Session:
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
            raise Trouble(f"queue/pyqmail/orders: {error}") from None
        domains = tuple(_text(name) for name in sorted(orders.domains))
        return Live(False, held=frozenset(orders.held), endings=frozenset(orders.endings), domains=domains)

    def act(self, request: Request) -> tuple[dict[int, str], str]:
        """Have ``request`` done."""
        if self.running is not None:
            return self.running.act(request)
        try:
            with Offline(self.layout, self._as_queue) as queue:
                return queue.act(request)
        except QueueInUse:
            raise Trouble("a qmail-send that does not listen to qmail-q is running, or is just ending") from None

    def print(self, view: MessageView, live: Live, *, recipients: bool) -> None:
        """Show one message."""
        if self.as_json:
            _say(1, json.dumps(_json(view, live, recipients=recipients)) + "\n")
        else:
            _say(1, "".join(_lines(view, live, recipients=recipients)))

    def list_all(self, domain: bytes | None) -> int:
        """Show every message, or those with a recipient left in ``domain``."""
        live = self.live()
        if live.domains and not self.as_json:
            _say(1, "".join(f"held domain {name}\n" for name in live.domains))
        for number in queue_view.numbers(self.layout):
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
                _say(2, f"qmail-q: no message {number}\n")
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
        found = tuple(queue_view.with_domain(self.layout, self.history, domain))
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
            raise Trouble(trouble)
        if self.as_json:
            answer: dict[str, object] = {"order": do, "ids": {str(number): state for number, state in states.items()}}
            if domain:
                answer["domain"] = _text(domain)
            if count is not None:
                answer["messages"] = count
            _say(1, json.dumps(answer) + "\n")
        elif count is not None:
            _say(1, f"{do} {_shown(domain)}: {count} messages\n")
        unknown = [number for number, state in states.items() if state == order_states.UNKNOWN]
        for number in unknown:
            _say(2, f"qmail-q: no message {number}\n")
        refused = [(number, state) for number, state in states.items() if state not in (*FINE, order_states.UNKNOWN)]
        for number, state in refused:
            _say(2, f"qmail-q: message {number} {SAYS.get(state, state)}\n")
        if not self.as_json:
            for number, state in states.items():
                if state in FINE:
                    _say(1, f"{do} {number}{'' if state == order_states.DONE else ': ' + SAYS[state]}\n")
        return UNKNOWN if unknown or refused else OK


def _targets(words: list[str]) -> tuple[tuple[int, ...], list[bytes]]:
    """Message numbers and domains among ``words``. Raises Misuse."""
    numbers, domains = [], []
    for word in words:
        digits = word.removeprefix("#")
        if digits.isascii() and digits.isdigit() and len(digits) <= 19 and 0 < int(digits) < control.NUMBER_MAX:
            numbers.append(int(digits))
        elif word and "@" not in word and not word.isdigit() and word.isprintable() and not set(word) & set(" #/"):
            domains.append(os.fsencode(word).lower())
        else:
            raise Misuse
    return tuple(numbers), domains


def run(words: list[str], home: str) -> int:
    """Do what the words after the program's name say. Raises Misuse, Trouble, OSError."""
    as_json = bool(words) and words[0] == "--json"
    do, *rest = words[as_json:] or [""]
    everything = do == "retry" and rest == ["all"]
    numbers, domains = _targets([] if everything else rest)
    if do == "list":
        understood = not numbers and len(domains) <= 1
    elif do in ("show", "delete", "bounce"):
        understood = bool(numbers) and not domains
    else:
        understood = do in control.ORDERS and bool(everything or numbers or domains)
    if not understood:
        raise Misuse
    session = Session(home, as_json=as_json)
    with session.as_send:
        if do == "list":
            return session.list_all(domains[0] if domains else None)
        if do == "show":
            return session.show(numbers)
        return session.order(do, numbers, domains, everything=everything)


def main(argv: Sequence[bytes], environ: Mapping[bytes, bytes]) -> int:
    """0 when all is done, 1 if a message is unknown or in the wrong state, 100 for misuse, 111 for trouble."""
    try:
        return run([os.fsdecode(word) for word in argv[1:]], home_of(environ))
    except Misuse:
        _say(2, USAGE_TEXT)
        return USAGE
    except BrokenPipeError:
        return TROUBLE
    except (Trouble, AccountMissing, ControlUnreadable) as trouble:
        _say(2, f"qmail-q: {trouble}\n")
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        _say(2, f"qmail-q: {place}{error.strerror or error}\n")
    return TROUBLE
