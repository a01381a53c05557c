"""The worker's side of a pool: take one job at a time until the parent goes away.

Record to the worker: job number (8 bytes, little-endian) and the payload, with the job's descriptors. Record back: the
same number and a signed 4-byte status.
"""

import os
import socket
import struct
from collections.abc import Callable

from pyqmail.system.process import close_all_but, reset_signals, set_title
from pyqmail.warm.wire import receive_record, send_record

JOB = struct.Struct("<Q")
RESULT = struct.Struct("<Qi")

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


def serve_jobs(sock: socket.socket, serve: Serve, *, title: str, jobs_max: int, wait: Wait | None = None) -> None:
    """Serve jobs until the socket ends or ``jobs_max`` are done; never returns.

    ``wait`` is given the job socket's descriptor before each wait for a job and may wait there for something else too.

    ``serve`` gets the payload and owns the descriptors; a job's own standard descriptors are put back on /dev/null
    after it, so that its output pipe ends when its last program does.
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
        status = serve(record[0][JOB.size :], record[1])
        try:
            send_record(sock, RESULT.pack(number, status))
        except OSError:
            break
        done += 1
    os._exit(0)
