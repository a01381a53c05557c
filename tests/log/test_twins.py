"""A log in both forms says what each form alone says."""

import os
import re
from pathlib import Path

from pyqmail.log.counts import add_item
from pyqmail.log.events import Decision
from pyqmail.log.joiner import Joiner
from pyqmail.log.long_log import sum_up
from pyqmail.log.rehearsal import Rehearsal
from pyqmail.log.sinks import BOTH, CLASSIC, JSON, LineSink
from pyqmail.log.statistics import Statistics
from pyqmail.log.twins import Twins
from tests.log.test_events import EVENTS


def log_in(form: bytes, path: Path) -> list[str]:
    """The lines of all kinds of events, twice each, with multilog's stamps; all are of one moment."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    for _, event in EVENTS * 2:
        sink = LineSink(fd)
        sink.use(form, event.program.decode() if isinstance(event, Decision) else "qmail-send")
        sink(event)  # type: ignore[arg-type]
    os.close(fd)
    text = re.sub(
        r'"time": ?"[^"]*"', '"time":"1999-08-24T04:02:29.787492Z"', path.read_bytes().decode("utf-8", "replace")
    )
    lines = [f"@4000000037c219bf2ef02e94 {line}" for line in text.splitlines()]
    path.write_text("".join(line + "\n" for line in lines))
    return lines


def statistics(lines: list[str]) -> list[str]:
    found, joiner, twins = Statistics(), Joiner(), Twins()
    for line in lines:
        when, event = twins.parse(line) or (None, None)
        for item in joiner.take(when, event):
            add_item(found, when, item)
    return list(found.lines())


def test_each_event_counts_once(tmp_path: Path) -> None:
    classic, both = log_in(CLASSIC, tmp_path / "classic"), log_in(BOTH, tmp_path / "both")
    assert len(both) == 2 * len(classic)
    assert statistics(both) == statistics(classic)
    assert list(sum_up(str(tmp_path / "both"), Statistics).counts.lines()) == statistics(classic)


def test_what_is_there_in_json_alone_counts_as_often_as_it_is_there(tmp_path: Path) -> None:
    assert statistics(log_in(JSON, tmp_path / "json")) == statistics(log_in(CLASSIC, tmp_path / "classic"))


def test_a_rehearsal_counts_each_message_once(tmp_path: Path) -> None:
    counts = []
    for form in CLASSIC, BOTH:
        found = Rehearsal()
        found.feed(log_in(form, tmp_path / form.decode()), None)
        counts.append(list(found.lines()))
    assert counts[0] == counts[1]
    assert not counts[0][0].startswith("accepted: 0;")
