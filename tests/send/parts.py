"""One channel of qmail-send without its daemon: a clock that stands still, and neighbours that only take notes."""

import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from pyqmail.log.events import Event
from pyqmail.policy.classify import Routing
from pyqmail.protocol.spawn import Command, CommandParser, format_joint_report, format_probe_answer, format_report
from pyqmail.send.background import Background
from pyqmail.send.background import Job as BackgroundJob
from pyqmail.send.channel import Channel
from pyqmail.send.controls import Controls
from pyqmail.send.job import Delivery, Job
from pyqmail.send.means import Means
from pyqmail.send.message_facts import MessageFacts
from pyqmail.send.metrics import Counters
from pyqmail.send.status import Status
from pyqmail.spool.history import History
from pyqmail.spool.layout import Layout
from pyqmail.spool.preprocess import New
from pyqmail.system.loop import Loop
from tests.programs.sending import make_queue

NOW = 1_000_000


def controls(**values: object) -> Controls:
    """The defaults of a host here.example, changed by ``values``."""
    given = SimpleNamespace(
        routing=Routing(b"here.example", frozenset({b"here.example"}), frozenset(), {}),
        lifetime_s=604800,
        concurrency={"local": 10, "remote": 20},
        domain_concurrency={},
        share={"local": 0, "remote": 0},
        together=1,
        break_char=b"-",
    )
    given.__dict__.update(values)
    return cast(Controls, given)


class AtOnce:
    """In place of the thread."""

    def submit(self, job: BackgroundJob) -> None:
        """Do ``job``, and what it returns."""
        job()()


class Notes:
    """The neighbours of a channel: no orders but those put here, and a list of what was said."""

    def __init__(self) -> None:
        self.stopped: set[int] = set()
        self.held_domains: set[bytes] = set()
        self.unwanted_of: set[bytes] = set()
        self.said: list[tuple[object, ...]] = []
        self.written: list[Callable[[bool], None]] = []

    def withholds(self, channel: str, number: int, now: int) -> bool:
        """Whether ``number`` was put into ``stopped``."""
        return number in self.stopped

    def stops(self, number: int) -> bool:
        """The same."""
        return number in self.stopped

    def withholds_recipient(self, recipient: bytes) -> bool:
        """Whether its domain was put into ``held_domains``."""
        return recipient.rpartition(b"@")[2] in self.held_domains

    def settled(self, number: int) -> None:
        """Noted."""
        self.said.append(("settled", number))

    @property
    def notices(self) -> Any:
        """The same: they are told of every message with facts."""
        return self

    def unwanted(self, channel: str, delivery: Delivery) -> bool:
        """Whether its recipient was put into ``unwanted_of``."""
        return delivery.recipient in self.unwanted_of

    def reached(self, channel: str, delivery: Delivery, text: bytes) -> None:
        """Noted."""
        self.said.append(("reached", channel, delivery.recipient))

    def late(self, channel: str, job: Job) -> None:
        """Noted."""
        self.said.append(("late", channel, job.number))

    def fresh_delivered(self, number: int) -> None:
        """Noted."""
        self.said.append(("fresh delivered", number))

    def fresh_to_be_written(self, new: New, written: Callable[[bool], None]) -> None:
        """Noted; the test says when it is written."""
        self.said.append(("to be written", new.number))
        self.written.append(written)

    def channel_empty(self, name: str, number: int) -> None:
        """Noted."""
        self.said.append(("empty", name, number))


def means_for(
    home: Path, loop: Loop, say: Callable[[Event], None], clock: Callable[[], float], **values: object
) -> Means:
    """What the parts work with, on a new queue of one subdirectory each."""
    make_queue(home, 1)
    layout = Layout(str(home), 1)
    background = cast(Background, AtOnce())
    facts = MessageFacts(layout, say)
    return Means(loop, layout, say, background, History(layout), facts, Counters(), controls(**values), clock=clock)


class OneChannel:
    """A channel with a queue of its own, its spawner's ends of the pipes, and a clock to be moved."""

    def __init__(self, home: Path, name: str = "local", limit: int = 10, **values: object) -> None:
        self.now: float = NOW
        self.lines: list[bytes] = []
        self.notes = Notes()
        self.loop = Loop()
        self.means = means_for(home, self.loop, self._say, lambda: self.now, **values)
        self.queue = home / "queue"
        self.commands, theirs = os.pipe()
        mine, self.reports = os.pipe()
        self._before_start()
        status = Status(self.means)
        self.name = name
        self.channel = Channel(name, self.means, self.notes, self.notes, status, commands=theirs, reports=mine)
        status.channels = dict.fromkeys(("local", "remote"), self.channel.deliveries)
        self.channel.start(limit)
        os.set_blocking(self.commands, False)
        self._parser = CommandParser()
        if self.means.controls.together > 1:
            self._grant(limit)

    def _before_start(self) -> None:
        """The place for more means."""

    def _grant(self, limit: int) -> None:
        """Answer the probe as our own spawner does."""
        (probe,) = self._parser.feed(os.read(self.commands, 65536))
        assert probe.probe and probe.asks_for_together
        self._parser.wide = self._parser.joint = True
        os.write(self.reports, format_probe_answer(limit, 50))
        self.loop.run_once(0)

    def _say(self, event: Event) -> None:
        self.lines.append(event.format())

    def place(self, number: int, *recipients: bytes, due: float | None = None, birth: float | None = None) -> None:
        """Put a preprocessed message into the queue and the schedule."""
        info = self.queue / f"info/0/{number}"
        info.write_bytes(b"Fjoe@a.example\0")
        os.utime(info, (birth or self.now,) * 2)
        (self.queue / f"{self.name}/0/{number}").write_bytes(b"".join(b"T" + name + b"\0" for name in recipients))
        self.channel.schedule.add(number, int(self.now if due is None else due))

    def turn(self) -> list[Command]:
        """One turn of the loop: what is started by it."""
        self.channel.step(self.now)
        self.loop.run_once(0)
        try:
            return list(self._parser.feed(os.read(self.commands, 65536)))
        except BlockingIOError:
            return []

    def report(self, slot: int, letter: bytes, text: bytes = b"") -> None:
        """The spawner reports."""
        os.write(self.reports, format_report(slot, letter, text))
        self.loop.run_once(0)

    def report_together(self, slot: int, letter: bytes, first: int, last: int, text: bytes = b"") -> None:
        """The spawner reports on some of a command's recipients."""
        os.write(self.reports, format_joint_report(slot, letter, text, first, last))
        self.loop.run_once(0)

    def marks(self, number: int) -> bytes:
        """The mark of each recipient of ``number``."""
        data = (self.queue / f"{self.name}/0/{number}").read_bytes()
        return b"".join(record[:1] for record in data.split(b"\0"))

    def due(self) -> dict[int, int]:
        """What waits, and until when."""
        return dict(self.channel.schedule.items())
