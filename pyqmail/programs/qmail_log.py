"""qmail-log: reads the logs of qmail-send and qmail-smtpd for people (qmail-log(8)).

    qmail-log [-f] [-d | -s] [filters] [LOG | --unit NAME]

LOG is a directory of multilog or svlogd, or a file; ``-`` is standard input. One line per message, with -d one per
delivery, with -s the statistics. What belongs together is joined here: a log has a line for each step.
"""

import argparse
import os
import select
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from pyqmail.log import events
from pyqmail.log.stamps import parse_line

DEFAULT_LOGS = ("/var/log/qmail-send", "/var/log/qmail/qmail-send", "/var/log/qmail")
COLORS = {"success": "32", "accepted": "32", "failure": "31", "refused": "31", "deferral": "33", "alert": "31"}
FOLLOW_S = 0.2  # between two looks at a file that did not grow
TOP = 10  # rows of each table


@dataclass(slots=True)
class Delivery:
    """One attempt."""

    message: "Message"
    channel: str
    recipient: str
    started: float | None
    ended: float | None = None
    result: str = ""
    text: str = ""


@dataclass(slots=True)
class Message:
    """What is known of a message so far."""

    number: int
    began: float | None = None
    sender: str = ""
    size: int = 0
    qp: int = 0
    uid: int = -1
    bounced: bool = False
    deliveries: list[Delivery] = field(default_factory=list)


def latest(message: Message) -> dict[str, Delivery]:
    """The last attempt for each recipient."""
    return {delivery.recipient: delivery for delivery in message.deliveries}


@dataclass(frozen=True, slots=True)
class Session:
    """A door has accepted or refused mail; ``rest`` is the recipients and what follows them."""

    result: str
    ip: str
    helo: str
    sender: str
    rest: str


@dataclass(frozen=True, slots=True)
class Trouble:
    """An alert or a warning."""

    text: str


Item = Message | Delivery | Session | Trouble


def shown(text: bytes) -> str:
    """``text`` of a line as it is looked for and shown."""
    return text.decode("utf-8", "surrogateescape")


class Joiner:
    """Turns the lines of a log into messages and deliveries as they end."""

    def __init__(self) -> None:
        self.messages: dict[int, Message] = {}
        self._running: dict[int, Delivery] = {}

    def feed(self, line: str) -> Iterator[tuple[float | None, Item]]:
        """What ``line`` completes, and when."""
        when, event = parse_line(line)
        match event:
            case events.NewMessage(number):
                self.messages[number] = Message(number, when)
            case events.MessageInfo(number, size, sender, qp, uid):
                message = self._message(number)
                message.sender, message.size, message.qp, message.uid = shown(sender), size, qp, uid
            case events.DeliveryStarted(delivery, number, channel, recipient):
                self._running[delivery] = Delivery(self._message(number), channel, shown(recipient), when)
            case events.DeliveryEnded(delivery, result, text) if result != "mangled":
                yield from self._end(when, delivery, result, shown(text).strip("/"))
            case events.BounceQueued(number) | events.BounceDiscarded(number):
                self._message(number).bounced = True
            case events.MessageEnded(number):
                yield when, self.messages.pop(number, Message(number))
            case events.Decision():
                rest = shown(event.to + event.tail)
                yield when, Session(event.result, shown(event.ip), shown(event.helo), shown(event.sender), rest)
            case events.Warn() | events.Alert():
                yield when, Trouble(shown(event.format()))

    def _message(self, number: int) -> Message:
        return self.messages.setdefault(number, Message(number))

    def _end(self, when: float | None, number: int, result: str, text: str) -> Iterator[tuple[float | None, Item]]:
        delivery = self._running.pop(number, None)
        if delivery is None:
            return  # it began before the log did
        delivery.ended, delivery.result, delivery.text = when, result, text
        delivery.message.deliveries.append(delivery)
        yield when, delivery


