"""The files and lines behind qmail-q: what is written is read back, and nothing else is taken for an order."""

import errno
import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyqmail.protocol import control
from pyqmail.protocol.control import BadRequest, Request
from pyqmail.send.holds import BOUNCE, DELETE, Orders, OrdersUnreadable, format_orders, parse_orders, read_orders
from pyqmail.send.metrics import Counters, Gauges, Histogram, QueueAges, format_metrics
from pyqmail.send.retry import Schedule
from pyqmail.spool.history import History, Note, format_note, parse_note, trimmed
from pyqmail.spool.layout import Layout

NUMBERS = st.integers(1, 2**63 - 1)
DOMAINS = st.binary(min_size=1, max_size=40).filter(lambda name: not set(name) & set(b"\n"))


@given(
    st.dictionaries(NUMBERS, NUMBERS),
    st.dictionaries(NUMBERS, st.tuples(st.sampled_from([DELETE, BOUNCE]), NUMBERS)),
    st.sets(DOMAINS),
)
def test_orders_are_read_as_written(
    held: dict[int, int], endings: dict[int, tuple[bytes, int]], domains: set[bytes]
) -> None:
    orders = Orders(held, endings, domains)
    assert parse_orders(format_orders(orders)) == orders


def test_a_message_whose_file_cannot_be_looked_at_stays_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = Layout(str(tmp_path), 1)
    info = Path(layout.info(7))
    for path in (info, Path(layout.private, "orders")):
        path.parent.mkdir(parents=True)
    info.touch()
    os.utime(info, (5, 5))
    Path(layout.private, "orders").write_bytes(format_orders(Orders({7: 5, 8: 5, 9: 5})))

    def look(path: str) -> os.stat_result:
        if path == layout.info(8):
            raise OSError(errno.EIO, "Input/output error")
        return status(path)

    status = os.stat
    monkeypatch.setattr(os, "stat", look)
    assert read_orders(layout).held == {7: 5, 8: 5}


@given(st.binary())
def test_anything_else_is_no_order(data: bytes) -> None:
    try:
        parse_orders(data)
    except OrdersUnreadable:
        pass


@pytest.mark.parametrize("line", [b"hold 1", b"hold x 1", b"frob 1 2", b"delete -1 2", b"domain ", b"hold 1 2 3", b""])
def test_half_an_order_is_refused(line: bytes) -> None:
    with pytest.raises(OrdersUnreadable):
        parse_orders(b"hold 5 6\n" + line + b"\n")


@given(NUMBERS, NUMBERS, st.integers(0, 1000), st.dictionaries(NUMBERS, st.binary(max_size=400)))
def test_a_note_is_read_as_written(birth: int, tried: int, attempts: int, replies: dict[int, bytes]) -> None:
    note = Note(birth, tried, attempts, {offset: trimmed(reply) for offset, reply in replies.items()})
    assert parse_note(format_note(note)) == note


@given(st.binary())
def test_a_spoilt_note_is_none(data: bytes) -> None:
    note = parse_note(data)
    assert note is None or isinstance(note.attempts, int)


def test_a_note_of_an_older_message_is_not_believed(tmp_path: Path) -> None:
    layout = Layout(str(tmp_path), 1)
    for part in ("info/0", "remote/0"):
        (tmp_path / "queue" / part).mkdir(parents=True)
    history = History(layout)
    assert history.prepare()
    info = tmp_path / "queue/info/0/7"
    info.write_bytes(b"F\0")
    history.add("remote", 7, {0: b"first"})
    history.add("remote", 7, {9: b"second"})
    birth = int(info.stat().st_mtime)
    note = history.read("remote", 7, birth)
    assert note is not None
    assert (note.attempts, note.replies) == (2, {0: b"first", 9: b"second"})
    (tmp_path / "queue/pyqmail/remote/0/8").write_bytes(b"of a message that is gone")
    assert history.sweep() == 1
    assert os.listdir(tmp_path / "queue/pyqmail/remote/0") == ["7"]
    assert history.read("remote", 7, birth + 1) is None
    history.forget("remote", 7)
    assert history.read("remote", 7, birth) is None


@given(st.sampled_from(control.ORDERS), st.lists(NUMBERS, max_size=5), st.text("abc.\udce9", max_size=9))
def test_a_request_is_read_as_written(do: str, ids: list[int], domain: str) -> None:
    request = Request(do, tuple(ids), domain.encode("utf-8", "surrogateescape"), "domain x")
    assert control.parse_request(control.format_request(request)) == request


@given(st.one_of(st.binary(), st.recursive(st.none() | st.integers() | st.text(), st.lists).map(json.dumps)))
def test_a_bad_request_is_refused(line: bytes | str) -> None:
    with pytest.raises(BadRequest):
        control.parse_request(line if isinstance(line, bytes) else line.encode())


@pytest.mark.parametrize(
    "value",
    [
        {"do": "delete", "ids": None},
        {"do": "retry", "ids": [True]},
        {"do": "retry", "ids": [0]},
        {"do": "retry", "ids": [2**63]},
        {"do": "retry", "ids": "all"},
        {"do": "retry", "ids": [1] * 10_001},
        {"do": "hold", "domain": "a\nb"},
        {"do": "hold", "domain": "\ud800"},
        {"do": "hold", "domain": "x" * 2000},
        {"do": "hold", "what": 1},
        {"do": ["hold"]},
    ],
    ids=lambda value: json.dumps(value)[:40],
)
def test_a_request_out_of_bounds_is_refused(value: object) -> None:
    with pytest.raises(BadRequest):
        control.parse_request(json.dumps(value).encode())


def test_a_schedule_lets_numbers_be_taken_out_and_put_forward() -> None:
    schedule = Schedule()
    for number in range(1, 6):
        schedule.add(number, 1000 + number)
    schedule.add_new(9, 0)
    schedule.remove({2, 9})
    schedule.make_due({4}, 10)
    seen = schedule.snapshot()
    assert schedule.pop_due(10) == 4
    assert schedule.pop_due(10) is None
    assert sorted(seen) == [(1, 1001), (3, 1003), (4, 10), (5, 1005)]


def test_the_ages_of_the_queue_are_kept_by_the_minute() -> None:
    ages = QueueAges()
    for birth in (600, 610, 6000):
        ages.add(birth)
    assert (ages.messages, ages.oldest(1200)) == (3, 600)
    assert (ages.older_than(7200, 3600), ages.older_than(7200, 60)) == (2, 3)
    for birth in (600, 610, 610):
        ages.remove(birth)
    assert (ages.messages, ages.oldest(6060)) == (1, 60)


def test_a_histogram_counts_up_to_its_bounds() -> None:
    histogram = Histogram((1, 10))
    for value in (0.5, 1, 5, 100):
        histogram.observe(value)
    assert (histogram.counts, histogram.sum) == ([2, 1, 1], 106.5)


def test_the_metrics_text_names_each_family_once_and_has_only_numbers() -> None:
    both = {"local": 1, "remote": 2}
    text = format_metrics(Counters(), Gauges(100.0, 50.0, both, both, both, {"local": 0.0, "remote": 3.5}, 0, 0, False))
    lines = text.decode().splitlines()
    families = [line.split()[2] for line in lines if line.startswith("# TYPE")]
    assert len(families) == len(set(families)) > 15
    for line in lines:
        if not line.startswith("#"):
            name, _, value = line.rpartition(" ")
            float(value)
            base = name.partition("{")[0]
            for suffix in ("_bucket", "_sum", "_count"):
                base = base.removesuffix(suffix) if base.removesuffix(suffix) in families else base
            assert base in families
