"""A log of any size, made quickly, the same each time: classic as multilog writes it, or JSON.

    python -m tests.bench.log_maker SIZE [--json] [--doors] >FILE      SIZE in bytes, or as 300M, 1G, 10G

The lines are those of our own classes. A part of some megabytes is what a busy qmail-send says in half a day: messages
come, up to 30 deliveries run at once, some are deferred and tried again, some bounce. The parts that follow are the
same with a later time, as after a restart. ``--doors``: with the decisions of qmail-smtpd between.
"""

import argparse
import heapq
import random
import sys
import time
from collections.abc import Callable, Iterator
from itertools import count, takewhile

from pyqmail.log.events import (
    Alert,
    BounceQueued,
    Decision,
    DeliveryEnded,
    DeliveryStarted,
    Known,
    MessageEnded,
    MessageInfo,
    NewMessage,
    Running,
)
from pyqmail.log.json_lines import JsonLines

UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
MESSAGES = 25_000  # of a part
SPAN_S = 40_000  # in which they come
PART_S = 65_000  # what happens later is left out, so that all times of a part begin alike
FIRST = 0x6900  # the upper half of the first second in TAI, 2025-10-27
DAY_1 = 1_761_523_200  # 2025-10-27 00:00 UTC
RUNNING_MAX = 30
DOMAINS, SENDERS = 2_000, 20_000
ANSWERS = {
    "success": b"192.0.2.%d_accepted_message./Remote_host_said:_250_2.0.0_Ok:_queued_as_4XkPq%dzT1/",
    "deferral": b"192.0.2.%d_does_not_like_recipient./Remote_host_said:_451_4.7.1_try_again_later_%d/",
    "failure": b"192.0.2.%d_does_not_like_recipient./Remote_host_said:_550_5.1.1_no_such_user_%d/",
}
Timed = tuple[float, Known]


class Queue:
    """A qmail-send of which only the log is true; ``chance`` decides everything."""

    def __init__(self, chance: random.Random, *, doors: bool) -> None:
        self._chance = chance
        self._doors = doors
        self._due: list[tuple[float, int, Callable[[float], Iterator[Known]]]] = []
        self._order, self._deliveries, self._numbers = count(), count(1), count(4_000_000)
        self._running = 0

    def events(self, messages: int) -> Iterator[Timed]:
        """What happens from second 0 until the last message has ended, which may be after SPAN_S."""
        for _ in range(messages):
            self._at(self._chance.uniform(0, SPAN_S), self._arrive)
        while self._due:
            when, _, act = heapq.heappop(self._due)
            for event in act(when):
                yield when, event

    def _at(self, when: float, act: Callable[[float], Iterator[Known]]) -> None:
        heapq.heappush(self._due, (when, next(self._order), act))

    def _name(self, kind: bytes, names: int) -> bytes:
        return b"%b%d" % (kind, int(names ** self._chance.random()))  # few are frequent

    def _arrive(self, when: float) -> Iterator[Known]:
        number, qp, size = next(self._numbers), self._chance.randrange(1 << 22), self._chance.randrange(400, 90_000)
        sender = self._name(b"sender", SENDERS) + b"@client.example"
        recipients = [self._recipient() for _ in range(self._chance.choice((1, 1, 1, 2, 3)))]
        if self._doors:
            to = b",".join(b"<%b>" % recipient for _, recipient in recipients)
            words = ((b"bytes", b"%d" % size), (b"qp", b"%d" % qp), (b"encrypted", b"TLSv1.3"))
            yield Decision(b"qmail-smtpd", "accepted", b"192.0.2.7", b"client.example", sender, to, words)
        yield NewMessage(number)
        yield MessageInfo(number, size, sender, qp, 7791)
        left = [len(recipients)]
        for channel, recipient in recipients:
            self._at(when, lambda when, channel=channel, recipient=recipient: self._start(  # type: ignore[misc]
                when, number, channel, recipient, left, 1))  # fmt: skip

    def _recipient(self) -> tuple[str, bytes]:
        if self._chance.random() < 0.4:
            return "local", self._name(b"user", SENDERS) + b"@here.example"
        return "remote", self._name(b"user", SENDERS) + b"@" + self._name(b"domain", DOMAINS) + b".example"

    def _start(
        self, when: float, number: int, channel: str, recipient: bytes, left: list[int], attempt: int
    ) -> Iterator[Known]:
        if self._running >= RUNNING_MAX:
            self._at(when + 1, lambda when: self._start(when, number, channel, recipient, left, attempt))
            return
        self._running += 1
        delivery = next(self._deliveries)
        yield DeliveryStarted(delivery, number, channel, recipient)
        yield self._status()
        took = self._chance.expovariate(10 if channel == "local" else 0.5)
        self._at(when + took, lambda when: self._end(when, delivery, number, channel, recipient, left, attempt))

    def _end(
        self, when: float, delivery: int, number: int, channel: str, recipient: bytes, left: list[int], attempt: int
    ) -> Iterator[Known]:
        self._running -= 1
        luck = self._chance.random()
        result = "success" if luck < 0.85 or channel == "local" else "deferral" if luck < 0.95 else "failure"
        text = ANSWERS[result] % (self._chance.randrange(256), delivery) if channel == "remote" else b"did_1+0+0/"
        yield DeliveryEnded(delivery, result, text)
        yield self._status()
        if result == "deferral":
            again = when + 400 * attempt**2
            self._at(again, lambda when: self._start(when, number, channel, recipient, left, attempt + 1))
            return
        left[0] -= 1
        if left[0] == 0:
            if result == "failure":
                yield BounceQueued(number, self._chance.randrange(1 << 22))
            yield MessageEnded(number)
        if self._chance.random() < 0.0001:
            yield Alert(b"unable to stat mess/%d" % number)

    def _status(self) -> Running:
        return Running(0, 10, self._running, 20)


