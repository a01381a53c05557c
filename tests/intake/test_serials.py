"""Numbers of submissions: above any pid, reserved before they are used, and never twice, whatever the file holds."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyqmail.intake.serials import FIRST_SERIAL, LAST_SERIAL, SERIAL_BLOCK, Serials, parse_serial

LOST = {
    "empty": b"",
    "zero": b"0\n",
    "negative": b"-5\n",
    "below any serial": b"4194304\n",
    "absurdly large": b"9" * 40 + b"\n",
    "above the last": b"%d\n" % (LAST_SERIAL + 1),
    "no number": b"what?\n",
    "a number among others": b"5000000 6000000\n",
    "underscores": b"5_000_000\n",
    "binary": bytes(range(64)),
    "half": b"\0" * 8,
}


def test_numbers_go_on_where_the_file_says(tmp_path: Path) -> None:
    path = tmp_path / "serial"
    first = Serials(str(path))
    assert [first.take(), first.take()] == [FIRST_SERIAL, FIRST_SERIAL + 1]
    assert path.read_bytes() == b"%d\n" % (FIRST_SERIAL + SERIAL_BLOCK)
    assert Serials(str(path), used=True).take() == FIRST_SERIAL + SERIAL_BLOCK


def lose(path: Path, data: bytes | None) -> None:
    """Replace the counter file by ``data``, None for a directory."""
    path.unlink()
    if data is None:
        path.mkdir()
    else:
        path.write_bytes(data)


@pytest.mark.parametrize("data", [*LOST.values(), None], ids=[*LOST, "a directory"])
def test_a_lost_counter_is_said_and_no_number_repeats(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], data: bytes | None
) -> None:
    path = tmp_path / "serial"
    seen: set[int] = set()
    for _ in range(3):
        serials = Serials(str(path))
        taken = {serials.take() for _ in range(SERIAL_BLOCK + 2)}
        assert seen.isdisjoint(taken) and min(taken) >= FIRST_SERIAL and max(taken) < 1 << 63
        seen |= taken
        lose(path, data)
    serials = Serials(str(path))
    assert serials.take() > max(seen)
    assert capfd.readouterr().err.count("qmail-queued: warning: run/serial: ") == 3
    assert parse_serial(path.read_bytes()) is not None
    assert Serials(str(path)).take() > max(seen)


def test_a_missing_counter_is_a_loss_where_numbers_have_been_given_out(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = str(tmp_path / "serial")
    taken = Serials(path, used=False).take()
    (tmp_path / "serial").unlink()
    assert Serials(path, used=True).take() > taken + SERIAL_BLOCK
    assert "run/serial: is missing" in capfd.readouterr().err


def test_a_directory_in_the_way_of_the_new_file_is_put_aside(tmp_path: Path) -> None:
    (tmp_path / "serial.new").mkdir()
    assert Serials(str(tmp_path / "serial")).take() == FIRST_SERIAL
    assert len(list(tmp_path.glob("serial.new.directory.*"))) == 1


@given(st.binary(max_size=80))
def test_only_what_could_have_come_from_here_is_a_counter(data: bytes) -> None:
    found = parse_serial(data)
    assert found is None or (FIRST_SERIAL <= found <= LAST_SERIAL and int(data) == found)


@given(st.integers(FIRST_SERIAL, LAST_SERIAL))
def test_a_written_counter_is_read_back(number: int) -> None:
    assert parse_serial(b"%d\n" % number) == number
