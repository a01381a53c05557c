"""A log made for measuring is one: every line is understood, and it is the same each time."""

import pytest

from pyqmail.log.bulk import Bulk
from pyqmail.log.stamps import parse_line
from pyqmail.log.statistics import Statistics
from tests.bench import log_maker
from tests.bench.log_maker import log_of


@pytest.mark.parametrize("as_json", [False, True], ids=["classic", "json"])
def test_a_log_has_the_size_that_was_asked_for_and_only_our_lines(
    as_json: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_maker, "MESSAGES", 100)
    text = b"".join(log_of(500_000, as_json=as_json, doors=True))
    assert len(text) == 500_000 and text == b"".join(log_of(500_000, as_json=as_json, doors=True))
    lines = text.decode().splitlines()[:-1]
    parsed = [parse_line(line) for line in lines]
    assert all(when is not None and event is not None for when, event in parsed)
    times = [when for when, _ in parsed if when is not None]
    assert times == sorted(times) and times[-1] - times[0] > 86400
    bulk = Bulk(Statistics())
    bulk.feed(text)
    counts = [int(line.split()[-1]) for line in list(bulk.counts.lines())[1:4]]
    assert min(counts) > 5
