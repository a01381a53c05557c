"""The worker's side of a pool: take one job at a time until the parent goes away.

Record to the worker: job number (8 bytes, little-endian) and the payload, with the job's descriptors. Record back: the
same number and a signed 4-byte status, then what the program said if its report is held (warm/held_report). The number
alone asks for a pipe, once in a job: the answer is a record with the write end, or without it.
"""

import errno
import os
import socket
import struct
from collections.abc import Callable
from functools import partial

from pyqmail.system.process import close_all_but, reset_signals, set_title
from pyqmail.values import value
from pyqmail.warm.held_report import SAID_MAX, HeldReport
from pyqmail.warm.wire import receive_record, send_record

JOB = struct.Struct("<Q")
RESULT = struct.Struct("<Qi")
ANSWER_MAX = RESULT.size + SAID_MAX
PIPE = b"pipe"  # what comes with a pipe that was asked for, or without it

Serve = Callable[[bytes, list[int]], int]
Wait = Callable[[int], None]


def enter(sock: socket.socket) -> socket.socket:
    """Make a freshly forked child forget its parent: descriptors, signals, descriptors 0 to 2 on /dev/null.

    Returns the job socket on a descriptor above 2. Close-on-exec does nothing for a fork that never executes.
    """
    if sock.fileno() < 3:
        import fcntl

        high = socket.socket(fileno=fcntl.fcntl(sock.fileno(), fcntl.F_DUPFD_CLOEXEC, 3))
        sock.detach()
        sock = high
    close_all_but((sock.fileno(),))
    null = os.open("/dev/null", os.O_RDWR)
    for fd in (1, 2):
        os.dup2(null, fd)
    reset_signals()
    return sock


@value
class Answer:
    """What a worker says of job ``number``: its status and what was said, or that it wants a pipe (status None)."""

    number: int
    status: int | None
    said: bytes


def parse_answer(record: bytes) -> Answer | None:
    """The answer in ``record``; None for what is none."""
    if len(record) == JOB.size:
        return Answer(JOB.unpack(record)[0], None, b"")
    if len(record) < RESULT.size:
        return None
    number, status = RESULT.unpack_from(record)
    return Answer(number, status, record[RESULT.size :])


def ask_for_pipe(sock: socket.socket, number: int) -> int:
    """The write end of a pipe for job ``number``. Raises OSError."""
    send_record(sock, JOB.pack(number))
    record = receive_record(sock)
    if record is None or not record[1]:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    return record[1][0]


def serve_jobs(
    sock: socket.socket,
    serve: Serve,
    *,
    title: str,
    jobs_max: int,
    wait: Wait | None = None,
    report: HeldReport | None = None,
) -> None:
    """Serve jobs until the socket ends or ``jobs_max`` are done; never returns.

    ``wait`` is given the job socket's descriptor before each wait for a job and may wait there for something else too.

    ``serve`` gets the payload and owns the descriptors; a job's own standard descriptors are put back on /dev/null
    after it, so that its output pipe ends when its last program does. What ``report`` has goes with the status.
    """
    set_title(title)
    done = 0
    while done < jobs_max:
        try:
            if wait is not None:
                wait(sock.fileno())
            record = receive_record(sock)
        except InterruptedError:
            continue
        except OSError:
            break
        if record is None or len(record[0]) < JOB.size:
            break
        (number,) = JOB.unpack_from(record[0])
        if report is not None:
            report.begin(partial(ask_for_pipe, sock, number))
        status = serve(record[0][JOB.size :], record[1])
        try:
            send_record(sock, RESULT.pack(number, status) + (b"" if report is None else report.end()))
        except OSError:
            break
        done += 1
    os._exit(0)
