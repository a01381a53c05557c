"""A thread for what must wait for the disk, so that the loop goes on. Jobs are done in order."""

import os
import queue
import sys
import threading
from collections.abc import Callable

from pyqmail.system.loop import Loop

FAILED = 111  # the exit code of a program that a bug has ended

Job = Callable[[], Callable[[], None]]


class Background:
    """Runs jobs in a thread; what a job returns is called from the loop.

    A job touches nothing of the loop's side: it only makes system calls on what it was given.
    """

    def __init__(self, loop: Loop) -> None:
        self._jobs: queue.SimpleQueue[Job] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._thread: threading.Thread | None = None
        self.pending = 0
        loop.add_reader(self._event, self._collect)

    def submit(self, job: Job) -> None:
        """Do ``job`` in the thread."""
        if self._thread is None:
            threading.excepthook = _end_program
            self._thread = threading.Thread(target=self._work, daemon=True)
            self._thread.start()
        self.pending += 1
        self._jobs.put(job)

    def _work(self) -> None:
        while True:
            job = self._jobs.get()
            try:
                self._done.put(job())
            except BaseException as error:  # raised again in the loop, where it ends the program
                self._done.put(_raiser(error))
            os.eventfd_write(self._event, 1)

    def _collect(self) -> None:
        try:
            os.eventfd_read(self._event)
        except BlockingIOError:
            return
        while not self._done.empty():
            self.pending -= 1
            self._done.get()()


def _end_program(args: threading.ExceptHookArgs) -> None:
    """A thread that has ended would leave the loop waiting for it; a program that has ended is started again."""
    try:
        sys.__excepthook__(args.exc_type, args.exc_value or args.exc_type(), args.exc_traceback)
    finally:
        os._exit(FAILED)


def _raiser(error: BaseException) -> Callable[[], None]:
    def again() -> None:
        raise error

    return again
