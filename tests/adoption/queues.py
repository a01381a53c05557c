"""Queues as text, queues on disk, and what must become of the messages in one.

Written from the contracts, and independent of pyqmail/spool on purpose: it is the other side of the comparison.

A recorded queue is a text file. ``#`` lines are comment; the others have fields between tabs, their bytes written as in
Python:

    file PATH ATIME MTIME BYTES      a file below queue/, its times in seconds relative to the recording
    pending NUMBER CHANNEL ADDRESS   this delivery is still to be made, once
    failed NUMBER SENDER ADDRESS     this recipient is still to be returned, once
"""

import os
import shutil
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from tests.programs.sending import BIN, Sending

PARTS = ("mess", "info", "local", "remote")
FLAT = ("todo", "intd", "bounce", "pid")
ASIDE = ".aside"  # how ours renames what belongs to a message that is not there


@dataclass
class Expected:
    """What is still to be done in a queue."""

    pending: Counter[tuple[int, str, bytes]] = field(default_factory=Counter)
    failed: Counter[tuple[int, bytes, bytes]] = field(default_factory=Counter)


@dataclass
class File:
    """One file of a queue; times relative to now."""

    data: bytes
    atime: float = 0
    mtime: float = 0


@dataclass
class Queue:
    """A whole queue at rest."""

    files: dict[str, File] = field(default_factory=dict)
    expected: Expected = field(default_factory=Expected)


def escaped(data: bytes) -> str:
    """``data`` in one line of ASCII without tabs."""
    return data.decode("latin-1").encode("unicode_escape").decode("ascii")


def unescaped(text: str) -> bytes:
    """The bytes of an ``escaped`` text."""
    return text.encode("ascii").decode("unicode_escape").encode("latin-1")


def format_queue(queue: Queue, comment: str) -> str:
    """The text of a recorded queue."""
    lines = [f"# {line}" for line in comment.splitlines()]
    for path, file in sorted(queue.files.items()):
        lines.append(f"file\t{path}\t{file.atime:.0f}\t{file.mtime:.0f}\t{escaped(file.data)}")
    for (number, channel, address), count in sorted(queue.expected.pending.items()):
        lines += [f"pending\t{number}\t{channel}\t{escaped(address)}"] * count
    for (number, sender, address), count in sorted(queue.expected.failed.items()):
        lines += [f"failed\t{number}\t{escaped(sender)}\t{escaped(address)}"] * count
    return "\n".join(lines) + "\n"


def parse_queue(text: str) -> Queue:
    """A recorded queue."""
    queue = Queue()
    for line in text.splitlines():
        match line.split("\t"):
            case ["file", path, atime, mtime, data]:
                queue.files[path] = File(unescaped(data), float(atime), float(mtime))
            case ["pending", number, channel, address]:
                queue.expected.pending[int(number), channel, unescaped(address)] += 1
            case ["failed", number, sender, address]:
                queue.expected.failed[int(number), unescaped(sender), unescaped(address)] += 1
            case _:
                assert line.startswith("#"), line
    return queue


def read_directory(top: Path) -> dict[str, File]:
    """The files of the queue at ``top``, but those of lock/."""
    now = time.time()
    files = {}
    for path in sorted(top.rglob("*")):
        name = str(path.relative_to(top))
        if path.is_file() and not path.is_symlink() and name.split("/")[0] in (*PARTS, *FLAT):
            status = path.stat()
            files[name] = File(path.read_bytes(), status.st_atime - now, status.st_mtime - now)
    return files


def write_directory(top: Path, files: dict[str, File], split: int) -> None:
    """An otherwise empty queue at ``top`` with ``files``; intd/N and todo/N are links to one file, as they must be."""
    now = time.time()
    for part in PARTS:
        for remainder in range(split):
            (top / part / str(remainder)).mkdir(parents=True, exist_ok=True)
    for part in (*FLAT, "lock"):
        (top / part).mkdir(exist_ok=True)
    (top / "lock/sendmutex").write_bytes(b"")
    (top / "lock/tcpto").write_bytes(bytes(1024))
    if not (top / "lock/trigger").exists():
        os.mkfifo(top / "lock/trigger")
    for name, file in sorted(files.items()):
        path = top / name
        twin = top / name.replace("todo/", "intd/")
        if name.startswith("todo/") and name.replace("todo/", "intd/") in files:
            os.link(twin, path)
        else:
            path.write_bytes(file.data)
        os.utime(path, (now + file.atime, now + file.mtime))


