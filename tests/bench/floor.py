#!/usr/bin/python3
"""The floor under workload w1: what this machine does when nothing but the system calls of a message are made.

    tests/bench/floor.py QUEUE MAILDIR [SECONDS]

Each of two processes makes, again and again, the calls that one 4 KiB message costs the whole system from SMTP to the
Maildir (ARCHITECTURE, "What a message costs"), on real files, sockets and pipes, each sync included, and no other work.
QUEUE and MAILDIR are scratch directories on the filesystems of the queue and of the mailboxes. Prints messages a
second.
"""

import os
import socket
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from pyqmail.admin.setup import spread  # noqa: E402 - the checkout's own, wherever this was started

PROCESSES = 2
BODY = b"x" * 4096
ENVELOPE = b"u1000\0p77\0Fann@client.test\0Tbob@example.test\0"
SMALL_CALLS = 60  # reads, writes and waits on pipes and sockets beyond those made below
STATS = 25


def linked(fd: int, path: str) -> None:
    """The unnamed file's name."""
    os.link(f"/proc/self/fd/{fd}", path, src_dir_fd=fd, follow_symlinks=True)


def synced(folder: str) -> None:
    """A directory's names on disk."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    os.fsync(fd)
    os.close(fd)


def unnamed(folder: str, data: bytes) -> int:
    """A synced file without a name."""
    fd = os.open(folder, os.O_TMPFILE | os.O_RDWR, 0o600)
    os.write(fd, data)
    os.fsync(fd)
    return fd


def message(queue: str, maildir: str, serial: int, ends: tuple[socket.socket, socket.socket]) -> None:
    """Everything that the kernel is asked for one message."""
    mess, todo = f"{queue}/mess/{serial % 23}/{serial}", f"{queue}/todo/{serial}"
    body = unnamed(f"{queue}/mess/{(serial + 7) % 23}", BODY)
    envelope = unnamed(f"{queue}/mess/{(serial + 8) % 23}", ENVELOPE)
    linked(body, mess)
    synced(os.path.dirname(mess))
    linked(envelope, todo)
    synced(f"{queue}/todo")
    os.close(body)
    os.close(envelope)
    for path in (todo, mess):
        os.close(os.open(path, os.O_RDONLY))
    copy = unnamed(f"{maildir}/tmp", BODY)
    linked(copy, f"{maildir}/new/{serial}")
    synced(f"{maildir}/new")
    os.close(copy)
    os.unlink(todo)
    os.unlink(mess)
    for _ in range(STATS):
        os.stat(queue)
    for _ in range(SMALL_CALLS // 2):
        os.write(ends[0].fileno(), b"x")
        os.read(ends[1].fileno(), 16)
    for _ in range(4):
        for fd in os.pipe():
            os.close(fd)


def work(queue: str, maildir: str, number: int, seconds: float, report: int) -> None:
    """One process until the time is over."""
    ends = socket.socketpair()
    count, end = 0, time.monotonic() + seconds
    while time.monotonic() < end:
        message(queue, maildir, number * 10_000_000 + count, ends)
        count += 1
    os.write(report, b"%d\n" % count)


def main() -> None:
    """Measure."""
    queue, maildir = Path(sys.argv[1]).absolute(), Path(sys.argv[2]).absolute()
    seconds = float(sys.argv[3]) if len(sys.argv) > 3 else 5.0
    (queue / "mess").mkdir(parents=True, exist_ok=True)
    spread(queue / "mess")
    folders = [queue / "todo", *(queue / "mess" / str(n) for n in range(23)), maildir / "tmp", maildir / "new"]
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    reader, writer = os.pipe()
    for number in range(1, PROCESSES + 1):
        if os.fork() == 0:
            work(str(queue), str(maildir), number, seconds, writer)
            os._exit(0)
    os.close(writer)
    for _ in range(PROCESSES):
        os.wait()
    counts = [int(line) for line in os.read(reader, 4096).split()]
    if len(counts) != PROCESSES:
        sys.exit("floor: a process has failed")
    print(f"floor: {sum(counts) / seconds:.0f} messages/s")


if __name__ == "__main__":
    main()
