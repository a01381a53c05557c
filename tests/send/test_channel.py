"""Given these messages, these limits, this report: what happens next? One channel, with a clock that is moved."""

from pathlib import Path

import pytest

from pyqmail.formats.todo import Todo
from pyqmail.send.agenda import FRESH_S
from pyqmail.send.delivery import TERM_S
from pyqmail.send.job import GIVE_UP
from pyqmail.spool.preprocess import New
from tests.send.parts import NOW, OneChannel

ANN, BOB, CAT = b"ann@here.example", b"bob@here.example", b"cat@here.example"


def fresh(number: int, recipient: bytes = ANN) -> New:
    return New(number, 10, Todo(b"joe@a.example", (recipient,), 1, 2), NOW, {"local": [recipient]})


def test_a_due_message_is_tried_and_ends_with_its_last_success(tmp_path: Path) -> None:
    one = OneChannel(tmp_path)
    one.place(7, ANN, BOB)
    started = one.turn()
    assert [(command.slot, command.recipient) for command in started] == [(0, ANN), (1, BOB)]
    one.report(1, b"K")
    assert one.marks(7) == b"TD"
    one.report(0, b"K")
    assert one.notes.said == [("empty", "local", 7), ("settled", 7)]
    assert not (one.queue / "local/0/7").exists() and one.channel.idle


def test_nothing_is_tried_before_its_time(tmp_path: Path) -> None:
    one = OneChannel(tmp_path)
    one.place(7, ANN, due=NOW + 5)
    assert one.turn() == [] and one.channel.next_time() == NOW + 5
    one.now = NOW + 5
    assert len(one.turn()) == 1


def test_a_deferral_comes_again_by_the_square_of_its_age(tmp_path: Path) -> None:
    one = OneChannel(tmp_path)
    one.place(7, ANN, birth=NOW - 400)
    one.turn()
    one.report(0, b"Z", b"later")
    assert one.due() == {7: NOW - 400 + (20 + 10) ** 2}
    assert one.marks(7) == b"T" and one.notes.said == [("settled", 7)]


def test_after_a_clock_that_went_back_a_deferral_comes_again_soon(tmp_path: Path) -> None:
    one = OneChannel(tmp_path)
    one.place(7, ANN, birth=NOW - 400)
    one.turn()
    one.now = NOW - 86400
    one.report(0, b"Z", b"later")
    assert one.due() == {7: NOW - 86400 + 10**2}


def test_a_failure_is_in_the_bounce_before_it_is_marked(tmp_path: Path) -> None:
    one = OneChannel(tmp_path)
    one.place(7, ANN)
    one.turn()
    one.report(0, b"D", b"no such box\n")
    assert b"<ann@here.example>:\nno such box\n" in (one.queue / "bounce/7").read_bytes()
    assert one.notes.said == [("empty", "local", 7), ("settled", 7)]


def test_a_failure_that_cannot_be_written_holds_its_message(tmp_path: Path) -> None:
    one = OneChannel(tmp_path)
    (one.queue / "bounce/7").mkdir()
    one.place(7, ANN)
    one.turn()
    one.report(0, b"D", b"no such box\n")
    assert one.lines[-1] == b"alert: unable to append to bounce message; HELP! sleeping..."
    assert one.marks(7) == b"T" and not one.channel.idle and one.channel.at_work(7)


def test_the_last_attempt_of_an_old_message_fails_it(tmp_path: Path) -> None:
    one = OneChannel(tmp_path, lifetime_s=1000)
    one.place(7, ANN, birth=NOW - 1001)
    one.turn()
    one.report(0, b"Z", b"later\n")
    assert GIVE_UP in (one.queue / "bounce/7").read_bytes()


def test_slots_are_a_limit_and_the_lowest_free_one_is_used(tmp_path: Path) -> None:
    one = OneChannel(tmp_path, limit=2)
    one.place(7, ANN, BOB, CAT)
    assert [command.slot for command in one.turn()] == [0, 1]
    assert one.turn() == []
    one.report(0, b"K")
    assert [(command.slot, command.recipient) for command in one.turn()] == [(0, CAT)]


def test_a_full_user_waits_and_holds_up_nobody(tmp_path: Path) -> None:
    one = OneChannel(tmp_path, share={"local": 2, "remote": 0})
    for number in (7, 8, 9):
        one.place(number, b"ann-%d@here.example" % number)
    one.place(10, BOB)
    assert {command.recipient for command in one.turn()} == {b"ann-7@here.example", b"ann-8@here.example", BOB}
    assert one.turn() == [] and one.channel.at_work(9)
    one.report(0, b"K")
    assert [command.recipient for command in one.turn()] == [b"ann-9@here.example"]


def test_by_default_one_user_has_three_quarters_of_the_slots(tmp_path: Path) -> None:
    one = OneChannel(tmp_path, share={"local": None, "remote": None})
    one.place(7, *(b"ann-%d@here.example" % index for index in range(20)))
    assert len(one.turn()) == 8
    one.place(8, BOB)
    assert [command.recipient for command in one.turn()] == [BOB]


