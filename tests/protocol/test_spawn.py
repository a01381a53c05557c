"""The spawner wire: any chunking, any bytes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyqmail.protocol.spawn import (
    PROBE_SLOT,
    Command,
    CommandParser,
    Granted,
    Report,
    ReportParser,
    format_command,
    format_end,
    format_joint_command,
    format_joint_report,
    format_probe,
    format_probe_answer,
    format_report,
    parse_probe_answer,
)

SLOT, PLACE = st.integers(0, 65535), st.integers(0, 99)
FIELD = st.binary(max_size=40).map(lambda data: data.replace(b"\0", b""))


@given(st.lists(st.tuples(st.integers(0, 255), FIELD, FIELD, FIELD), max_size=5), st.integers(1, 9), st.booleans())
def test_commands_survive_any_chunking(fields: list[tuple[int, bytes, bytes, bytes]], size: int, wide: bool) -> None:
    parser = CommandParser()
    parser.wide = wide
    data = b"".join(format_command(*command, wide=wide) for command in fields)
    got = [command for start in range(0, len(data), size) for command in parser.feed(data[start : start + size])]
    assert got == [Command(*command) for command in fields]


@given(st.lists(st.tuples(st.integers(0, 255), FIELD), max_size=5), st.integers(1, 9), st.booleans())
def test_reports_survive_any_chunking(fields: list[tuple[int, bytes]], size: int, wide: bool) -> None:
    parser = ReportParser()
    parser.wide = wide
    data = b"".join(format_report(slot, b"K", text, wide=wide) for slot, text in fields)
    got = [report for start in range(0, len(data), size) for report in parser.feed(data[start : start + size])]
    assert got == [Report(slot, b"K", text) for slot, text in fields]


@given(st.binary())
def test_no_report_bytes_raise(data: bytes) -> None:
    ReportParser().feed(data)


@pytest.mark.contract("send 5.4")
def test_a_nul_in_first_place_is_slot_0() -> None:
    assert ReportParser().feed(b"\0Kfine\0") == [Report(0, b"K", b"fine")]
    assert ReportParser().feed(b"\0\0") == [Report(0, b"", b"")]


@pytest.mark.parametrize("size", [1, 4096, 30000], ids=["byte by byte", "in chunks", "at once"])
def test_a_report_is_cut_at_its_limit(size: int) -> None:
    parser = ReportParser()
    data = b"\x05K" + b"x" * 20000 + b"\0\x06Zy\0"
    got = [report for start in range(0, len(data), size) for report in parser.feed(data[start : start + size])]
    assert got == [Report(5, b"K", b"x" * 9998), Report(6, b"Z", b"y")]


def test_a_probe_is_no_legal_command_and_only_our_answer_counts() -> None:
    (command,) = CommandParser().feed(format_probe())
    assert (command.slot, command.probe) == (PROBE_SLOT, True)
    (answer,) = ReportParser().feed(format_probe_answer(500))
    assert parse_probe_answer(answer) == Granted(500)
    for text in (b"out of range\n", b"", b"500 ", b"500 many", b"x 50"):
        assert parse_probe_answer(Report(PROBE_SLOT, b"Z", text)) is None
        assert parse_probe_answer(Report(PROBE_SLOT, b"W", text)) is None


def test_the_end_of_a_delivery_is_granted_only_to_who_asks_for_it() -> None:
    (plain,), (asking,) = CommandParser().feed(format_probe()), CommandParser().feed(format_probe(end=True))
    assert (plain.asks_for_end, asking.asks_for_end, asking.probe, asking.ends) == (False, True, True, False)
    for together in (1, 50):
        parser = ReportParser()
        parser.expect_probe_answer()
        answer, report = parser.feed(format_probe_answer(120, together, end=True) + b"\0\7K0-0 fine\0")
        assert parse_probe_answer(answer) == Granted(120, together, end=True)
        assert parser.joint == (together > 1) and report.slot == 7
    for text in (b"end", b" end", b"120 end 50", b"120 50 end end", b"120 50 1 end", b"120  end"):
        assert parse_probe_answer(Report(PROBE_SLOT, b"W", text)) is None


def test_several_recipients_in_one_command_are_granted_only_to_who_asks_for_them() -> None:
    (plain,), (asking,) = CommandParser().feed(format_probe()), CommandParser().feed(format_probe(together=True))
    assert (plain.asks_for_together, asking.asks_for_together, asking.probe) == (False, True, True)
    parser = ReportParser()
    parser.expect_probe_answer()
    wire = format_probe_answer(120, 50) + format_joint_report(7, b"K", b"fine", 3, 49)
    answer, report = parser.feed(wire)
    assert parse_probe_answer(answer) == Granted(120, 50) and parser.joint
    assert report == Report(7, b"K", b"fine", 3, 49)


@given(st.lists(st.tuples(SLOT, FIELD, FIELD, st.lists(FIELD, min_size=1, max_size=4)), max_size=4), st.integers(1, 9))
def test_joint_commands_survive_any_chunking(fields: list[tuple[int, bytes, bytes, list[bytes]]], size: int) -> None:
    parser = CommandParser()
    parser.wide = parser.joint = True
    data = b"".join(format_joint_command(*command) for command in fields)
    got = [command for start in range(0, len(data), size) for command in parser.feed(data[start : start + size])]
    assert [(one.slot, one.message, one.sender, [one.recipient, *one.others]) for one in got] == fields
    apart = [one for command in got for one in command.apart()]
    wanted = [(slot, place, each) for slot, _, _, names in fields for place, each in enumerate(names)]
    assert [(one.slot, one.place, one.recipient) for one in apart] == wanted


@given(st.lists(SLOT, max_size=4), st.integers(1, 9), st.booleans())
def test_ends_survive_any_chunking_among_commands(slots: list[int], size: int, joint: bool) -> None:
    parser = CommandParser()
    parser.wide, parser.joint = True, joint
    between = format_joint_command(1, b"1/24", b"a@b", [b"c@d"]) if joint else b"\0\0011/24\0a@b\0c@d\0"
    data = b"".join(format_end(slot) + between for slot in slots)
    got = [command for start in range(0, len(data), size) for command in parser.feed(data[start : start + size])]
    assert [command.slot for command in got if command.ends] == slots
    assert [command for command in got if not command.ends] == [Command(1, b"1/24", b"a@b", b"c@d")] * len(slots)


@given(st.lists(st.tuples(SLOT, FIELD, PLACE, PLACE), max_size=5), st.integers(1, 9))
def test_joint_reports_survive_any_chunking(fields: list[tuple[int, bytes, int, int]], size: int) -> None:
    parser = ReportParser()
    parser.wide = parser.joint = True
    data = b"".join(format_joint_report(slot, b"Z", *rest) for slot, *rest in fields)
    got = [report for start in range(0, len(data), size) for report in parser.feed(data[start : start + size])]
    assert got == [Report(slot, b"Z", *rest) for slot, *rest in fields]


@given(st.binary())
def test_no_joint_bytes_raise(data: bytes) -> None:
    commands, reports = CommandParser(), ReportParser()
    commands.wide = commands.joint = reports.wide = reports.joint = True
    commands.feed(data)
    reports.feed(data)


def test_a_joint_report_that_says_no_places_is_mangled() -> None:
    parser = ReportParser()
    parser.wide = parser.joint = True
    assert parser.feed(b"\0\7Kfine\0") == [Report(7, b"", b"")]


@pytest.mark.contract("spawn 2.1")
@given(st.integers(1, 40), st.integers(0, 30), st.booleans())
def test_a_command_that_memory_failed_for_says_so_and_the_next_one_is_whole(
    size: int, failing: int, joint: bool
) -> None:
    class Short(CommandParser):
        """Runs out of memory once, after ``failing`` bytes."""

        def _collect(self, data: bytes) -> list[Command]:
            if not self.failed and seen[0] >= failing:
                self.failed = True
                raise MemoryError
            return super()._collect(data)

        failed = False

    seen = [0]
    wire = format_command(3, b"1/24", b"a@b", b"c@d") + format_command(4, b"1/47", b"", b"e@f")
    parser = Short()
    if joint:
        parser.wide = parser.joint = True
        wire = format_joint_command(3, b"1/24", b"a@b", [b"c@d", b"e@d", b"f@d"])
        wire += format_joint_command(4, b"1/47", b"", [b"e@f"])
    commands: list[Command] = []
    for at in range(0, len(wire), size):
        commands += parser.feed(wire[at : at + size])
        seen[0] += size
    assert commands[-1] == Command(4, b"1/47", b"", b"e@f") or commands[-1].out_of_memory
    lost = [command for command in commands if command.out_of_memory]
    assert len(commands) == 2 and len(lost) <= parser.failed
    assert all(command.slot in (3, 4) for command in lost)


@pytest.mark.parametrize("joint", [False, True])
def test_an_end_that_memory_failed_for_is_no_delivery_that_failed(joint: bool) -> None:
    class Short(CommandParser):
        """Never has memory."""

        def _collect(self, data: bytes) -> list[Command]:
            raise MemoryError

    for size in (1, 3, 100):
        parser, wire = Short(), format_end(260)
        parser.wide, parser.joint = True, joint
        (lost,) = [one for start in range(0, len(wire), size) for one in parser.feed(wire[start : start + size])]
        assert (lost.slot, lost.ends, lost.out_of_memory) == (260, True, True)


def test_memory_that_fails_within_a_command_loses_that_one_with_all_its_recipients() -> None:
    class Short(CommandParser):
        """Has no memory for some word."""

        def _collect(self, data: bytes) -> list[Command]:
            if b"big" in data:
                raise MemoryError
            return super()._collect(data)

    parser = Short()
    parser.wide = parser.joint = True
    wire = format_joint_command(3, b"1/24", b"a@b", [b"c@d", b"big@d", b"f@d"])
    following = format_joint_command(0, b"1/47", b"", [b"e@f"])
    assert parser.feed(wire[:13]) == []
    lost, whole = parser.feed(wire[13:] + following)
    assert (lost.slot, lost.out_of_memory) == (3, True)
    assert whole == Command(0, b"1/47", b"", b"e@f")