@dataclass(frozen=True, slots=True)
class Filters:
    """What is wanted; an empty string or None is everything."""

    sender: str
    recipient: str
    address: str
    host: str
    result: str
    number: int | None
    since: float | None

    def wants(self, when: float | None, item: Item) -> bool:
        """Whether ``item`` is to be shown."""
        if self.since is not None and (when is None or when < self.since):
            return False
        match item:
            case Trouble():
                return not any((self.sender, self.recipient, self.address, self.host, self.result, self.number))
            case Session():
                return self._wants_session(item)
            case Delivery():
                return self._wants_message(item.message, [item])
            case Message():
                return self._wants_message(item, item.deliveries)

    def _wants_session(self, item: Session) -> bool:
        recipients = item.rest.partition(" ")[0]
        return (
            (self.number is None or item.rest.endswith(f" qp={self.number}"))
            and has(item.sender, self.sender)
            and has(recipients, self.recipient)
            and (has(item.sender, self.address) or has(recipients, self.address))
            and (has(item.ip, self.host) or has(item.helo, self.host) or has(recipients, self.host))
            and self.result in ("", item.result)
        )

    def _wants_message(self, message: Message, deliveries: Sequence[Delivery]) -> bool:
        if self.number is not None and self.number not in (message.number, message.qp):
            return False
        if not has(message.sender, self.sender):
            return False
        if not (self.recipient or self.address or self.host or self.result):
            return True
        return any(self._wants_delivery(message, delivery) for delivery in deliveries)

    def _wants_delivery(self, message: Message, delivery: Delivery) -> bool:
        return (
            has(delivery.recipient, self.recipient)
            and (has(message.sender, self.address) or has(delivery.recipient, self.address))
            and (has(delivery.recipient.rpartition("@")[2], self.host) or has(delivery.text, self.host))
            and self.result in ("", delivery.result)
        )


def has(text: str, part: str) -> bool:
    """Whether ``part`` is in ``text``, whatever the case."""
    return part.lower() in text.lower()


# Lines for people


class Printer:
    """Writes lines to standard output."""

    def __init__(self, *, color: bool, utc: bool, at_once: bool) -> None:
        self._color = color
        self._at_once = at_once
        self._clock = time.gmtime if utc else time.localtime

    def show(self, when: float | None, item: Item) -> None:
        """One line."""
        match item:
            case Delivery():
                self._line(when, item.result, self._delivery(item))
            case Message():
                self._line(when, *self._message(item))
            case Session():
                self._line(when, item.result, f"{item.ip} <{item.sender}> to {item.rest}")
            case Trouble():
                self._line(when, "alert", item.text)

    def _line(self, when: float | None, result: str, text: str) -> None:
        moment = "-" * 19 if when is None else time.strftime("%Y-%m-%d %H:%M:%S", self._clock(when))
        word = f"{result:<8}"
        if self._color and result in COLORS:
            word = f"\x1b[{COLORS[result]}m{word}\x1b[0m"
        clean = "".join(char if char.isprintable() else "?" for char in text)
        sys.stdout.write(f"{moment} {word} {clean}\n")
        if self._at_once:
            sys.stdout.flush()

    def _delivery(self, item: Delivery) -> str:
        message = item.message
        tail = f": {item.text.replace('_', ' ')}" if item.text else ""
        return f"msg {message.number} <{message.sender}> to {item.channel} {item.recipient}{took(item)}{tail}"

    def _message(self, item: Message) -> tuple[str, str]:
        last = latest(item)
        counts = Counter(delivery.result for delivery in last.values())
        result = next((name for name in ("failure", "deferral", "success") if counts[name]), "end")
        who = ", ".join(
            f"{delivery.recipient}" + ("" if delivery.result == "success" else f" ({delivery.result})")
            for delivery in last.values()
        )
        attempts = len(item.deliveries)
        more = f", {attempts} attempts" if attempts > len(last) else ""
        bounced = ", bounced" if item.bounced else ""
        ends = [delivery.ended for delivery in item.deliveries if delivery.ended is not None]
        lasted = f" in {duration(max(ends) - item.began)}" if ends and item.began is not None else ""
        text = f"msg {item.number} qp {item.qp} <{item.sender}> {item.size} bytes to {who or 'nobody'}"
        return result, text + lasted + more + bounced


def took(item: Delivery) -> str:
    """How long an attempt lasted."""
    if item.started is None or item.ended is None:
        return ""
    return f" in {duration(item.ended - item.started)}"


def duration(seconds: float) -> str:
    """``seconds`` in a unit that fits."""
    for limit, unit, name in ((1, 0.001, "ms"), (120, 1, "s"), (7200, 60, "min"), (172800, 3600, "h")):
        if seconds < limit:
            return f"{seconds / unit:.0f} {name}" if unit != 1 else f"{seconds:.1f} s"
    return f"{seconds / 86400:.1f} d"


