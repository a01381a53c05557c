"""A thread for what must wait for the disk, so that the loop goes on. Jobs are done in order."""

import os
import queue
import threading
from collections.abc import Callable

from pyqmail.log.events import Alert, Warn
from pyqmail.log.sinks import Sink
from pyqmail.system.loop import Loop

FAILED = 111  # the exit code of a program that a bug has ended
AGAIN_S = 1  # between two attempts to make the thread, where the kernel has none to give

Done = Callable[[], None]  # named: an annotation of a function within another is made anew at each call
Job = Callable[[], Done]


class Background:
    """Runs jobs in a thread; what a job returns is called from the loop.

    A job touches nothing of the loop's side: it only makes system calls on what it was given.  The thread is made at
    once, not with the first job, and where there is none to be had (pids.max, RLIMIT_NPROC) jobs wait until there is.
    """

    def __init__(self, loop: Loop, log: Sink) -> None:
        self._loop = loop
        self._log = log
        self._jobs: queue.SimpleQueue[Job] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[Done] = queue.SimpleQueue()
        self._event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._thread: threading.Thread | None = None
        self._missed = False  # it was said that there is no thread
        self.pending = 0
        loop.add_reader(self._event, self._collect)
        self._begin()

    def submit(self, job: Job) -> None:
        """Do ``job`` in the thread. Raises JobLost when the thread has ended before it could say so."""
        if self._thread is not None and not self._thread.is_alive() and self._done.empty():
            raise JobLost("the background thread has ended")
        self.pending += 1
        self._jobs.put(job)

    def _begin(self) -> None:
        try:
            thread = threading.Thread(target=self._work_to_the_end, daemon=True)
            thread.start()
            self._thread = thread
        except (RuntimeError, MemoryError, OSError):  # "can't start new thread" is all that CPython says of EAGAIN
            if not self._missed:
                self._log(Alert(b"unable to start a thread, will try again; what needs the disk waits"))
            self._missed = True
            self._loop.call_later(AGAIN_S, self._begin)
            return
        if self._missed:
            self._log(Warn(b"the thread that was missing is there"))

    def _work_to_the_end(self) -> None:
        """A thread that has ended would leave the loop waiting for it; a program that has ended is started again."""
        try:
            self._work()
        except BaseException as error:
            try:
                self._finish(_raiser(error))
            except BaseException:
                os._exit(FAILED)

    def _finish(self, done: Done) -> None:
        self._done.put(done)
        os.eventfd_write(self._event, 1)

    def _work(self) -> None:
        while True:
            job = self._jobs.get()
            try:
                done = job()
            except BaseException as error:  # raised again in the loop, where it ends the program
                done = _raiser(error)
            self._finish(done)

    def _collect(self) -> None:
        try:
            os.eventfd_read(self._event)
        except BlockingIOError:
            return
        while not self._done.empty():
            self.pending -= 1
            self._done.get()()


class JobLost(Exception):
    """A job has not told what came of it; the loop cannot go on as if it would."""


def _raiser(error: BaseException) -> Done:
    def again() -> None:
        raise JobLost("in the background thread") from error

    return again
