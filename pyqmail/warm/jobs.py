"""In a worker of a spawner: one job after another, each from a clean state."""

import os
import struct
from collections.abc import Mapping, Sequence

from pyqmail.control import Control
from pyqmail.system.file_cache import FileCache
from pyqmail.warm.cold import delivery_signals, restore_delivery_signals
from pyqmail.warm.served import Reporting, Served

HEAD = struct.Struct("<BBq")


def format_job(
    argv: Sequence[bytes], variables: Mapping[bytes, bytes], *, errors: bool, size: int | None = None
) -> bytes:
    """A job's payload: whether descriptor 2 is the output too, how many ``variables`` it has, what is known of the
    message's size, the variables, the arguments."""
    words = [name + b"=" + value for name, value in variables.items()]
    return HEAD.pack(errors, len(words), -1 if size is None else size) + b"\0".join([*words, *argv])


def parse_job(payload: bytes) -> tuple[bool, dict[bytes, bytes], list[bytes], int | None]:
    """What ``format_job`` was told: whether errors are wanted, the variables, the arguments, the size."""
    errors, count, size = HEAD.unpack_from(payload)
    words = payload[HEAD.size :].split(b"\0")
    variables = {name: value for name, _, value in (word.partition(b"=") for word in words[:count])}
    return bool(errors), variables, words[count:], None if size < 0 else size


class Jobs:
    """What the workers of one program do; made by their parent."""

    def __init__(self, served: Served, environ: Mapping[bytes, bytes], directory: str) -> None:
        self._served = served
        self._environ = environ
        self._directory = directory
        self._null = -1  # /dev/null, once there is a worker
        self._umask = 0

    def serve(self, payload: bytes, fds: list[int]) -> int:
        """One job; whatever escapes is temporary."""
        errors, variables, argv, _ = parse_job(payload)
        if self._null < 0:
            self._settle()
        output, message = fds[0], fds[1] if len(fds) > 1 else self._null
        for source, target in ((message, 0), (output, 1), (output if errors else self._null, 2)):
            os.dup2(source, target)
        for fd in fds:
            os.close(fd)
        try:
            return self._run(argv, variables)
        finally:
            for target in (0, 1, 2):
                os.dup2(self._null, target)
            os.umask(self._umask)
            os.chdir(self._directory)
            restore_delivery_signals()

    def _run(self, argv: Sequence[bytes], variables: Mapping[bytes, bytes]) -> int:
        try:
            return self._served.serve(argv, {**self._environ, **variables}) & 255
        except BaseException as error:  # a bug must never bounce mail
            self._complain(f"internal error: {type(error).__name__}: {error}\n".encode("utf-8", "replace"))
            return 111

    def _complain(self, text: bytes) -> None:
        try:
            os.write(2, text)
        except OSError:
            return

    def _settle(self) -> None:
        """The state in which each job begins, and to which it goes back."""
        self._null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        self._umask = os.umask(0o077)
        os.umask(self._umask)
        os.chdir(self._directory)
        Control.cache = FileCache()
        delivery_signals()


class ReportingJobs(Jobs):
    """The same for a program with a report: a job has the message, and no pipe before it has a child.

    Descriptor 0 is free between two jobs, so that the message of the next one arrives there. Signals, 1 and 2 are put
    back where there was a child.
    """

    def __init__(self, served: Reporting, environ: Mapping[bytes, bytes], directory: str) -> None:
        super().__init__(served, environ, directory)
        self._report = served.report
        self._prepare = served.settle

    def serve(self, payload: bytes, fds: list[int]) -> int:
        """One job; whatever escapes is temporary."""
        _, variables, argv, self._report.message_size = parse_job(payload)
        if self._null < 0:
            self._settle()
        if fds[0] != 0:
            os.dup2(fds[0], 0)
            os.close(fds[0])
        try:
            return self._run(argv, variables)
        finally:
            os.close(0)
            if self._report.is_open:
                for target in (1, 2):
                    os.dup2(self._null, target)
                restore_delivery_signals()
            os.chdir(self._directory)

    def _settle(self) -> None:
        super()._settle()
        self._prepare()

    def _complain(self, text: bytes) -> None:
        self._report.say(text)
