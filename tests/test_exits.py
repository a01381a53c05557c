"""qmail-queue's exit codes, as every caller reads them (qmail-queue(8))."""

import pytest

from pyqmail.exits import CRASHED, queue_answer

PERMANENT_TEXTS = {11: b"#5.1.3", 115: b"#5.1.3", 31: b"#5.3.0"}
CONNECTION_TEXTS = {72: b"#4.4.1", 73: b"#4.4.1", 74: b"#4.4.2"}


@pytest.mark.contract("queue 7.1")
def test_only_zero_is_success() -> None:
    assert [status for status in range(CRASHED, 256) if queue_answer(status)[0] == b"K"] == [0]


@pytest.mark.contract("queue 7.2", "queue 7.3", "queue 7.4", "queue 7.5", "queue 7.9")
def test_11_to_40_and_115_are_permanent_and_every_other_code_is_temporary() -> None:
    permanent = {status for status in range(CRASHED, 256) if queue_answer(status)[0] == b"D"}
    assert permanent == {*range(11, 41), 115}


@pytest.mark.contract("queue 7.2", "queue 7.3", "queue 7.6", "queue 7.7")
@pytest.mark.parametrize(("status", "code"), [*PERMANENT_TEXTS.items(), *CONNECTION_TEXTS.items()])
def test_the_codes_of_addresses_and_connections(status: int, code: bytes) -> None:
    assert queue_answer(status)[1].endswith(b"(" + code + b")")


@pytest.mark.parametrize("status", [status for status in range(CRASHED, 256) if status])
def test_every_text_is_one_line_that_ends_with_an_enhanced_code_of_its_class(status: int) -> None:
    letter, text = queue_answer(status)
    assert b"\n" not in text
    assert text.rpartition(b" ")[2][:3] == (b"(#5" if letter == b"D" else b"(#4")