def records(data: bytes) -> list[bytes]:
    """The NUL-terminated records of a queue file."""
    return data.split(b"\0")[:-1]


SPY = """#!/bin/sh
name=$(mktemp {folder}/XXXXXXXX)
cat >$name.message
cat <&1 >$name.envelope
mv $name $name.done
"""


@dataclass
class Outcome:
    """What a qmail-send did with a queue."""

    deliveries: Counter[tuple[int, str, bytes]]
    bounces: list[tuple[bytes, bytes]]  # message, envelope
    left: dict[str, File]
    log: str


def take_over(sending: Sending, home: Path, *, clean: bool = True) -> Outcome:
    """Run ``sending`` on its queue, every delivery a success, until nothing is left to do.

    Bounces are collected by a program in place of qmail-queue. ``clean``: beside the real qmail-clean of ours.
    """
    folder = home / "bounced"
    folder.mkdir()
    script = home / "queue-spy"
    script.write_text(SPY.format(folder=folder))
    script.chmod(0o755)
    sending.environ["QMAILQUEUE"] = str(script)
    deliveries: Counter[tuple[int, str, bytes]] = Counter()
    sending.start()
    if clean:
        sending.attach_cleaner([str(BIN / "qmail-clean")])

    def nothing_left() -> bool:
        for channel in ("local", "remote"):
            commands, sending.commands[channel] = sending.commands[channel], []
            for command in commands:
                number = int(command.message.rpartition(b"/")[2])
                deliveries[number, channel, command.recipient] += 1
                sending.report(channel, command.slot, b"K")
        return not remaining(sending.queue)

    sending.until(lambda: "status:" in sending.log and nothing_left())
    assert sending.finish() == 0
    bounces = [
        (path.with_suffix(".message").read_bytes(), path.with_suffix(".envelope").read_bytes())
        for path in folder.glob("*.done")
    ]
    return Outcome(deliveries, bounces, read_directory(sending.queue), sending.log)


def remaining(queue: Path) -> list[Path]:
    """What qmail-send has still to do, by the files; messages that nobody has finished queueing do not count."""
    left = [path for part in ("info", "local", "remote") for path in queue.glob(f"{part}/*/*")]
    left += [path for part in ("todo", "bounce") for path in queue.glob(f"{part}/*")]
    left = [path for path in left if path.suffix != ASIDE]
    unfinished = {path.name for path in queue.glob("intd/*")}
    old = time.time() - 129_600
    for path in queue.glob("mess/*/*"):
        try:
            if path.name not in unfinished and path.stat().st_atime < old:
                left.append(path)
        except FileNotFoundError:
            continue
    return left


def check(expected: Expected, outcome: Outcome) -> None:
    """Each pending recipient got one delivery, nobody else any; each failed one is in one bounce to its sender."""
    assert outcome.deliveries == expected.pending, outcome.log
    by_number: dict[int, tuple[bytes, Counter[bytes]]] = {}
    for (number, sender, address), count in expected.failed.items():
        by_number.setdefault(number, (sender, Counter()))[1][address] += count
    wanted = [(_envelope(sender), addresses) for sender, addresses in by_number.values() if sender != b"#@[]"]
    got = [(envelope, message) for message, envelope in outcome.bounces]
    assert sorted(envelope for envelope, _ in got) == sorted(envelope for envelope, _ in wanted), outcome.log
    for envelope, addresses in wanted:
        fits = [message for other, message in got if other == envelope and _names(message) == addresses]
        assert fits, (envelope, addresses, got)
    parts = {name.split("/")[0] for name in outcome.left if not name.endswith(ASIDE)}
    assert not parts & {"info", "local", "remote", "todo", "bounce"}, outcome.left


def _envelope(sender: bytes) -> bytes:
    if not sender:
        return b"F#@[]\0Tpostmaster@mx.example.test\0\0"
    return b"F\0T" + sender.removesuffix(b"-@[]") + b"\0\0"


def _names(message: bytes) -> Counter[bytes]:
    """The addresses of the paragraphs in a bounce."""
    paragraphs = message.partition(b"\n\n--- Below this line is ")[0].split(b"\n\n")
    return Counter(part[1 : part.index(b">:\n")] for part in paragraphs if part.startswith(b"<"))


def copy_tree(source: Path, target: Path) -> None:
    """A home like ``source`` with everything but its queue, which is empty."""
    target.mkdir(exist_ok=True)
    for part in ("bin", "users", "alias"):
        if (source / part).exists():
            shutil.copytree(source / part, target / part, symlinks=True, copy_function=shutil.copy2)
    (target / "control").mkdir()
