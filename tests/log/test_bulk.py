"""A log summed up in the quick way, in one piece or in two, says what the slow way says."""

import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyqmail.log import bulk as bulk_of_lines
from pyqmail.log import joiner as joiner_of_lines
from pyqmail.log import long_log
from pyqmail.log.bulk import Bulk
from pyqmail.log.counts import add_item
from pyqmail.log.joiner import Joiner
from pyqmail.log.long_log import files_of, halves, is_of_multilog, sum_up, texts_of
from pyqmail.log.stamps import parse_line
from pyqmail.log.statistics import Statistics
from pyqmail.log.twins import Twins

ODD = """\
alert: help
warning: unable to stat mess/5
delivery 3: report mangled, will defer
triple bounce: discarding bounce/7
bounce msg 5 qp 77
status: exiting
status: local 1/10 remote 2/20 exitasap
status: local x
qmail-smtpd: accepted ip=::1 helo=x from=<a@b> to=<c@d> bytes=5 qp=7
qmail-smtpd: refused ip=::1 helo=x from=<> to=<c@d> reason=no
end msg
new msg 5 6
info msg 5: bytes x from <> qp 1 uid 2
starting delivery 1: msg 5 to nowhere a@b
delivery 5:
\u00e4\ufffd

@
delivery 1_0: success: x
""".splitlines()
TORN = ["delivery 0000002: success:", "new msg 0007", "info msg 7: bytes 9 from <> qp 5> qp 1 uid 2",
        "end msg 4", "end msg 7",
        '{"time":"2026-11-23T00:00:00.5Z","program":"qmail-send","event":"end","msg":6}']  # fmt: skip


def stamped(chance: random.Random, second: int, text: str) -> str:
    stamp = f"@{(1 << 62) + 10 + 1_790_000_000 + second:016x}{chance.randrange(10**9):08x} "
    return (stamp if chance.randrange(20) else chance.choice(("", stamp[:17] + " ", "2026-11-23 00:00:00.5 "))) + text


def torn_lines(seed: int) -> Iterator[str]:
    """Lines of all kinds in no order."""
    chance = random.Random(seed)
    for second in range(300):
        number, delivery = chance.randrange(4, 9), chance.randrange(1, 6)
        result = chance.choice(("success", "failure", "deferral"))
        kinds = (
            f"new msg {number}", f"info msg {number}: bytes {second} from <s{number}@a.test> qp 5 uid 6",
            f"starting delivery {delivery}: msg {number} to remote r@D{number}.test",
            f"starting delivery {delivery}: msg {number} to local ann@a.test",
            f"delivery {delivery}: {result}: text:_{second}/", f"delivery {delivery}: {result}:text",
            f"end msg {number}", "status: local 1/10 remote 2/20", chance.choice(ODD), chance.choice(TORN),
        )  # fmt: skip
        yield stamped(chance, second, chance.choice(kinds))


def lines(seed: int) -> Iterator[str]:
    """What a qmail-send says that is killed now and then, and what others say between."""
    chance = random.Random(seed)
    waiting: list[int] = []
    running: dict[int, int] = {}
    delivery = 0
    for second in range(300):
        kind = chance.randrange(8)
        free = [number for number in waiting if number not in running.values()]
        if kind == 0 and len(waiting) < 6:
            number = chance.choice([number for number in range(4, 12) if number not in waiting])
            waiting.append(number)
            yield stamped(chance, second, f"new msg {number}")
            yield stamped(chance, second, f"info msg {number}: bytes {second} from <s{number}@a.test> qp 5 uid 6")
        elif kind < 4 and free:
            delivery += 1
            running[delivery] = number = chance.choice(free)
            place = chance.choice(("local ann@a.test", f"remote r@D{number}.test"))
            yield stamped(chance, second, f"starting delivery {delivery}: msg {number} to {place}")
        elif kind < 6 and running:
            ended = chance.choice(list(running))
            number = running.pop(ended)
            result = chance.choice(("success", "failure", "deferral"))
            yield stamped(chance, second, f"delivery {ended}: {result}: text:_{second}/")
            if result != "deferral":
                waiting.remove(number)
                yield stamped(chance, second, f"end msg {number}")
        elif kind == 6 and not chance.randrange(5):
            running, delivery = {}, 0
        else:
            yield stamped(chance, second, chance.choice(ODD))


def slowly(text: list[str]) -> list[str]:
    statistics, joiner, twins = Statistics(), Joiner(), Twins()
    for line in text:
        when, event = twins.parse(line) or (None, None)
        for item in joiner.take(when, event):
            add_item(statistics, when, item)
    return list(statistics.lines())


@pytest.mark.parametrize("seed", range(20))
def test_the_quick_way_says_what_the_slow_way_says_of_any_lines(seed: int) -> None:
    text = list(torn_lines(seed))
    whole = Bulk(Statistics())
    whole.feed("".join(f"{line}\n" for line in text).encode())
    assert list(whole.counts.lines()) == slowly(text) and whole.understood


