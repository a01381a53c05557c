"""What a big queue costs qmail-send: memory, the next job, a restart, and new mail beside deferred mail.

    PYTHONPATH=. python3 tests/bench/scale.py [--messages 1000000] [--directory /tmp]

Prints one line for each claim, with its limit, and exits 1 if one does not hold. The queues are written file by file,
with bodies and senders shared by hard links; nothing is sent by SMTP, and the spawners are scripted.
"""

import argparse
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from pyqmail.send.retry import Schedule
from tests.programs.sending import Sending, make_queue

SPLIT = 23
FIRST = 100_000_000_000  # above any inode here, so that no new message takes the number of a generated one
LINKS_MAX = 50_000  # hard links to one file
MEMORY_MAX_MB = 300
RESTART_MAX_S = 5.0
SLOWER_MAX = 1.20
HOUR = 3600
WEEK = 7 * 24 * HOUR


def make_home(parent: Path) -> Path:
    """A single-user tree with an empty queue."""
    home = Path(tempfile.mkdtemp(prefix="scale", dir=parent))
    uid, gid = os.geteuid() or 65534, os.getegid() or 65534
    control = home / "control"
    control.mkdir()
    for name, text in (
        ("conf-users", f"{uid}\n" * 8),
        ("conf-groups", f"{gid}\n" * 2),
        ("me", "mx.example.test\n"),
        ("locals", "here.example\n"),
    ):
        (control / name).write_text(text)
    make_queue(home, SPLIT)
    return home


class Writer:
    """Files that are hard links to one of the same content and times, a fresh one whenever that has too many."""

    def __init__(self, content: bytes, seconds: float) -> None:
        self._content = content
        self._times = (seconds, seconds)
        self._source = ""
        self._links = LINKS_MAX

    def write(self, path: str) -> None:
        """One more such file at ``path``."""
        if self._links < LINKS_MAX:
            os.link(self._source, path)
            self._links += 1
            return
        with open(path, "wb") as file:
            file.write(self._content)
        os.utime(path, self._times)
        self._source, self._links = path, 1


def fill(queue: Path, channel: str, count: int, *, due: Callable[[int], float]) -> None:
    """Put ``count`` messages with one recipient into ``channel``, the i-th due at ``due(i)``."""
    now = time.time()
    mess, info = Writer(b"Subject: x\n\nhello\n", now - HOUR), Writer(b"Fjoe@a.example\0", now - HOUR)
    domain = "here.example" if channel == "local" else "far.example"
    for index in range(count):
        number = FIRST + index
        name = f"{number % SPLIT}/{number}"
        mess.write(f"{queue}/mess/{name}")
        info.write(f"{queue}/info/{name}")
        path = f"{queue}/{channel}/{name}"
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        os.write(fd, f"Tuser{index}@{domain}\0".encode())
        os.utime(fd, (when := due(index), when))
        os.close(fd)


