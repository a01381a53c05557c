"""Given these messages and this order: what is answered, kept and done? With a clock that stands still."""

import os
from pathlib import Path

import pytest

from pyqmail.log.events import Event
from pyqmail.protocol.control import TAKE, Request
from pyqmail.send import endings
from pyqmail.send.holds import DELETE, MOVED, read_orders
from pyqmail.send.means import Means
from pyqmail.send.offline import Offline
from pyqmail.send.order_requests import OrderRequests
from pyqmail.send.order_states import BUSY, DONE, FENCED, HELD, NO_PLACE, NOT_HELD, PENDING, UNKNOWN
from pyqmail.send.queue_orders import QueueOrders
from pyqmail.send.retry import Schedule
from pyqmail.send.shadow_link import ShadowLink
from pyqmail.system import files
from pyqmail.system.boot_clock import since_boot
from pyqmail.system.loop import Loop
from pyqmail.system.process import Acting
from tests.send.parts import NOW, means_for


class OneQueue:
    """Orders on a queue of files, with a schedule in place of the channels."""

    def __init__(self, home: Path) -> None:
        self.lines: list[bytes] = []
        self.means: Means = means_for(home, Loop(), self._say, lambda: NOW)
        (home / "queue/pyqmail").mkdir()
        self.means.history.prepare()
        self.queue = home / "queue"
        self.schedule = Schedule()
        self.running: set[int] = set()
        self.new: set[int] = set()
        self.told: list[tuple[object, ...]] = []
        self.orders = QueueOrders(self.means, self)
        self.orders.writable = True
        self.requests = OrderRequests(self.means, self.orders, self)
        self.answers: list[tuple[dict[int, str], str]] = []

    def _say(self, event: Event) -> None:
        self.lines.append(event.format())

    def answer(self, states: dict[int, str], trouble: str) -> None:
        """Noted."""
        self.answers.append((states, trouble))

    def place(self, number: int) -> None:
        """A message that waits for its next attempt."""
        for part, text in (("mess", b"x\n"), ("info", b"Fjoe@a.example\0"), ("local", b"Tann@here.example\0")):
            (self.queue / f"{part}/0/{number}").write_bytes(text)
        self.schedule.add(number, NOW + 500)

    # the rest of qmail-send

    def schedules(self) -> list[Schedule]:
        """The one."""
        return [self.schedule]

    def delivering(self, number: int) -> bool:
        """As the test says."""
        return number in self.running

    def in_todo(self, number: int) -> bool:
        """As the test says."""
        return number in self.new

    def injecting(self, number: int) -> bool:
        """Never."""
        return False

    def all_due(self) -> None:
        """Noted."""
        self.told.append(("all due",))

    def due(self, channel: str, number: int) -> None:
        """Noted."""
        self.told.append(("due", channel, number))

    def removed(self, number: int, birth: int) -> None:
        """Noted."""
        self.told.append(("removed", number))

    def all_failed(self, number: int) -> None:
        """Noted."""
        self.told.append(("all failed", number))


@pytest.fixture
def one(tmp_path: Path) -> OneQueue:
    made = OneQueue(tmp_path)
    made.place(7)
    return made


def test_a_retry_makes_due_now_what_waits(one: OneQueue) -> None:
    one.requests.retry("uid 0", [7, 8], "", one.answer)
    assert one.answers == [({7: DONE, 8: UNKNOWN}, "")]
    assert dict(one.schedule.items()) == {7: NOW}
    assert int((one.queue / "local/0/7").stat().st_mtime) == NOW
    assert one.lines == [b"control: uid 0: retry msg 7"]


def test_a_hold_is_on_disk_before_it_is_confirmed_and_parks_what_comes_due(one: OneQueue) -> None:
    one.requests.hold("uid 0", [7], b"far.example", one.answer)
    assert one.answers == [({7: DONE}, "")]
    kept = read_orders(one.means.layout)
    assert kept.held.keys() == {7} and kept.domains == {b"far.example"}
    assert one.orders.withholds("local", 7, NOW) and one.orders.stops(7)
    assert one.orders.withholds_recipient(b"x@FAR.example") and not one.orders.withholds_recipient(b"x@near.example")
    one.requests.release("uid 0", [7], b"", one.answer)
    assert one.told == [("due", "local", 7)] and not one.orders.stops(7)


