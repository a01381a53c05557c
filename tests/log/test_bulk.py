"""A log summed up in the quick way, in one piece or in two, says what the slow way says."""

import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyqmail.log import bulk
from pyqmail.log.bulk import Bulk, files_of, halves, is_of_multilog, sum_up, texts_of
from pyqmail.log.joiner import Joiner
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
            statistics.add(item)
    return list(statistics.lines())


@pytest.mark.parametrize("seed", range(20))
def test_the_quick_way_says_what_the_slow_way_says_of_any_lines(seed: int) -> None:
    text = list(torn_lines(seed))
    whole = Bulk()
    whole.feed("".join(f"{line}\n" for line in text).encode())
    assert list(whole.statistics.lines()) == slowly(text) and whole.understood


@pytest.mark.parametrize("seed", range(8))
def test_it_says_the_same_wherever_a_log_is_cut(seed: int) -> None:
    text = list(lines(seed))
    wanted = slowly(text)
    assert "messages that left the queue: 0" not in wanted[0]
    data = [f"{line}\n".encode() for line in text]
    for cut in (0, *range(5, len(data), 17), len(data)):
        first, second = Bulk(), Bulk(inside=True)
        first.feed(b"".join(data[:cut]))
        second.feed(b"".join(data[cut:]))
        first.go_on(second)
        assert list(first.statistics.lines()) == wanted


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
    text = [line.rstrip("\n") for path in files_of(str(log)) for line in Path(path).open()]
    wanted = slowly(text)
    assert is_of_multilog(str(log)) and list(sum_up(str(log)).statistics.lines()) == wanted
    monkeypatch.setattr(bulk, "APART_MIN", 1)
    monkeypatch.setattr(bulk, "CHUNK", 100)
    assert list(sum_up(str(log)).statistics.lines()) == wanted
    monkeypatch.setattr(bulk, "_count_apart", lambda pieces, writer: os.kill(os.getpid(), signal.SIGKILL))
    assert list(sum_up(str(log)).statistics.lines()) == wanted


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

    monkeypatch.setattr(bulk, "Progress", Told)
    log = tmp_path / "log"
    log.write_bytes(b"@400000006500000000000000 end msg 5\n" * 90_000)  # 3.1 MiB
    assert sum_up(str(log)).understood
    assert seen == [("MiB of the log", 3), 0, 0, 1, 2, "end"]  # parts end with a line, a little below 1 MiB