def processor_s(pid: int) -> float:
    """The processor time of ``pid`` so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def wait_until_quiet(sending: Sending) -> float:
    """Serve until qmail-send has done nothing for a second; the seconds that took, that second not counted."""
    start = time.monotonic()
    while True:
        before, pause = processor_s(sending.pid), time.monotonic() + 1
        while time.monotonic() < pause:
            sending._serve(0.05)
        if processor_s(sending.pid) - before < 0.02:
            return time.monotonic() - start - 1


def memory_mb(pid: int) -> tuple[float, float]:
    """RSS and PSS of ``pid``."""
    values = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, _, rest = line.partition(":")
        values[name] = int(rest.split()[0]) / 1024
    return values["Rss"], values["Pss"]


def answer_all(sending: Sending, letters: dict[str, bytes]) -> None:
    """Report on every command that has come, with the letter of its channel."""
    for channel, letter in letters.items():
        commands, sending.commands[channel] = sending.commands[channel], []
        for command in commands:
            sending.report(channel, command.slot, letter)


def deliver_one(sending: Sending, letters: dict[str, bytes]) -> float:
    """Queue a local message and serve until it has been delivered: the seconds from its trigger to its command."""
    number = sending.put(b"joe@a.example", b"ann@here.example")
    start = time.monotonic()
    sending.pull()
    message = b"%d/%d" % (number % SPLIT, number)
    while not any(command.message == message for command in sending.commands["local"]):
        answer_all(sending, letters)
        if not sending._serve(1) or time.monotonic() > start + 60:
            sys.exit("qmail-send has ended or is stuck: " + sending.log[-2000:])
    took = time.monotonic() - start
    answer_all(sending, {"local": b"K"})
    sending.until(lambda: f"end msg {number}\n" in sending.log)
    sending.log = ""
    return took


class Figures:
    """The table, and whether all of it holds."""

    def __init__(self) -> None:
        self.good = True

    def add(self, what: str, value: float, unit: str, most: float | None = None) -> None:
        """One line of it."""
        verdict = ""
        if most is not None:
            self.good &= value < most
            verdict = f"  (< {most:g}: {'yes' if value < most else 'NO'})"
        print(f"{what:68} {value:10.3f} {unit}{verdict}", flush=True)


def measure_memory(figures: Figures, parent: Path, count: int) -> None:
    """A queue of ``count`` deferred remote messages: load time and memory."""
    home = make_home(parent)
    try:
        start = time.monotonic()
        fill(home / "queue", "remote", count, due=lambda index: time.time() + HOUR + index % WEEK)
        print(f"# {count} messages written in {time.monotonic() - start:.0f} s")
        sending = Sending(home, split=SPLIT).start()
        sending.until_log("status:")
        figures.add(f"new local message while {count} are being read, command after", deliver_one(sending, {}), "s")
        figures.add(f"{count} messages read in", wait_until_quiet(sending), "s")
        rss, pss = memory_mb(sending.pid)
        figures.add(f"RSS with {count} messages", rss, "MB", MEMORY_MAX_MB)
        figures.add(f"PSS with {count} messages", pss, "MB", MEMORY_MAX_MB)
        figures.add(f"new local message beside {count}, command after", deliver_one(sending, {}), "s")
        start = time.monotonic()
        assert sending.finish() == 0
        figures.add(f"TERM with {count} messages: exit after", time.monotonic() - start, "s")
    finally:
        shutil.rmtree(home)


def measure_next_job(figures: Figures) -> None:
    """One pop and one add at several sizes."""
    for size in (1_000, 10_000, 100_000, 1_000_000):
        schedule = Schedule()
        for number in range(size):
            schedule.add(number, number * 7919 % size)
        rounds = 20_000
        start = time.perf_counter()
        for when in range(rounds):
            number = schedule.pop_due(1 << 40)
            assert number is not None
            schedule.add(number, size + when)
        took = (time.perf_counter() - start) / rounds * 1e6
        figures.add(f"next job and its rescheduling among {size}", took, "us")


def measure_restart(figures: Figures, parent: Path, channel: str, count: int, *, due_s: int) -> None:
    """From the start of qmail-send to the delivery of a message that is queued right after it."""
    home = make_home(parent)
    try:
        fill(home / "queue", channel, count, due=lambda index: time.time() + due_s)
        sending = Sending(home, split=SPLIT)
        start = time.monotonic()
        sending.start().until(lambda: "status:" in sending.log)
        deliver_one(sending, {"local": b"K", "remote": b"Z"})
        what = "deferred" if due_s > 0 else "due at once"
        figures.add(
            f"start with {count} {channel} {what}, new local message delivered after",
            time.monotonic() - start,
            "s",
            RESTART_MAX_S,
        )
        sending.kill()
    finally:
        shutil.rmtree(home)


def measure_beside_deferred(figures: Figures, parent: Path, count: int, rounds: int) -> None:
    """A new local message with and without ``count`` deferred remote ones, in turn."""
    homes = [make_home(parent), make_home(parent)]
    try:
        fill(homes[1] / "queue", "remote", count, due=lambda index: time.time() + HOUR + index)
        running = [Sending(home, split=SPLIT).start() for home in homes]
        for sending in running:
            sending.until_log("status:")
            wait_until_quiet(sending)
        times: list[list[float]] = [[], []]
        for index in range(rounds):
            for which in (0, 1) if index % 2 else (1, 0):
                times[which].append(deliver_one(running[which], {}))
        alone, beside = (statistics.median(taken) * 1000 for taken in times)
        figures.add("new local message, empty queue, command after (median)", alone, "ms")
        figures.add(f"new local message beside {count} deferred (median)", beside, "ms")
        figures.add(f"slower by the {count} deferred", beside / alone, "times", SLOWER_MAX)
        for sending in running:
            sending.kill()
    finally:
        for home in homes:
            shutil.rmtree(home)


def main() -> int:
    """Measure everything; 1 if a limit does not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=1_000_000)
    parser.add_argument("--restart", type=int, default=100_000)
    parser.add_argument("--deferred", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--directory", type=Path, default=Path(tempfile.gettempdir()))
    options = parser.parse_args()
    figures = Figures()
    measure_next_job(figures)
    measure_beside_deferred(figures, options.directory, options.deferred, options.rounds)
    measure_restart(figures, options.directory, "remote", options.restart, due_s=HOUR)
    measure_restart(figures, options.directory, "remote", options.restart, due_s=-HOUR)
    measure_restart(figures, options.directory, "local", options.restart, due_s=-HOUR)
    measure_memory(figures, options.directory, options.messages)
    return 0 if figures.good else 1


if __name__ == "__main__":
    sys.exit(main())