@pytest.mark.parametrize("kind", [DELETE, MOVED])
def test_an_order_is_forgotten_once_what_it_removed_is_gone_for_good(
    one: OneQueue, kind: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout, sync, gone = one.means.layout, files.sync_directory, list[str]()
    orders = one.queue / "pyqmail/orders"

    def synced(path: str) -> None:
        if not os.path.exists(layout.part("local", 7)) and b" 7 " in orders.read_bytes():
            gone.append(os.path.basename(os.path.dirname(path)))
        sync(path)

    monkeypatch.setattr(files, "sync_directory", synced)
    one.requests.end("uid 0", kind, [7], one.answer)
    assert {"local", "remote", "info"} <= set(gone) and b" 7 " not in orders.read_bytes()

    def failing(path: str) -> None:
        if os.path.basename(os.path.dirname(path)) == "local":
            raise OSError

    one.place(8)
    monkeypatch.setattr(files, "sync_directory", failing)
    one.requests.end("uid 0", kind, [8], one.answer)
    assert b" 8 " in orders.read_bytes()


def test_what_another_node_may_deliver_is_not_taken_to_be_moved(one: OneQueue) -> None:
    one.place(8)
    (one.queue / "info/0/8").write_bytes(b"Fjoe@a.example\0p0 shadow %032x\0" % 8)
    one.means.shadow = ShadowLink(one.means.loop, one.means.layout, one._say)
    one.requests.take(one, [7, 8], one.answer)
    one.means.shadow._until = since_boot() + 300
    one.requests.take(one, [8], one.answer)
    one.means.shadow._taken.add(b"%032x" % 8)
    one.requests.take(one, [8], one.answer)
    assert one.answers == [({7: DONE, 8: FENCED}, ""), ({8: DONE}, ""), ({8: FENCED}, "")]


def test_on_a_stopped_queue_nothing_with_a_copy_is_moved(one: OneQueue) -> None:
    layout = one.means.layout
    one.place(8)
    (one.queue / "info/0/8").write_bytes(b"Fjoe@a.example\0p0 shadow %032x\0" % 8)
    Path(layout.sendmutex).touch()
    control = Path(layout.home) / "control"
    control.mkdir(exist_ok=True)
    (control / "me").write_text("here.example\n")
    (control / "shadow").write_text("postgresql://pyqmail@db.example/pyqmail\n")
    with Offline(layout, Acting(os.getuid(), os.getgid())) as offline:
        assert offline.act(Request(TAKE, (7, 8))) == ({7: DONE, 8: FENCED}, "")
        (control / "shadow").unlink()
        assert offline.act(Request(TAKE, (7, 8))) == ({7: DONE, 8: DONE}, "")


def test_a_hold_that_cannot_be_written_is_none(one: OneQueue) -> None:
    one.orders.writable = False
    one.requests.hold("uid 0", [7], b"", one.answer)
    assert one.answers == [({}, NO_PLACE)] and not one.orders.stops(7)
    one.orders.writable = True
    (one.queue / "pyqmail/orders.new").mkdir()
    one.requests.hold("uid 0", [7], b"", one.answer)
    assert one.answers[1][1].startswith("unable to write queue/pyqmail") and not one.orders.stops(7)


def test_what_is_not_held_cannot_be_released(one: OneQueue) -> None:
    one.requests.release("uid 0", [7, 8], b"", one.answer)
    assert one.answers == [({7: NOT_HELD, 8: UNKNOWN}, "")] and one.lines == []


def test_a_message_that_waits_is_deleted_at_once(one: OneQueue) -> None:
    one.requests.end("uid 0", DELETE, [7], one.answer)
    assert one.answers == [({7: DONE}, "")] and one.told == [("removed", 7)]
    assert not (one.queue / "info/0/7").exists() and dict(one.schedule.items()) == {}
    assert read_orders(one.means.layout).endings == {}


def test_one_that_is_being_delivered_is_deleted_when_that_is_over(one: OneQueue) -> None:
    one.running.add(7)
    one.requests.end("uid 0", DELETE, [7], one.answer)
    assert one.answers == [({7: PENDING}, "")] and one.told == []
    assert one.orders.stops(7) and one.orders.ends(7)
    one.running.clear()
    one.orders.settled(7)
    assert one.told == [("removed", 7)]


def test_orders_that_are_carried_out_are_forgotten_on_disk_as_soon_as_that_can_be_written(
    one: OneQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endings, "TROUBLE_S", 0)
    one.place(8)
    one.running = {7, 8}
    one.requests.end("uid 0", DELETE, [7, 8], one.answer)
    (one.queue / "pyqmail/orders.new").mkdir()
    one.running.clear()
    for number in (7, 8):
        one.orders.settled(number)
    kept = one.queue / "pyqmail/orders"
    assert one.told == [("removed", 7), ("removed", 8)] and kept.read_bytes().count(b"delete ") == 2
    (said,) = [line for line in one.lines if line.endswith(b"; will try again later")]
    assert said.startswith(b"warning: unable to write queue/pyqmail: ")
    (one.queue / "pyqmail/orders.new").rmdir()
    one.means.loop.run_once(0)
    assert kept.read_bytes() == b""


def test_an_order_for_a_new_message_waits_until_it_has_come_or_is_too_late(one: OneQueue) -> None:
    one.new = {7, 9}
    for number in (7, 9):
        one.requests.hold("uid 0", [number], b"", one.answer)
    assert [states for states, _ in one.answers] == [{7: PENDING}, {9: PENDING}] and one.orders.stops(7)
    one.new.clear()
    one.orders.arrived(7)
    assert one.orders.book.orders.held.keys() == {7}
    one.orders.missed(9)
    assert one.lines[-1] == b"control: uid 0: hold msg 9: too late, it is delivered"


def test_a_held_message_says_so_and_an_order_for_one_that_has_gone_is_forgotten(one: OneQueue) -> None:
    one.requests.hold("uid 0", [7], b"", one.answer)
    one.requests.hold("uid 0", [7], b"", one.answer)
    assert one.answers[1] == ({7: HELD}, "")
    one.orders.forget(7)
    assert read_orders(one.means.layout).held == {}


def test_a_busy_message_is_left_alone(one: OneQueue) -> None:
    one.new = {7}
    one.requests.retry("uid 0", [7], "", one.answer)
    assert one.answers == [({7: BUSY}, "")] and dict(one.schedule.items()) == {7: NOW + 500}


def test_orders_of_the_last_run_are_carried_out(one: OneQueue) -> None:
    birth = int(os.stat(one.queue / "info/0/7").st_mtime)
    (one.queue / "pyqmail/orders").write_bytes(b"delete 7 %d\n" % birth)
    one.orders.start(read_orders(one.means.layout), writable=True)
    assert one.told == [("removed", 7)]
