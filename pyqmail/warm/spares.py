"""Worker processes, and those that are made before it is known for whom.

After a fork parent and child share all memory until one of them writes: the parent then pays for each page that it
works with. One that forks several times in a row pays once. So while new keys come one soon after the other, their
workers are made several at a time: each waits, with nothing open but its job socket, for the record that says whose it
is (uid and gid, 4 bytes each, little-endian), and becomes that before it is given a job.
"""

import gc
import os
import socket
import struct
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

from pyqmail.system.typed import cast
from pyqmail.warm.held_report import HeldReport
from pyqmail.warm.wire import pair, receive_record, send_record
from pyqmail.warm.worker import Serve, Wait, enter, serve_jobs

Prepare = Callable[[Hashable], None]
Made = tuple[int, socket.socket]  # a worker's process, and the parent's end of its job socket

IDENTITY = struct.Struct("<II")
UNKNOWN = object()  # the key of a worker that waits for it
SOON_S = 0.5  # from one need of workers to the next: then twice as many are made
SPARE_S = 1.0  # that one waits for its key


@dataclass(frozen=True, slots=True)
class Body:
    """What a worker is: how it becomes its key's, and how it serves."""

    serve: Serve
    prepare: Prepare
    title: str
    jobs_max: int
    wait: Wait | None
    report: HeldReport | None = None


class Spares:
    """The workers that wait for a key; at most ``most`` are made at once, and none to spare if that is 1.

    Else a key that has no worker yet is a uid and a gid.
    """

    def __init__(self, body: Body, most: int) -> None:
        self.most = most
        self.waiting: list[Made] = []
        self._body = body
        self._lost: list[Made] = []  # that have died while they waited
        self._count = 1  # that the last need has made
        self._made_at = 0.0  # monotonic seconds

    def take(self, key: Hashable, now: float) -> Made:
        """A worker for ``key``, which has none yet. Raises OSError when none can be made."""
        while self.waiting:
            made = self.waiting.pop()
            try:
                send_record(made[1], IDENTITY.pack(*cast(tuple[int, int], key)))
            except OSError:
                self._lost.append(made)
            else:
                return made
        self._count = min(2 * self._count, self.most) if now - self._made_at < SOON_S else 1
        self._made_at = now
        made, *self.waiting = fork_workers(self._body, [key] + [UNKNOWN] * (self._count - 1))
        return made

    def rested(self, now: float) -> list[Made]:
        """Those that have waited for long enough, or have died: they are the caller's to end."""
        ended, self._lost = self._lost, []
        if now - self._made_at >= SPARE_S:
            ended += self.waiting
            self.waiting = []
        return ended


def fork_workers(body: Body, keys: Sequence[Hashable]) -> list[Made]:
    """A worker for each key, fewer when there cannot be so many. Raises OSError when there can be none.

    Between two forks nothing is done: whatever this process writes to it has to copy anew after each.
    """
    pairs = [pair() for _ in keys]
    pids: list[int] = []
    try:
        for index, key in enumerate(keys):
            pid = os.fork()
            if pid == 0:
                _be_worker(body, pairs[index][1], key)
            pids.append(pid)
    except OSError:
        if not pids:
            raise
    finally:
        for index, (mine, theirs) in enumerate(pairs):
            theirs.close()
            if index >= len(pids):
                mine.close()
    return [(pid, mine) for pid, (mine, _) in zip(pids, pairs, strict=False)]


def _be_worker(body: Body, sock: socket.socket, key: Hashable) -> None:
    """The child; never returns."""
    try:
        gc.disable()
        sock = enter(sock)
        if key is UNKNOWN:
            record = receive_record(sock)
            if record is None:
                os._exit(0)
            key = IDENTITY.unpack(record[0])
        body.prepare(key)
        gc.enable()
        serve_jobs(sock, body.serve, title=body.title, jobs_max=body.jobs_max, wait=body.wait, report=body.report)
    finally:
        os._exit(1)
