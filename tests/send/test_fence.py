"""When deliveries of messages that have copies are ended, by a clock that goes where the test wants it."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pyqmail.formats.todo import Todo
from pyqmail.log.events import Event
from pyqmail.protocol.spawn import format_joint_report, format_probe_answer, format_report
from pyqmail.send.fence import AGAIN_S, LOOK_S, Fence, Whose
from pyqmail.send.shadow_link import WAIT_S, ShadowLink
from pyqmail.spool.preprocess import New
from tests.send.parts import OneChannel

FIRST, SECOND = b"1" * 32, b"2" * 32
MARGIN_S = 60.0


class Running:
    """A clock, and deliveries of two messages with copies and one without."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.timers: list[tuple[float, Callable[[], None]]] = []
        self.lines: list[bytes] = []
        self.copies = [FIRST, SECOND, SECOND, b""]
        self.memory = True
        self.fence = Fence(self._later, lambda: self.now, self._say)
        self.fence.channels.append(self)

    def _later(self, seconds: float, callback: Callable[[], None]) -> None:
        self.timers.append((self.now + seconds, callback))

    def _say(self, event: Event) -> None:
        self.lines.append(event.format())

    def end(self, whose: Whose) -> int:
        if not self.memory:
            raise MemoryError
        before, self.copies = len(self.copies), [copy for copy in self.copies if not whose(copy)]
        return before - len(self.copies)

    def go(self, until: float) -> None:
        """Let time go by."""
        while due := [timer for timer in self.timers if timer[0] <= until]:
            first = min(due, key=lambda timer: timer[0])
            self.timers.remove(first)
            self.now = max(self.now, first[0])
            first[1]()
        self.now = until

    def sleep(self, until: float) -> None:
        """Suspend the machine: its timers stand still, its clock does not."""
        self.timers = [(when + until - self.now, callback) for when, callback in self.timers]
        self.now = until


def test_what_has_copies_is_ended_at_half_of_the_margin() -> None:
    running = Running()
    running.fence.renewed(1300, MARGIN_S)
    running.go(1329.9)
    assert len(running.copies) == 4
    running.go(1330)
    assert running.copies == [b""]
    assert running.lines == [b"warning: no lease: deliveries under way are ended: 3"]


def test_a_renewal_in_time_ends_nothing_and_a_second_end_is_the_next_ones() -> None:
    running = Running()
    for until in (1300, 1375, 1450):
        running.fence.renewed(until, MARGIN_S)
    running.go(1479.9)
    assert len(running.copies) == 4
    running.go(1480)
    assert running.copies == [b""]
    running.fence.renewed(1800, MARGIN_S)
    running.copies.append(FIRST)
    running.go(1829)
    assert running.copies == [b"", FIRST]
    running.go(1830)
    assert running.copies == [b""] and len(running.lines) == 2


def test_a_renewal_after_the_end_of_the_lease_and_before_the_half_ends_nothing() -> None:
    running = Running()
    running.fence.renewed(1300, MARGIN_S)
    running.go(1329)
    running.fence.renewed(1629, MARGIN_S)
    running.go(1340)
    assert len(running.copies) == 4


@pytest.mark.parametrize("said", [0, 1300, 1200], ids=["none yet", "the same again", "an older one"])
def test_a_lease_that_is_no_later_changes_nothing(said: float) -> None:
    running = Running()
    running.fence.renewed(1300, MARGIN_S)
    running.fence.renewed(said, MARGIN_S)
    running.go(1329)
    assert len(running.copies) == 4
    running.go(1330)
    assert running.copies == [b""] and len(running.lines) == 1


def test_without_a_margin_the_end_of_the_lease_is_the_last_moment() -> None:
    running = Running()
    running.fence.renewed(1300, 0)
    running.go(1300)
    assert running.copies == [b""]


