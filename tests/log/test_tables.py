"""Tables of a log: bounded whatever is counted, and what is busiest stays."""

import pytest

from pyqmail.log.tables import KEYS_MAX, Delays, Rows, Tally, as_domain


def test_a_tally_is_bounded_and_keeps_the_busiest() -> None:
    tally = Tally()
    tally.add("often", 50)
    for number in range(3 * KEYS_MAX):
        tally.add(f"seldom{number}")
    assert len(tally.counts) <= KEYS_MAX and tally.top(1) == [("often", 50)]
    assert sum(tally.counts.values()) + tally.others == 3 * KEYS_MAX + 50


def test_rows_are_bounded_and_keep_the_busiest_whatever_its_case() -> None:
    rows = Rows(2, as_domain)
    for number in range(3 * KEYS_MAX):
        rows.row(b"%d.test" % number)[0] += 1
        rows.row(b"Often.test" if number % 2 else b"often.TEST")[1] += 1
    other = Rows(2, as_domain)
    other.row(b"OFTEN.test")[0] += 5
    rows.merge(other)
    assert rows.top(1) == [("often.test", [5, 3 * KEYS_MAX])]
    assert len(rows.top(10 * KEYS_MAX)) <= KEYS_MAX


def test_shares_of_delays_are_right_to_half_a_per_cent() -> None:
    delays, others = Delays(), Delays()
    assert delays.share(50) is None
    for seconds in (*[0.015] * 98, 70.0):
        delays.add(seconds)
    for seconds in (900_000.0, -3.0, 0.0):
        others.add(seconds)
    delays.merge(others)
    found = [delays.share(percent) for percent in (50, 98, 99, 100)]
    assert found == pytest.approx([0.015, 0.015, 70.0, 900_000.0], rel=0.005)
    assert delays.longest == 900_000.0 and delays.share(1) == pytest.approx(1e-6, rel=0.01)
