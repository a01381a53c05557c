"""A child process that reads a message and its envelope on 0 and 1, and may say in words what is wrong with it on 6."""

import os

from pyqmail.exits import CRASHED, NOT_WAITED, QueueExit

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pyqmail.intake.pipes import Pipes

ERROR_TEXT_MAX = 255  # bytes of its text that are read
ERROR_FD = {b"ERROR_FD": b"6"}  # where a program that ends with 88 writes its text, unless it is told otherwise


class Child:
    """``job`` in a child of this process, with the error pipe on ``texts``; its exit code is the answer."""

    def __init__(self, pipes: "Pipes", job: "Callable[[], int]", texts: tuple[int, ...] = (6,)) -> None:
        """Raises OSError without descriptors; without processes the answer says so."""
        self.number = 0
        self._errors, errors = os.pipe2(os.O_CLOEXEC)
        try:
            self.number = os.fork()
        except OSError:
            os.close(errors)
            pipes.passed_on()
            return
        if self.number == 0:
            code = QueueExit.BUG
            try:
                _arrange(pipes.ends, errors, texts)
                code = job()
            finally:
                os._exit(code)
        os.close(errors)
        pipes.passed_on()

    def error_text(self) -> bytes | None:
        """What came on fd 6, read to its end or 255 bytes; None under 3 bytes, which say nothing."""
        text = b""
        try:
            while len(text) < ERROR_TEXT_MAX and (data := os.read(self._errors, ERROR_TEXT_MAX - len(text))):
                text += data
        except OSError:
            pass
        self._shut()
        return text if len(text) >= 3 else None

    def status(self) -> int:
        """Its exit code, CRASHED for a signal. Waits for its end."""
        if not self.number:
            return QueueExit.NO_MEMORY  # there was never anybody to give it to
        try:
            code = os.waitstatus_to_exitcode(os.waitpid(self.number, 0)[1])
        except OSError:
            return NOT_WAITED
        return code if code >= 0 else CRASHED

    def close(self) -> None:
        """Let it end, whatever it says."""
        self._shut()
        self.status()

    def _shut(self) -> None:
        if self._errors >= 0:
            os.close(self._errors)
            self._errors = -1


def execute(pipes: "Pipes", home: str, environ: "Mapping[bytes, bytes]", program: bytes) -> Child:
    """``program`` in ``home``, in the place of qmail-queue. Raises OSError without descriptors."""

    def become() -> int:
        try:
            os.chdir(home)
        except OSError:
            return QueueExit.NO_HOME
        try:
            os.execve(program, [program], {**ERROR_FD, **environ})
        except OSError:
            return QueueExit.EXEC_FAILED

    return Child(pipes, become, (4, 6, *error_descriptor(environ)))


def write_queue(pipes: "Pipes", environ: "Mapping[bytes, bytes]", facts: bytes) -> Child:
    """Our own qmail-queue, as somebody who may write the queue. Raises OSError without descriptors."""

    def run() -> int:
        from pyqmail.control import home_of
        from pyqmail.intake.direct import queue_standard_input

        return queue_standard_input(home_of(environ), facts)

    return Child(pipes, run)


def error_descriptor(environ: "Mapping[bytes, bytes]") -> tuple[int, ...]:
    """Where $ERROR_FD says that the program writes its text, if that is one of its own to say."""
    given = environ.get(b"ERROR_FD", b"")
    return (int(given),) if given in (b"2", b"3", b"5", b"7", b"8", b"9") else ()


def _arrange(given: tuple[int, ...], errors: int, texts: tuple[int, ...]) -> None:
    """In the child: what is ``given``, message and envelope, on 0 and 1, errors on each of ``texts``, nothing else of
    the parent's but fd 2, signals as at start."""
    import fcntl

    from pyqmail.system.process import HIGHEST, reset_signals

    high = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 10) for fd in (*given, errors)]
    os.closerange(3, 10)
    for fd, target in ((high[0], 0), (high[1], 1), *((high[2], text) for text in texts)):
        os.dup2(fd, target)
    os.closerange(10, HIGHEST)
    reset_signals()