@pytest.mark.parametrize("seed", range(8))
def test_it_says_the_same_wherever_a_log_is_cut(seed: int) -> None:
    text = list(lines(seed))
    wanted = slowly(text)
    assert "messages that left the queue: 0" not in wanted[0]
    data = [f"{line}\n".encode() for line in text]
    for cut in (0, *range(5, len(data), 17), len(data)):
        first, second = Bulk(Statistics()), Bulk(Statistics(), inside=True)
        first.feed(b"".join(data[:cut]))
        second.feed(b"".join(data[cut:]))
        first.go_on(second)
        assert list(first.counts.lines()) == wanted


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """A directory of multilog with three files."""
    text = ["@400000006553f10a00000000 status: local 0/10 remote 0/20", *lines(1)]
    for place, name in enumerate(("@4000000065000000.s", "@4000000066000000.u", "current")):
        (tmp_path / name).write_text("".join(f"{line}\n" for line in text[place * 100 :][: 100 if place < 2 else None]))
    return tmp_path


def test_two_processes_share_a_long_log_and_one_that_dies_is_made_up_for(
    log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = [line for path in files_of(str(log)) for line in Path(path).read_text().splitlines()]
    wanted = slowly(text)
    assert is_of_multilog(str(log)) and list(sum_up(str(log), Statistics).counts.lines()) == wanted
    monkeypatch.setattr(long_log, "APART_MIN", 1)
    monkeypatch.setattr(long_log, "CHUNK", 100)
    assert list(sum_up(str(log), Statistics).counts.lines()) == wanted
    monkeypatch.setattr(long_log, "_count_apart", lambda pieces, writer, counts: os.kill(os.getpid(), signal.SIGKILL))
    assert list(sum_up(str(log), Statistics).counts.lines()) == wanted


def test_the_halves_are_all_of_it_in_order(log: Path) -> None:
    files = files_of(str(log))
    first, second = halves(files)
    whole = b"".join(Path(path).read_bytes() for path in files)
    parts = [b"".join(texts_of(pieces)) for pieces in (first, second)]
    assert b"".join(parts) == whole and parts[0].endswith(b"\n")
    assert abs(len(parts[0]) - len(parts[1])) < 1000
    (log / "current").write_bytes(b"@ no newline")
    assert b"".join(texts_of([(str(log / "current"), 0, 12)])) == b"@ no newline\n"
    (log / "empty").write_bytes(b"")
    assert halves([str(log / "empty")]) == ([], [(str(log / "empty"), 0, 0)]) and not is_of_multilog(str(log / "empty"))


def test_a_terminal_is_told_how_far_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[object] = []

    class Told:
        def __init__(self, what: str, whole: int) -> None:
            seen.append((what, whole))

        def tell(self, done: int) -> None:
            seen.append(done)

        def end(self) -> None:
            seen.append("end")

    monkeypatch.setattr(long_log, "Progress", Told)
    log = tmp_path / "log"
    log.write_bytes(b"@400000006500000000000000 end msg 5\n" * 90_000)  # 3.1 MiB
    assert sum_up(str(log), Statistics).understood
    assert seen[0] == ("MiB of the log", 3) and seen[-1] == "end"
    assert sorted(set(seen[1:-1])) == [0, 1, 2, 3]  # type: ignore[type-var]


def test_what_never_ends_is_forgotten_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joiner_of_lines, "WAITING_MAX", 100)
    begun = "".join(
        f"@{(1 << 62) + number:016x}00000000 {text}\n"
        for number in range(1, 2000)
        for text in (f"new msg {number}", f"starting delivery {number}: msg {number} to local a@b")
    )
    bulk, joiner = Bulk(Statistics()), Joiner()
    for line in begun.splitlines(keepends=True):
        bulk.feed(line.encode())
        list(joiner.take(*parse_line(line)))
    remembered = bulk._messages, bulk._running, joiner.messages, joiner._running
    assert all(len(each) <= 102 for each in remembered)
    bulk.feed(b"@4000000000000000ffffffff delivery 1999: success: ok\n")
    assert "success              1" in list(bulk.counts.lines())


def test_a_second_half_whose_messages_nobody_knows_keeps_few_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk_of_lines, "STRAYS_MAX", 1000)
    half = Bulk(Statistics(), inside=True)
    for number in range(1, 500):
        half.feed(stamp(f"starting delivery {number}: msg 7 to local a@b"))
        half.feed(stamp(f"delivery {number}: success: ok"))
    assert len(b"".join(half.strays)) < 1200
    whole = Bulk(Statistics())
    whole.go_on(half)
    assert int(list(whole.counts.lines())[1].split()[1]) >= 498


def stamp(text: str) -> bytes:
    return f"@400000006500000000000000 {text}\n".encode()


def test_a_line_made_to_take_long_does_not() -> None:
    line = stamp("qmail-smtpd: accepted ip=x helo=x from=<" + "> to=" * 200_000 + "\t")
    bulk = Bulk(Statistics())
    began = time.process_time()
    bulk.feed(line)
    assert time.process_time() - began < 5 and not bulk.understood


def test_a_pipe_is_read_as_ever(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    assert not is_of_multilog(str(pipe))
