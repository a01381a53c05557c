"""Lines that splogger cut are whole again."""

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyqmail.log.continuations import ENTRY, HELD_MAX, whole_lines
from pyqmail.log.events import DeliveryEnded
from pyqmail.log.stamps import parse_line
from pyqmail.programs.splogger import CHUNK, Entries

LINE = "delivery 1: deferral: " + "x" * 2000 + "/"


def entries(*lines: str, before: str = "") -> Iterator[str]:
    """What splogger makes of ``lines``, each a millisecond later, and a syslog writes."""
    made: list[bytes] = []
    moments = iter(1795440902 + count / 1000 for count in range(1000))
    splogger = Entries(lambda _priority, text: made.append(text), lambda: next(moments))
    splogger.feed("".join(f"{line}\n" for line in lines).encode())
    return (f"{before}{text.decode()}\n" for text in made)


def test_both_sides_cut_alike() -> None:
    assert ENTRY == CHUNK


@pytest.mark.parametrize("before", ["", "Nov 27 22:12:43 mx qmail: ", "2026-11-23T13:15:02.1+00:00 mx qmail[7]: "])
def test_a_long_line_is_one_event(before: str) -> None:
    (line,) = whole_lines(entries(LINE, before=before))
    assert parse_line(line)[1] == DeliveryEnded(1, "deferral", b"x" * 2000 + b"/")


@given(st.lists(st.integers(1, 3 * CHUNK + 1), max_size=6))
def test_lines_of_any_length_come_back_in_order(sizes: list[int]) -> None:
    lines = [f"{number:03}".ljust(size + 3, "y") for number, size in enumerate(sizes)]
    assert [line.partition(" ")[2] for line in whole_lines(entries(*lines))] == [f"{line}\n" for line in lines]


def test_two_sploggers_may_write_at_once() -> None:
    one, two = (list(entries(LINE, before=f"Nov 27 22:12:43 mx {name}: ")) for name in ("qmail", "smtpd"))
    two = [line.replace("1795440902.", "1795440903.") for line in two]
    mixed = [line for pair in zip(one, two, strict=True) for line in pair]
    assert sorted(map(len, whole_lines([mixed[0], "Nov 27 22:12:43 mx cron: x\n", *mixed[1:]]))) == [27, 2068, 2068]


def test_a_line_without_its_rest_is_shown_and_memory_is_bounded() -> None:
    whole = [f"1795440902.{number:06} " + "z" * CHUNK + "\n" for number in range(3 * HELD_MAX)]
    assert list(whole_lines(whole)) == whole
    assert list(whole_lines(["1795440902.000000+rest\n"])) == ["1795440902.000000+rest\n"]


def test_a_line_that_does_not_go_on_does_not_wait() -> None:
    def source() -> Iterator[str]:
        yield from entries("new msg 5", LINE)
        pytest.fail("the next line was waited for")

    lines = whole_lines(source())
    assert len(next(lines)) == 28
    assert parse_line(next(lines))[1] == DeliveryEnded(1, "deferral", b"x" * 2000 + b"/")
