"""The endpoint of a server with a long queue: it answers from what it knows, and a scrape waits for nobody."""

import os
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyqmail.look.exposition import BoardCollector, exposition
from pyqmail.send.metrics import AGE_BOUNDS_S, CHANNELS, Counters, Gauges, format_metrics
from tests.bench.scale import HOUR, fill, make_home, wait_until_quiet
from tests.look.metrics_server import Metrics
from tests.look.test_prometheus import Answering, board
from tests.programs.sending import Sending
from tests.waiting import wait_for

LONG = bool(os.environ.get("PYQMAIL_TESTS_LONG"))
MESSAGES = 100_000 if LONG else 2_000
SCRAPES = 200 if LONG else 5
ANSWER_MAX_S = 0.05  # at 100,000 messages, on a machine that does nothing else


def test_a_scrape_asks_no_watcher(monkeypatch: pytest.MonkeyPatch) -> None:
    known = board()

    def ask(self: Answering, question: object, patience_s: float) -> object:
        raise AssertionError(f"{self.title} is asked for {question} while a client waits")

    monkeypatch.setattr(Answering, "ask", ask)
    assert b"\npyqmail_up 1.0\n" in exposition(BoardCollector(known), "")[0]


def test_what_qmail_send_tells_is_as_long_for_any_queue() -> None:
    by_channel = dict.fromkeys(CHANNELS, 0)
    gauges = Gauges(1e9, 0.0, by_channel, by_channel, by_channel, by_channel, 0, 0, False)
    texts = []
    for messages in (10, 100_000):
        counters = Counters()
        for number in range(messages):
            counters.ages.add(10**9 - number * 6 % AGE_BOUNDS_S[-1])
        assert len(counters.ages._minutes) <= AGE_BOUNDS_S[-1] // 60 + 1
        texts.append(format_metrics(counters, gauges).splitlines())
    assert len(texts[0]) == len(texts[1])


@pytest.fixture
def scraped(tmp_path: Path) -> Iterator[Metrics]:
    """A qmail-send with a long queue, of which nothing is due, and its qmail-metrics."""
    home = make_home(tmp_path)
    for name, count in (("conf-users", 8), ("conf-groups", 2), ("conf-metrics", 1)):
        (home / "control" / name).write_text(f"{os.getuid()}\n" * count)
    (home / "run/send").mkdir(parents=True)
    fill(home / "queue", "remote", MESSAGES, due=lambda index: time.time() + HOUR)
    (home / "log").mkdir()
    (home / "log/current").write_text("")
    sending = Sending(home, split=23).start()
    try:
        wait_until_quiet(sending)
        with Metrics(home, str(home / "log")) as metrics:
            wait_for(lambda: metrics.samples().get("pyqmail_queue_messages") == MESSAGES, "the whole queue")
            yield metrics
    finally:
        sending.kill()


def test_a_scrape_is_answered_at_once_though_the_queue_is_long_and_being_read(scraped: Metrics) -> None:
    assert f"{MESSAGES} in the queue" in scraped.get("/")[1] or "the queue is being read" in scraped.get("/")[1]
    taken = []
    for _ in range(SCRAPES):
        began = time.monotonic()
        status, text = scraped.get("/metrics")
        taken.append(time.monotonic() - began)
        assert status == 200 and f"pyqmail_queue_messages {MESSAGES}.0" in text.replace("e+05", "00000.0")
    if LONG:
        print(f"{MESSAGES} messages: median {statistics.median(taken) * 1e3:.1f} ms, most {max(taken) * 1e3:.1f} ms")
        assert statistics.median(taken) < ANSWER_MAX_S
