"""The spawner wire: any chunking, any bytes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyqmail.protocol.spawn import (
    PROBE_SLOT,
    Command,
    CommandParser,
    Report,
    ReportParser,
    format_command,
    format_probe,
    format_probe_answer,
    format_report,
    parse_probe_answer,
)

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
    assert parse_probe_answer(answer) == 500
    assert parse_probe_answer(Report(PROBE_SLOT, b"Z", b"out of range\n")) is None


@pytest.mark.contract("spawn 2.1")
@given(st.integers(1, 40), st.integers(0, 30))
def test_a_command_that_memory_failed_for_says_so_and_the_next_one_is_whole(size: int, failing: int) -> None:
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
    commands: list[Command] = []
    for at in range(0, len(wire), size):
        commands += parser.feed(wire[at : at + size])
        seen[0] += size
    assert commands[-1] == Command(4, b"1/47", b"", b"e@f") or commands[-1].out_of_memory
    lost = [command for command in commands if command.out_of_memory]
    assert len(commands) == 2 and len(lost) == parser.failed
    assert all(command.slot in (3, 4) for command in lost)