def test_a_domain_has_its_own_limit_and_the_others_the_default(tmp_path: Path) -> None:
    one = OneChannel(tmp_path, "remote", 20, domain_concurrency={b"slow.example": 1}, share={"local": 0, "remote": 3})
    one.place(7, *(b"u%d@%b.example" % (index, name) for index in range(5) for name in (b"slow", b"other")))
    domains = [command.recipient.rpartition(b"@")[2] for command in one.turn()]
    assert sorted(domains) == [b"other.example"] * 3 + [b"slow.example"]


def test_skipped_recipients_wait_no_longer_than_tried_ones(tmp_path: Path) -> None:
    one = OneChannel(tmp_path, share={"local": 1, "remote": 0})
    one.place(7, b"ann-1@here.example", b"ann-2@here.example", birth=NOW)
    one.place(8, BOB)
    one.turn()
    one.report(0, b"Z", b"later")
    assert [command.recipient for command in one.turn()] == [b"ann-2@here.example"]


def test_a_fresh_message_leaves_without_files(tmp_path: Path) -> None:
    one = OneChannel(tmp_path)
    assert one.channel.offer(fresh(7), ANN)
    assert [command.message for command in one.turn()] == [b"0/7"]
    one.report(0, b"K")
    assert one.notes.said == [("fresh delivered", 7)]


def test_a_fresh_message_that_is_deferred_gets_its_files_first(tmp_path: Path) -> None:
    one = OneChannel(tmp_path)
    one.channel.offer(fresh(7), ANN)
    one.turn()
    one.report(0, b"Z", b"later")
    assert one.notes.said == [("to be written", 7)] and one.due() == {} and not one.channel.idle
    one.notes.written[0](True)
    assert one.due() == {7: NOW + 100} and one.channel.idle


def test_one_that_was_deferred_when_alarm_came_is_due_as_soon_as_it_has_its_files(tmp_path: Path) -> None:
    one = OneChannel(tmp_path)
    one.channel.offer(fresh(7), ANN)
    one.turn()
    one.report(0, b"Z", b"later")
    one.channel.all_due(NOW)
    assert one.due() == {}
    one.notes.written[0](True)
    assert one.due() == {7: NOW}


def test_a_fresh_message_of_a_full_user_waits_a_moment_and_then_gets_its_files(tmp_path: Path) -> None:
    one = OneChannel(tmp_path, share={"local": 1, "remote": 0})
    for number in (7, 8):
        assert one.channel.offer(fresh(number), ANN)
    assert len(one.turn()) == 1
    one.now += FRESH_S - 0.5
    assert one.turn() == [] and one.channel.next_time() == NOW + FRESH_S
    one.now += 0.5
    assert one.turn() == []
    assert one.notes.said == [("to be written", 8)]
    one.report(0, b"K")
    assert one.turn() == []  # it is not started twice
    one.notes.written[0](True)
    assert one.due() == {8: NOW + FRESH_S}


def test_a_fresh_message_of_a_full_user_goes_on_when_there_is_room(tmp_path: Path) -> None:
    one = OneChannel(tmp_path, share={"local": 1, "remote": 0})
    for number in (7, 8):
        one.channel.offer(fresh(number), ANN)
    one.turn()
    one.report(0, b"K")
    assert [command.message for command in one.turn()] == [b"0/8"]
    one.now += 2 * FRESH_S
    assert one.turn() == [] and one.notes.said == [("fresh delivered", 7)]


def test_orders_are_asked_before_anything_starts(tmp_path: Path) -> None:
    one = OneChannel(tmp_path)
    one.notes.stopped = {7}
    one.notes.held_domains = {b"held.example"}
    one.place(7, ANN)
    one.place(8, b"x@held.example", BOB)
    one.channel.offer(fresh(9), ANN)
    one.notes.stopped.add(9)
    assert [command.recipient for command in one.turn()] == [BOB]
    assert ("to be written", 9) in one.notes.said
    one.report(0, b"K")
    assert one.due().keys() == {8} and one.marks(8) == b"TD"


def test_after_term_a_program_that_runs_on_is_given_up_and_named(tmp_path: Path) -> None:
    one = OneChannel(tmp_path)
    one.place(7, ANN)
    one.turn()
    one.means.exiting = True
    assert not one.channel.idle
    one.channel.deliveries.give_up()
    assert one.channel.idle
    assert one.lines[-1] == (
        b"warning: delivery 1: still running %d seconds after TERM, not waited for; it will be made again" % TERM_S
    )
    one.report(0, b"K")  # it came after all
    assert one.notes.said == [("empty", "local", 7), ("settled", 7)]


@pytest.mark.parametrize("damage", [b"Tann@here.example", b"Xann@here.example\0"], ids=["cut", "of another kind"])
def test_a_damaged_list_is_left_for_later(tmp_path: Path, damage: bytes) -> None:
    one = OneChannel(tmp_path)
    one.place(7, ANN)
    (one.queue / "local/0/7").write_bytes(damage)
    assert one.turn() == []
    assert one.due() == {7: NOW + 100} and one.lines[0].startswith(b"warning: ")