def test_a_machine_that_was_suspended_looks_at_the_clock_soon() -> None:
    running = Running()
    running.fence.renewed(1300, MARGIN_S)
    running.go(1010)
    running.sleep(5000)
    running.go(5000 + LOOK_S)
    assert running.copies == [b""]


def test_what_others_have_adopted_is_ended_at_once() -> None:
    running = Running()
    running.fence.renewed(1300, MARGIN_S)
    running.fence.taken([SECOND, b"3" * 32])
    assert running.copies == [FIRST, b""]
    assert running.lines == [b"warning: others have adopted messages: deliveries under way are ended: 2"]
    running.fence.taken([SECOND])
    assert len(running.lines) == 1


def test_without_memory_it_is_tried_again_unless_the_lease_is_back() -> None:
    for back in (False, True):
        running = Running()
        running.fence.renewed(1300, MARGIN_S)
        running.memory = False
        with pytest.raises(MemoryError):
            running.go(1330)
        running.memory = True
        if back:
            running.fence.renewed(1630, MARGIN_S)
        running.go(1330 + AGAIN_S)
        assert running.copies == ([FIRST, SECOND, SECOND, b""] if back else [b""])


class Ending(OneChannel):
    """A channel of messages that have copies, whose spawner answers the probe, with ``text``, as told."""

    def __init__(self, home: Path, name: str = "local", answer: bytes | None = None, together: int = 1) -> None:
        self.joint = together > 1
        self.answer = answer or format_probe_answer(10, together, end=True)
        super().__init__(home, name, together=together)
        (self.queue / "pyqmail").mkdir(exist_ok=True)

    def _grant(self, limit: int) -> None:
        return

    def _before_start(self) -> None:
        self.link = self.means.shadow = ShadowLink(self.loop, self.means.layout, self._say)
        self.link._until = float("inf")

    def has_copy(self, number: int, identity: bytes) -> None:
        """Say so in info/N."""
        path = self.queue / f"info/0/{number}"
        times = path.stat()
        path.write_bytes(b"Fjoe@a.example\0p0 shadow %b\0" % identity)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))

    def probe(self) -> None:
        """The spawner answers it."""
        (probe,) = self.turn()
        assert probe.probe and probe.asks_for_end and probe.asks_for_together == (self.name == "remote")
        wide = b"end" in self.answer
        self._parser.wide, self._parser.joint = wide, self.joint and wide
        os.write(self.reports, self.answer)
        self.loop.run_once(0)


def report(slot: int, letter: bytes, text: bytes = b"") -> bytes:
    return format_report(slot, letter, text, wide=True)


def test_a_channel_ends_those_of_the_copies_once_and_tries_them_again_soon(tmp_path: Path) -> None:
    one = Ending(tmp_path)
    one.probe()
    one.place(7, b"joe@here.example", b"ann@here.example")
    one.place(8, b"bob@here.example")
    one.has_copy(7, FIRST)
    commands = {command.recipient: command.slot for command in one.turn()}
    assert one.link is not None
    one.link.fence.taken([FIRST, SECOND])
    ends = one.turn()
    assert all(command.ends for command in ends)
    assert {command.slot for command in ends} == {commands[b"joe@here.example"], commands[b"ann@here.example"]}
    one.link.fence.taken([FIRST])
    assert one.turn() == []
    assert one.lines.count(b"warning: others have adopted messages: deliveries under way are ended: 2") == 1
    one.link._until = 0.0
    for slot in sorted(command.slot for command in ends):
        os.write(one.reports, report(slot, b"Z", b"ended\n"))
    one.loop.run_once(0)
    assert one.marks(7) == b"TT" and one.due()[7] == int(one.now) + WAIT_S
    assert b"delivery 1: deferral: ended/" in one.lines
    one.now += WAIT_S + 1
    assert one.turn() == [] and one.due()[7] == int(one.now) + WAIT_S, "it waits for the lease"
    one.link._until = float("inf")
    one.link._taken.clear()
    one.now += WAIT_S + 1
    again = {command.recipient: command.slot for command in one.turn()}
    assert set(again) == {b"joe@here.example", b"ann@here.example"}
    one.link.fence.taken([FIRST])
    assert len(one.turn()) == 2, "the slots are other deliveries' by now"


