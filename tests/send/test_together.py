"""Recipients of one message and domain in one command (control/remotebatch), by a channel without its daemon."""

import os
from pathlib import Path

import pytest

from pyqmail.send.controls import read_controls
from tests.send.parts import OneChannel

X = [b"u%d@x.example" % number for number in range(6)]
Y = [b"u%d@y.example" % number for number in range(6)]


def sets(one: OneChannel) -> list[list[bytes]]:
    """The recipients of each command of one turn."""
    return [[command.recipient, *command.others] for command in one.turn()]


def test_recipients_of_one_domain_go_together_and_count_as_one_delivery(tmp_path: Path) -> None:
    one = OneChannel(tmp_path, "remote", 20, together=4, concurrency={"local": 1, "remote": 3})
    one.place(7, *X, *Y, X[0].upper())
    assert sets(one) == [X[:4], X[4:], Y[:4]] and sets(one) == []
    assert one.lines.count(b"status: local 3/3 remote 3/3") == 1
    assert sum(line.startswith(b"starting delivery") for line in one.lines) == 10
    one.report_together(0, b"K", 0, 3)
    assert sets(one) == [Y[4:]] and one.marks(7) == b"DDDD" + b"T" * 9
    one.report_together(2, b"K", 0, 3)
    assert sets(one) == [[X[0].upper()]]


def test_each_recipient_has_its_own_end(tmp_path: Path) -> None:
    one = OneChannel(tmp_path, "remote", 20, together=9)
    one.place(7, *X)
    assert sets(one) == [X]
    one.report_together(0, b"K", 0, 1, b"fine")
    one.report_together(0, b"D", 2, 2, b"no such box\n")
    assert one.marks(7) == b"DDDTTT" and one.channel.at_work(7), "the slot is in use"
    one.report_together(0, b"Z", 4, 5, b"later\n")
    one.report_together(0, b"K", 3, 99, b"fine")
    assert one.marks(7) == b"DDDDTT"
    assert b"<u2@x.example>:\nno such box\n" in (one.queue / "bounce/7").read_bytes()
    ends = [line for line in one.lines if line.startswith(b"delivery ")]
    assert [line.partition(b": ")[2].partition(b":")[0] for line in ends] == [
        b"success", b"success", b"failure", b"deferral", b"deferral", b"success"
    ]  # fmt: skip
    assert not one.channel.at_work(7) and one.due()[7] > one.now
    one.report_together(0, b"K", 0, 9)
    assert one.lines[-1] == b"warning: internal error: delivery report out of range"


def test_a_report_that_says_nothing_defers_one_recipient(tmp_path: Path) -> None:
    one = OneChannel(tmp_path, "remote", 20, together=9)
    one.place(7, *X[:2])
    one.turn()
    one.report(0, b"K", b"no places")  # narrow, so that its slot is not what it seems either
    assert one.marks(7) == b"TT" and one.channel.at_work(7)


def test_those_that_waited_for_their_domain_go_together_too(tmp_path: Path) -> None:
    one = OneChannel(tmp_path, "remote", 20, together=2, share={"local": 0, "remote": 1})
    one.place(7, *X)
    assert sets(one) == [X[:2]]
    one.report_together(0, b"K", 0, 0)
    assert sets(one) == [], "one of the first two is under way"
    one.report_together(0, b"K", 1, 1)
    assert sets(one) == [X[2:4]]
    (one.queue / "remote/0/7").write_bytes(one_done(one.queue / "remote/0/7", X[4]))
    one.report_together(0, b"K", 0, 1)
    assert sets(one) == [X[5:]]
    one.report_together(0, b"K", 0, 0)
    assert one.notes.said == [("empty", "remote", 7), ("settled", 7)]


def test_those_of_one_provider_wait_in_one_line_and_go_by_domain(tmp_path: Path) -> None:
    one = OneChannel(tmp_path, "remote", 20, together=9, share={"local": 0, "remote": 1})
    everybody = [name for pair in zip(X, Y, strict=True) for name in pair]
    one.place(7, *everybody)
    full = b"Held back: mx.example has all of its 1 connections. (#4.4.5)"
    assert sets(one) == [X[:1], Y[:1]]
    for slot in (0, 1):
        one.report_together(slot, b"Z", 0, 0, full)
    one.now += 2
    seen: list[list[bytes]] = []
    for _ in range(40):
        for command in one.turn():
            seen.append([command.recipient, *command.others])
            one.report_together(command.slot, b"K", 0, len(command.others))
        one.channel.deliveries.shares.widen(b"@mx.example")
    assert sorted(name for names in seen for name in names) == sorted(everybody)
    assert all(len({name.rpartition(b"@")[2] for name in names}) == 1 for names in seen) and len(seen) <= 4
    assert one.notes.said == [("empty", "remote", 7), ("settled", 7)]


def one_done(path: Path, recipient: bytes) -> bytes:
    return path.read_bytes().replace(b"T" + recipient, b"D" + recipient)


def test_a_recipient_that_is_held_is_left_out(tmp_path: Path) -> None:
    one = OneChannel(tmp_path, "remote", 20, together=9)
    one.notes.held_domains.add(b"x.example")
    one.place(7, Y[0], X[0], *Y[1:3])
    assert sets(one) == [Y[:1], Y[1:3]]


def test_who_has_a_sender_for_each_recipient_has_a_transaction_for_each(tmp_path: Path) -> None:
    one = OneChannel(tmp_path, "remote", 20, together=9)
    one.place(7, *X[:2])
    (one.queue / "info/0/7").write_bytes(b"Flist-@a.example-@[]\0")
    assert [(command.sender, command.others) for command in one.turn()] == [
        (b"list-u%d=x.example@a.example" % number, ()) for number in range(2)
    ]


@pytest.mark.parametrize("tail", [b"Tcut@x.exam", b"Xwho@x.example\0"], ids=["a cut record", "an unknown mark"])
def test_trouble_behind_a_recipient_ends_the_pass_and_nothing_else(tmp_path: Path, tail: bytes) -> None:
    one = OneChannel(tmp_path, "remote", 20, together=9)
    one.place(7, *X[:2])
    with (one.queue / "remote/0/7").open("ab") as file:
        file.write(tail)
    assert sets(one) == [X[:2]]
    one.report_together(0, b"K", 0, 1)
    assert any(b"remote/0/7" in line for line in one.lines) and one.due()[7] > one.now


def test_another_spawner_gets_a_command_for_each(tmp_path: Path) -> None:
    one = OneChannel(tmp_path, "remote", 120, together=1)
    one.means.controls.__dict__["together"] = 50
    one.channel.deliveries.controls_changed()
    (probe,) = one.turn()
    one.place(7, *X[:2])
    assert probe.probe and one.turn() == [], "nothing may be asked before the answer"
    one.report(255, b"Z", b"delivery number out of range\n")
    assert sets(one) == [X[:1], X[1:2]]


@pytest.mark.parametrize(("text", "most"), [(None, 1), ("50\n", 50), ("0\n", 0), ("x\n", 1)])
def test_how_many_is_read_from_remotebatch(tmp_path: Path, text: str | None, most: int) -> None:
    (tmp_path / "control").mkdir()
    (tmp_path / "control/me").write_text("here.example\n")
    if text is not None:
        (tmp_path / "control/remotebatch").write_text(text)
    assert read_controls(os.fspath(tmp_path)).together == most
