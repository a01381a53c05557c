"""Reports from statuses and output (contract: spawn sections 3, 5, 7)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyqmail.formats.report import append_local, local_report, remote_report, too_many, with_recipients


@pytest.mark.parametrize(
    ("status", "letter", "with_output"),
    [
        pytest.param(None, b"Z", False, id="killed", marks=pytest.mark.contract("spawn 5.1")),
        pytest.param(112, b"Z", False, id="112 internal", marks=pytest.mark.contract("spawn 5.2")),
        pytest.param(113, b"Z", False, id="113 root", marks=pytest.mark.contract("spawn 5.3")),
        pytest.param(115, b"Z", False, id="115 home", marks=pytest.mark.contract("spawn 5.4")),
        pytest.param(116, b"Z", False, id="116 alias", marks=pytest.mark.contract("spawn 5.5")),
        pytest.param(117, b"Z", False, id="117 cdb", marks=pytest.mark.contract("spawn 5.6")),
        pytest.param(118, b"Z", False, id="118 system", marks=pytest.mark.contract("spawn 5.7")),
        pytest.param(119, b"Z", False, id="119 memory", marks=pytest.mark.contract("spawn 5.7")),
        pytest.param(120, b"Z", False, id="120 exec", marks=pytest.mark.contract("spawn 5.8")),
        pytest.param(121, b"Z", False, id="121 getpw", marks=pytest.mark.contract("spawn 5.8")),
        pytest.param(126, b"D", False, id="126 exec for good", marks=pytest.mark.contract("spawn 5.9")),
        *[
            pytest.param(code, b"Z", True, id=f"{code} temporary", marks=pytest.mark.contract("spawn 5.10"))
            for code in (111, 71, 74, 75)
        ],
        pytest.param(0, b"K", True, id="0 success", marks=pytest.mark.contract("spawn 5.11")),
        *[
            pytest.param(code, b"D", True, id=f"{code} failure", marks=pytest.mark.contract("spawn 5.12", "spawn 9.1"))
            for code in (100, 1, 2, 99, 127)
        ],
    ],
)
def test_local_status_makes_letter_and_text(status: int | None, letter: bytes, with_output: bool) -> None:
    report = local_report(status, b"user output\0hidden")
    assert report[:1] == letter
    if with_output:
        assert report[1:] == b"user output"
    else:
        assert b"output" not in report
        assert report.endswith(b"\n")


@pytest.mark.contract("spawn 9.12")
def test_output_that_begins_with_nul_is_an_empty_text() -> None:
    assert local_report(0, b"\0text") == b"K"


@pytest.mark.contract("spawn 1.5")
@given(st.lists(st.integers(0, 4000), max_size=8))
def test_stored_output_never_exceeds_the_limit(sizes: list[int]) -> None:
    stored = bytearray()
    for size in sizes:
        append_local(stored, b"x" * size)
    assert len(stored) <= 3000
    if sum(sizes) <= 3000:
        assert stored == b"x" * sum(sizes)
    else:
        assert stored[:2967] == b"x" * 2966 + b"\n"


@pytest.mark.parametrize(
    ("output", "report"),
    [
        (b"rA\0KB\0", b"KAB"),
        (b"rA\0ZB\0", b"ZAB"),
        (b"rA\0DB\0", b"DAB"),
        (b"sA\0KB\0", b"ZA"),
        (b"sA\0ZB\0", b"ZAB"),
        (b"sA\0DB\0", b"ZAB"),
        (b"hA\0DB\0", b"DAB"),
        (b"hA\0ZB\0", b"DA"),
        (b"hA\0KB\0", b"DA"),
        (b"ZA\0", b"ZA"),
        (b"DA\0", b"DA"),
        (b"rA\0", b"DA"),
        (b"rA", b"D"),
        (b"sA", b"Z"),
        (b"rA\0rB\0KC\0", b"KA"),
        (b"rA\0KB", b"DA"),
    ],
)
@pytest.mark.contract(*[f"spawn 7.{row}" for row in range(5, 13)])
def test_remote_records_make_the_report(output: bytes, report: bytes) -> None:
    assert remote_report(0, output) == report


@pytest.mark.contract("spawn 7.1", "spawn 7.2", "spawn 7.3", "spawn 7.4")
def test_remote_status_hides_the_output() -> None:
    assert [remote_report(status, b"rA\0KB\0")[:1] for status in (None, 111, 1, 100)] == [b"Z", b"Z", b"D", b"D"]
    assert remote_report(0, b"").startswith(b"Z")


@given(st.binary())
def test_any_remote_output_makes_a_report_without_nul(output: bytes) -> None:
    report = remote_report(0, output)
    assert report[:1] in (b"K", b"Z", b"D")
    assert b"\0" not in report


@pytest.mark.parametrize(
    ("output", "each"),
    [
        pytest.param(b"r\0hA\0sB\0KC\0", [b"r\0KC\0", b"hA\0KC\0", b"sB\0KC\0"], id="one record each"),
        pytest.param(b"ZA\0", [b"ZA\0"] * 3, id="failed before any recipient"),
        pytest.param(b"r\0ZA\0", [b"r\0ZA\0", b"ZA\0", b"ZA\0"], id="lost among the recipients"),
        pytest.param(b"r\0r\0r\0", [b"r\0"] * 3, id="no message report"),
        pytest.param(b"r\0r\0r\0r\0KA\0", [b"r\0KA\0"] * 3, id="a record too many"),
        pytest.param(b"", [b""] * 3, id="nothing"),
        pytest.param(b"r\0r\0r\0KA", [b"r\0"] * 3, id="an unterminated message report"),
    ],
)
def test_the_output_of_a_batch_is_taken_apart(output: bytes, each: list[bytes]) -> None:
    assert with_recipients(output, 3) == each


@given(st.binary(max_size=60), st.integers(1, 5))
def test_any_output_is_taken_apart_for_each(output: bytes, count: int) -> None:
    assert len(with_recipients(output, count)) == count


def test_one_too_many_is_one_that_others_were_accepted_before() -> None:
    full = b"s192.0.2.1 does not like recipient.\nRemote host said: 452 too many\n\0K\0"
    assert too_many(full, b"r\0" + full)
    assert not too_many(full, full)
    assert not too_many(full.replace(b"452", b"450"), b"r\0" + full)
    assert not too_many(b"r\0K 452\0", b"r\0" + full)