def part_of(line_of: Callable[[float, Known], bytes], *, doors: bool) -> bytes:
    """A part's lines."""
    happened = Queue(random.Random(1), doors=doors).events(MESSAGES)
    return b"".join(line_of(when, event) for when, event in takewhile(lambda timed: timed[0] < PART_S, happened))


def classic_parts(*, doors: bool) -> Iterator[bytes]:
    """Parts without end, of 65536 s each."""
    first = b"@40000000%04x" % FIRST

    def line_of(when: float, event: Known) -> bytes:
        return first + b"%04x%08x %b\n" % (int(when), int(when % 1 * 1e9), event.format())

    part = part_of(line_of, doors=doors)
    return (part.replace(first, b"@40000000%04x" % (FIRST + number)) for number in count())


def json_parts(*, doors: bool) -> Iterator[bytes]:
    """Parts without end, of a day each."""
    now = [0.0]
    writers = {name: JsonLines(name, clock=lambda: DAY_1 + now[0]) for name in ("qmail-send", "qmail-smtpd")}

    def line_of(when: float, event: Known) -> bytes:
        now[0] = when
        return writers["qmail-smtpd" if isinstance(event, Decision) else "qmail-send"].format(event) + b"\n"

    part, first = part_of(line_of, doors=doors), date(0)
    return (part.replace(first, date(number)) for number in count())


def date(number: int) -> bytes:
    """How the lines of a day begin."""
    return time.strftime('{"time":"%Y-%m-%dT', time.gmtime(DAY_1 + number * 86400)).encode()


def log_of(size: int, *, as_json: bool = False, doors: bool = False) -> Iterator[bytes]:
    """A log of ``size`` bytes, cut wherever that is."""
    for part in (json_parts if as_json else classic_parts)(doors=doors):
        yield part[:size]
        size -= len(part)
        if size <= 0:
            return


def main() -> int:
    """Write one to standard output."""
    parser = argparse.ArgumentParser("log_maker", description=__doc__)
    parser.add_argument("size", type=lambda text: int(text.rstrip("KMG")) * UNITS.get(text[-1:], 1))
    parser.add_argument("--json", action="store_true", dest="as_json")
    parser.add_argument("--doors", action="store_true")
    options = parser.parse_args()
    for part in log_of(options.size, as_json=options.as_json, doors=options.doors):
        sys.stdout.buffer.write(part)
    return 0


if __name__ == "__main__":
    sys.exit(main())