def test_an_old_message_is_not_given_up_because_it_was_ended(tmp_path: Path) -> None:
    one = Ending(tmp_path)
    one.probe()
    for number, copy in ((7, FIRST), (8, SECOND)):
        one.place(number, b"joe@here.example", birth=one.now - 700_000)
        one.has_copy(number, copy)
    slots = [command.slot for command in one.turn()]
    assert one.link is not None
    one.link.fence.taken([FIRST])
    (end,) = one.turn()
    for slot in slots:
        os.write(one.reports, report(slot, b"Z", b"later\n"))
    one.loop.run_once(0)
    assert one.marks(7) == b"T" and slots.index(end.slot) == 0
    assert one.notes.said == [("settled", 7), ("empty", "local", 8), ("settled", 8)]
    assert (one.queue / "bounce/8").exists() and not (one.queue / "bounce/7").exists()


def test_one_command_ends_all_recipients_that_went_together(tmp_path: Path) -> None:
    one = Ending(tmp_path, "remote", together=9)
    one.probe()
    one.place(7, *(b"u%d@x.example" % at for at in range(3)))
    one.has_copy(7, FIRST)
    (command,) = one.turn()
    assert len(command.others) == 2 and one.link is not None
    one.link.fence.taken([FIRST])
    (end,) = one.turn()
    assert (end.slot, end.ends) == (command.slot, True)
    assert one.lines[-1] == b"warning: others have adopted messages: deliveries under way are ended: 3"
    os.write(one.reports, format_joint_report(command.slot, b"K", b"fine", 0, 0))
    os.write(one.reports, format_joint_report(command.slot, b"Z", b"ended\n", 1, 2))
    one.loop.run_once(0)
    assert one.marks(7) == b"DTT"


def test_a_fresh_message_gets_its_files_and_waits(tmp_path: Path) -> None:
    one = Ending(tmp_path)
    one.probe()
    todo = Todo(b"joe@a.example", (b"joe@here.example",), 0, 0, shadow=FIRST)
    new = New(7, 100, todo, one.now, {"local": [b"joe@here.example"], "remote": []})
    assert one.channel.offer(new, b"joe@here.example")
    (command,) = one.turn()
    assert one.link is not None
    one.link.fence.taken([FIRST])
    assert [(end.slot, end.ends) for end in one.turn()] == [(command.slot, True)]
    os.write(one.reports, report(command.slot, b"Z", b"ended\n"))
    one.loop.run_once(0)
    assert one.notes.said == [("to be written", 7)]
    one.notes.written[0](True)
    assert one.due()[7] == int(one.now) + WAIT_S


@pytest.mark.parametrize(
    "answer", [format_report(255, b"Z", b"out of range\n"), format_report(255, b"W", b"120")], ids=["foreign", "older"]
)
def test_a_spawner_that_ends_nothing_is_named_once_and_asked_nothing(tmp_path: Path, answer: bytes) -> None:
    one = Ending(tmp_path, answer=answer)
    one.probe()
    one._parser.wide = b"W120" in answer
    said = b"warning: the local spawner ends no delivery: without a lease one that goes on may be made by others too"
    assert one.lines.count(said) == 1
    one.place(7, b"joe@here.example")
    one.has_copy(7, FIRST)
    (command,) = one.turn()
    assert one.link is not None
    one.link.fence.taken([FIRST])
    assert command.recipient == b"joe@here.example" and one.turn() == []
    one.channel.deliveries.controls_changed()
    assert one.turn() == [] and one.lines.count(said) == 1


def test_without_copies_no_spawner_is_asked(tmp_path: Path) -> None:
    for name in ("local", "remote"):
        (tmp_path / name).mkdir()
        assert OneChannel(tmp_path / name, name).turn() == []
