"""How time, memory and system calls grow with what a tree or a user has much of.

    PYTHONPATH=. python3 tests/bench/growth.py [--largest 100000] [--directory /tmp]

Each program runs as a command of the checkout, with a hundredth, a tenth and all of that many. Printed are processor
seconds and MiB of each, and the system calls (strace) that one item more costs; exit 1 when those are more than it may
cost, or memory grows by more than n log n and a half. test_growth.py keeps the same counts.
"""

import argparse
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NOBODY = 65534  # whom a program serves that refuses root
SLACK = 1.5  # times n log n: memory comes in steps
FLOOR_MIB = 32  # the kernel counts what the process had before it executed the program


@dataclass(frozen=True, slots=True)
class Work:
    """One thing that there may be much of."""

    what: str
    prepare: Callable[[Path, int], None]  # a home with so many
    command: tuple[str, ...]
    conversation: bytes  # on descriptor 0; empty where ``prepare`` writes it
    calls_max: float  # that one item more may cost
    expected: bytes  # in the output
    times: int = 1  # as many as the others have


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one run."""

    seconds: float
    mib: float


def controls(home: Path, name: str, lines: list[str]) -> None:
    """control/ with ``name`` and what every tree has."""
    (home / "control").mkdir()
    (home / "control/me").write_text("mx.example.test\n")
    (home / "control/locals").write_text("mx.example.test\n")
    (home / "control/rcpthosts").write_text("mx.example.test\n")
    (home / "control" / name).write_text("".join(line + "\n" for line in lines))


def maildir(home: Path, count: int) -> None:
    """A Maildir with so many messages."""
    for name in ("cur", "new", "tmp"):
        (home / "Maildir" / name).mkdir(parents=True)
    source = home / "message"
    for index in range(count):
        if index % 50_000 == 0:
            source.unlink(missing_ok=True)
            source.write_bytes(b"Subject: x\n\nhello\n")
        os.link(source, home / f"Maildir/new/{1700000000 + index}.M{index}P1Q0.mx")


def instructions(home: Path, count: int) -> None:
    """A .qmail file with so many lines, each a forward."""
    controls(home, "me", ["mx.example.test"])
    (home / ".qmail").write_text("".join(f"&user{index}@far.example\n" for index in range(count)))


def hosts(home: Path, count: int) -> None:
    """control/rcpthosts with so many lines."""
    controls(home, "rcpthosts", [f"host{index}.example" for index in range(count)])


def domains(home: Path, count: int) -> None:
    """control/virtualdomains with so many lines, and an address in the last."""
    controls(home, "virtualdomains", [f"host{index}.example:user{index}" for index in range(count)])


def recipients(home: Path, count: int) -> None:
    """A session with one message to so many, and a program in the place of qmail-queue that hears of them all."""
    controls(home, "rcpthosts", ["h.example"])
    queue = home / "queue"
    queue.write_text("#!/bin/sh\ncat >/dev/null\nexec cat <&1 >/dev/null\n")
    queue.chmod(0o755)
    commands = "".join(f"RCPT TO:<u{index}@h.example>\r\n" for index in range(count))
    (home / "input").write_text(
        f"EHLO x\r\nMAIL FROM:<a@x>\r\n{commands}DATA\r\nSubject: x\r\n\r\n.\r\nQUIT\r\n", newline=""
    )


def addresses(home: Path, count: int) -> None:
    """A message with so many addresses in its header."""
    controls(home, "me", ["mx.example.test"])
    (home / "input").write_text("To: " + ",\n ".join(f"u{index}@h.example" for index in range(count)) + "\n\nhello\n")


ASK = b"HELO x.example\r\nMAIL FROM:<a@x.example>\r\nRCPT TO:<b@host9.example>\r\nRCPT TO:<b@no.example>\r\nQUIT\r\n"
WORKS = (
    Work(
        "messages in a Maildir: STAT, UIDL",
        maildir,
        ("qmail-pop3d", "Maildir"),
        b"STAT\r\nUIDL\r\nQUIT\r\n",
        3.5,
        b"+OK",
    ),
    Work(
        "lines of a .qmail file: qmail-local -n",
        instructions,
        ("qmail-local", "-n", "u", "HOME", "u", "", "", "mx.example.test", "ann@x.example", "./Maildir/"),
        b"Subject: x\n\nhello\n",
        1.1,
        b"forward user9@far.example",
    ),
    Work("lines of rcpthosts: two recipients", hosts, ("qmail-smtpd",), ASK, 0.01, b"553 ", times=10),
    Work(
        "virtual domains: whose an address is",
        domains,
        ("qmail-explain", "bob@host9.example"),
        b"",
        0.02,
        b"user9-bob",
    ),
    Work("recipients of a message by SMTP", recipients, ("qmail-smtpd",), b"", 0.02, b"250 ok"),
    Work("addresses in a header: qmail-inject -n", addresses, ("qmail-inject", "-n"), b"", 0.01, b"u9@h.example"),
)


def run(work: Work, home: Path, prefix: tuple[str, ...] = ()) -> tuple[Cost, bytes]:
    """One run of a command in ``home``: its cost, and what it said."""
    words = [str(home) if word == "HOME" else word for word in work.command]
    if work.conversation or not (home / "input").exists():
        (home / "input").write_bytes(work.conversation)
    environ = {"PATH": "/usr/bin:/bin", "QMAIL_HOME": str(home), "TCPREMOTEIP": "192.0.2.1"}
    if (home / "queue").exists():
        environ["QMAILQUEUE"] = str(home / "queue")
    with (home / "input").open("rb") as given, tempfile.TemporaryFile() as said:
        child = subprocess.Popen(
            [*prefix, str(ROOT / "bin" / words[0]), *words[1:]],
            stdin=given,
            stdout=said,
            stderr=subprocess.STDOUT,
            cwd=home,
            env=environ,
            user=NOBODY if os.geteuid() == 0 else None,
        )
        _, _, usage = os.wait4(child.pid, 0)
        child.returncode = 0  # it has been waited for
        said.seek(0)
        return Cost(usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024), said.read()


def count_calls(work: Work, home: Path) -> int:
    """The system calls of one run."""
    report = home / "calls"
    report.touch()
    report.chmod(0o666)
    run(work, home, ("strace", "-f", "-c", "-U", "name,calls", "-o", str(report)))
    return sum(int(found) for found in re.findall(r"^(?!total)\w+ +(\d+)$", report.read_text(), re.MULTILINE))


def make_home(work: Work, parent: Path, count: int) -> Path:
    """A home with ``count`` of what ``work`` is about."""
    home = Path(tempfile.mkdtemp(prefix="growth", dir=parent))
    home.chmod(0o755)
    work.prepare(home, count)
    if os.geteuid() == 0:
        for folder, _, _ in os.walk(home):
            os.chown(folder, NOBODY, NOBODY)
    return home


def calls_of_one_more(work: Work, parent: Path, few: int, many: int) -> float:
    """The system calls that an item more costs, between ``few`` and ``many`` of them."""
    counted = []
    for count in (few, many):
        home = make_home(work, parent, count)
        counted.append(count_calls(work, home))
        shutil.rmtree(home)
    return (counted[1] - counted[0]) / (many - few)


def grows_well(few_mib: float, many_mib: float, few: int, many: int) -> bool:
    """Whether memory has grown by n log n at most from ``few`` items to ``many``."""
    by = many * math.log(many) / (few * math.log(few))
    return many_mib <= max(few_mib, FLOOR_MIB) * by * SLACK


def main() -> int:
    """Measure everything; 1 if something grows too fast."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--largest", type=int, default=100_000)
    parser.add_argument("--directory", type=Path, default=Path(tempfile.gettempdir()))
    options = parser.parse_args()
    good = True
    print(
        "| what | " + " | ".join(("a hundredth", "a tenth", "all", "calls for one more")) + " |\n|---|---|---|---|---|"
    )
    for work in WORKS:
        sizes = [options.largest * work.times // part for part in (100, 10, 1)]
        costs = []
        for count in sizes:
            home = make_home(work, options.directory, count)
            cost, said = run(work, home)
            shutil.rmtree(home)
            if work.expected not in said:
                sys.exit(f"{work.what}: {said[-500:]!r}")
            costs.append(cost)
        calls = calls_of_one_more(work, options.directory, sizes[0], sizes[1])
        cells = (f"{size:,}: {cost.seconds:.2f} s, {cost.mib:.0f} MiB" for size, cost in zip(sizes, costs, strict=True))
        print(f"| {work.what} | " + " | ".join(cells) + f" | {calls:.3f} |", flush=True)
        good &= calls <= work.calls_max
        for at in (0, 1):
            good &= grows_well(costs[at].mib, costs[at + 1].mib, sizes[at], sizes[at + 1])
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