# Statistics


class Statistics:
    """Counts by sender, domain and result, and delays from the message's coming to a recipient's success."""

    def __init__(self) -> None:
        self._results: Counter[str] = Counter()
        self._senders: Counter[str] = Counter()
        self._bytes: Counter[str] = Counter()
        self._domains: dict[str, Counter[str]] = {}
        self._sessions: Counter[str] = Counter()
        self._delays: list[float] = []
        self._messages = 0

    def add(self, item: Item) -> None:
        """Count one item."""
        match item:
            case Message():
                self._messages += 1
                self._senders[item.sender] += 1
                self._bytes[item.sender] += item.size
            case Delivery():
                self._results[item.result] += 1
                domain = item.recipient.rpartition("@")[2].lower()
                self._domains.setdefault(domain, Counter())[item.result] += 1
                began = item.message.began
                if item.result == "success" and began is not None and item.ended is not None:
                    self._delays.append(item.ended - began)
            case Session():
                self._sessions[item.result] += 1
            case Trouble():
                self._results["alert"] += 1

    def lines(self) -> Iterator[str]:
        """The tables."""
        yield f"messages that left the queue: {self._messages}, {sum(self._bytes.values())} bytes"
        for name in ("success", "deferral", "failure", "alert"):
            yield f"{name:<12}{self._results[name]:>10}"
        for name, count in sorted(self._sessions.items()):
            yield f"smtp {name:<12}{count:>5}"
        if self._delays:
            ordered = sorted(self._delays)
            parts = (
                (f"{share}%", ordered[min(len(ordered) - 1, len(ordered) * share // 100)]) for share in (50, 90, 99)
            )
            yield "delay: " + ", ".join(f"{name} {duration(value)}" for name, value in (*parts, ("max", ordered[-1])))
        yield "senders by messages (bytes):"
        for sender, count in self._senders.most_common(TOP):
            yield f"{count:>10}  <{sender}> ({self._bytes[sender]})"
        yield "domains by deliveries (success/deferral/failure):"
        busiest = sorted(self._domains.items(), key=lambda pair: (-sum(pair[1].values()), pair[0]))
        for domain, counts in busiest[:TOP]:
            results = "/".join(str(counts[name]) for name in ("success", "deferral", "failure"))
            yield f"{sum(counts.values()):>10}  {domain} ({results})"


# Sources


def read_directory(path: str, follow: bool) -> Iterator[str]:
    """The lines of a multilog or svlogd directory: what was rotated away, by its time, then ``current``."""
    for name in sorted(name for name in os.listdir(path) if name.startswith("@")):
        try:
            with open(f"{path}/{name}", encoding="utf-8", errors="replace") as file:
                yield from file
        except FileNotFoundError:
            continue  # the logger removed it meanwhile
    yield from read_file(f"{path}/current", follow)


def read_file(path: str, follow: bool) -> Iterator[str]:
    """The lines of a file; with ``follow`` what is added to it, and to the one that takes its place."""
    file = open(path, encoding="utf-8", errors="replace")  # another may take its place
    try:
        partial = ""
        while True:
            line = file.readline()
            if line:
                partial += line
                if partial.endswith("\n") or not follow:
                    yield partial
                    partial = ""
            elif not follow:
                return
            elif replaced(file.fileno(), path):
                rest = file.read()
                yield from (partial + rest).splitlines(keepends=True)
                partial = ""
                file.close()
                file = open(path, encoding="utf-8", errors="replace")
            else:
                select.select([], [], [], FOLLOW_S)
    finally:
        file.close()


def replaced(fd: int, path: str) -> bool:
    """Whether ``path`` is another file than ``fd`` now."""
    try:
        now, then = os.stat(path), os.fstat(fd)
    except FileNotFoundError:
        return False
    return (now.st_dev, now.st_ino) != (then.st_dev, then.st_ino)


def read_journal(unit: str, follow: bool) -> Iterator[str]:
    """The lines that a unit has in the journal."""
    words = ["journalctl", "-o", "short-unix", "--no-pager", "-u", unit, *(["-f", "-n", "all"] if follow else [])]
    with subprocess.Popen(words, stdout=subprocess.PIPE, encoding="utf-8", errors="replace") as journal:
        assert journal.stdout is not None
        yield from (line for line in journal.stdout if not line.startswith("--"))


def open_source(options: argparse.Namespace) -> Iterator[str]:
    """The lines to read. Raises FileNotFoundError when no log is named and none is in the usual places."""
    if options.unit:
        return read_journal(options.unit, options.follow)
    path = options.log or next((name for name in DEFAULT_LOGS if os.path.exists(f"{name}/current")), None)
    if path is None:
        raise FileNotFoundError(2, "no log here; name one, or a unit", DEFAULT_LOGS[0])
    if path == "-":
        return iter(sys.stdin)
    return read_directory(path, options.follow) if os.path.isdir(path) else read_file(path, options.follow)


def parse_options(words: list[str]) -> argparse.Namespace:
    """The command line; --help and mistakes end the program by themselves."""
    parser = argparse.ArgumentParser("qmail-log", description="read qmail's logs: a line for each message or delivery")
    parser.add_argument(
        "log", nargs="?", help="a directory of multilog or svlogd, a file, or - (default: /var/log/...)"
    )
    parser.add_argument("--unit", help="read the journal of this systemd unit")
    parser.add_argument("-f", "--follow", action="store_true", help="go on with what is added")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("-d", "--deliveries", action="store_true", help="a line for each delivery")
    what.add_argument("-s", "--statistics", action="store_true", help="only the statistics")
    parser.add_argument("--sender", default="", help="messages whose sender holds this")
    parser.add_argument("--recipient", default="", help="messages and deliveries whose recipient holds this")
    parser.add_argument("--address", default="", help="either of the two")
    parser.add_argument("--host", default="", help="a recipient's domain, a server's answer, or a client's address")
    parser.add_argument("--id", type=int, dest="number", help="the message number, or the qp number")
    results = ("success", "failure", "deferral", "accepted", "refused")
    parser.add_argument("--result", default="", choices=results)
    parser.add_argument(
        "--since", type=moment, help="YYYY-MM-DD or YYYY-MM-DDTHH:MM:SS, or seconds as 3600s, 60m, 2h, 1d"
    )
    parser.add_argument("--utc", action="store_true", help="times in UTC")
    parser.add_argument("--color", choices=("auto", "always", "never"), default="auto")
    return parser.parse_args(words)


def moment(text: str) -> float:
    """A time on the clock, or so long ago. Raises ValueError."""
    units = {"s": 1, "m": 60, "h": 3600, "d": 86400}
    if text[-1:] in units:
        return time.time() - float(text[:-1]) * units[text[-1]]
    form = "%Y-%m-%dT%H:%M:%S" if "T" in text else "%Y-%m-%d"
    return time.mktime(time.strptime(text, form))


def read(options: argparse.Namespace) -> None:
    """Read to the end, or until interrupted. Raises OSError."""
    color = options.color == "always" or (options.color == "auto" and sys.stdout.isatty())
    printer, statistics, joiner = Printer(color=color, utc=options.utc, at_once=options.follow), Statistics(), Joiner()
    filters = Filters(
        options.sender, options.recipient, options.address, options.host, options.result, options.number, options.since
    )
    unwanted = Message if options.deliveries else Delivery
    try:
        for line in open_source(options):
            for when, item in joiner.feed(line):
                if not filters.wants(when, item):
                    continue
                statistics.add(item)
                if not options.statistics and not isinstance(item, unwanted):
                    printer.show(when, item)
    except KeyboardInterrupt:
        pass
    if options.statistics:
        sys.stdout.write("".join(f"{line}\n" for line in statistics.lines()))
    sys.stdout.flush()


def main(argv: Sequence[bytes], environ: Mapping[bytes, bytes]) -> int:
    """0; 111 when the log cannot be read, with a line on descriptor 2."""
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        read(parse_options([os.fsdecode(word) for word in argv[1:]]))
    except BrokenPipeError:
        return 0  # whoever read our output has gone
    except OSError as error:
        sys.stderr.write(f"qmail-log: {error.filename}: {error.strerror}\n")
        sys.stderr.flush()
        return 111
    except SystemExit as end:
        sys.stderr.flush()
        sys.stdout.flush()
        return 100 if end.code else 0
    return 0
