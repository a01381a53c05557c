"""qmail-clean: removes queue files for qmail-send, which may not (qmail-clean(8))."""

import _signal
import os
import time
from collections.abc import Mapping, Sequence

from pyqmail.control import home_of
from pyqmail.protocol import clean
from pyqmail.spool.layout import Layout, read_layout
from pyqmail.system import files
from pyqmail.system.process import ignore_signals

STALE_SECONDS = 129600  # 36 h; a live qmail-queue ends itself after 24
SWEEP_EVERY = 31  # requests from one look at pid/ to the next


def sweep_pid(layout: Layout, now: float) -> None:
    """Remove each file in pid/ whose atime is at least 36 hours old: its qmail-queue is long gone."""
    try:
        names = os.listdir(layout.pid)
    except OSError:
        return
    for name in names:
        path = f"{layout.pid}/{name}"
        try:
            if now >= os.stat(path).st_atime + STALE_SECONDS:
                files.unlink(path)
        except OSError:
            continue


def serve(layout: Layout, request: bytes) -> bytes:
    """Do what ``request`` (without its NUL) asks; the answer byte."""
    parsed = clean.parse_request(request)
    if parsed is None:
        return clean.MALFORMED
    word, number = parsed
    try:
        if word == clean.FACT:
            return _remove_facts(layout, number)
        files.unlink_if_present(layout.intd(number))
        files.unlink_if_present(layout.mess(number) if word == clean.FOOP else layout.todo(number))
    except OSError:
        return clean.FAILED
    return clean.DONE


def _remove_facts(layout: Layout, number: int) -> bytes:
    """Remove the facts of a message that leaves or is gone, not those of a new one. Raises OSError."""
    if os.path.lexists(layout.todo(number)):
        return clean.FAILED
    files.unlink_if_present(layout.facts(number))
    return clean.DONE


def main(argv: Sequence[bytes], environ: Mapping[bytes, bytes]) -> int:
    """Requests on fd 0, answers on fd 1. Exits 0 at the end of input, 100 if it cannot answer, 111 without a queue."""
    ignore_signals(_signal.SIGPIPE)
    try:
        layout = read_layout(home_of(environ))
        os.chdir(layout.queue)
    except OSError:
        return 111
    reader = clean.RequestReader()
    countdown = 0
    while True:
        try:
            data = os.read(0, 4096)
        except OSError:
            return 0
        if not data:
            return 0
        answers = b""  # to what came together, in one piece: qmail-send wakes for each
        for request in reader.feed(data):
            if countdown == 0:
                sweep_pid(layout, time.time())
                countdown = SWEEP_EVERY
            countdown -= 1
            answers += serve(layout, request)
        try:
            if answers:
                files.write_all(1, answers)
        except OSError:
            return 100
