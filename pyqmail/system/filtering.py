"""A filter: a program whose output we take over, bounded in time and bytes. No mail words, light imports.

It is a process group of its own. What it has written counts once it has ended, though its own children may write on.
"""

import fcntl
import os
import select
import signal
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

CHUNK = 65536
LOW = 10  # what a program may find open lies below


class Overrun(Exception):
    """The program was ended, since it took too long or wrote too much: the text says which."""


class Output:
    """What the program writes to its descriptor ``target``: up to ``most`` bytes go to the file ``sink``.

    The rest is an Overrun, unless ``cut``: then it is read and thrown away.
    """

    __slots__ = ("cut", "most", "sink", "target")

    def __init__(self, target: int, sink: int, most: int, *, cut: bool = False) -> None:
        self.target = target
        self.sink = sink
        self.most = most
        self.cut = cut

    def take(self, source: int) -> bool:
        """Move what ``source`` has; False at its end. Raises BlockingIOError, Overrun and OSError."""
        data = os.read(source, CHUNK)
        kept = data[: self.most]
        if len(kept) < len(data) and not self.cut:
            raise Overrun("writes too much")
        self.most -= len(kept)
        while kept:
            kept = kept[os.write(self.sink, kept) :]
        return bool(data)


def run_filter(
    words: "Sequence[bytes]",
    environ: "Mapping[bytes, bytes]",
    inputs: "Mapping[int, int]",
    outputs: "Sequence[Output]",
    within_s: float,
) -> int:
    """The exit code of a program found by PATH, negative if a signal killed it.

    ``inputs`` are the files that it finds on each descriptor, from their beginning. Raises Overrun, and OSError where
    it cannot be run or what it wrote cannot be kept.
    """
    until = time.monotonic() + within_s
    reading: dict[int, Output] = {}
    sources: list[int] = []
    try:
        actions = []
        for target, file in inputs.items():
            os.lseek(file, 0, os.SEEK_SET)
            sources.append(fcntl.fcntl(file, fcntl.F_DUPFD_CLOEXEC, LOW))
            actions.append((os.POSIX_SPAWN_DUP2, sources[-1], target))
        for output in outputs:
            ends = os.pipe2(os.O_CLOEXEC)
            reading[fcntl.fcntl(ends[0], fcntl.F_DUPFD_CLOEXEC, LOW)] = output
            sources.append(fcntl.fcntl(ends[1], fcntl.F_DUPFD_CLOEXEC, LOW))
            actions.append((os.POSIX_SPAWN_DUP2, sources[-1], output.target))
            for end in ends:
                os.close(end)
        child = os.posix_spawnp(
            words[0], list(words), environ, file_actions=actions, setpgroup=0,
            setsigdef=(signal.SIGPIPE, signal.SIGXFSZ),
        )  # fmt: skip
    except BaseException:
        _close(reading)
        raise
    finally:
        _close(sources)
    try:
        _watch(child, reading, until)
    except BaseException:
        os.killpg(child, signal.SIGKILL)
        os.waitpid(child, 0)
        raise
    finally:
        _close(reading)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _watch(child: int, reading: "Mapping[int, Output]", until: float) -> None:
    """Take what comes until ``child`` has ended. Raises Overrun and OSError."""
    watch = os.pidfd_open(child)
    try:
        poll = select.poll()
        poll.register(watch, select.POLLIN)
        for source in reading:
            os.set_blocking(source, False)
            poll.register(source, select.POLLIN)
        open_ones = set(reading)
        ended = False
        while not ended:
            left_s = until - time.monotonic()
            ready = poll.poll(left_s * 1000) if left_s > 0 else []
            if not ready:
                raise Overrun("takes too long")
            ended = any(fd == watch for fd, _ in ready)
            for source in tuple(open_ones):
                if not _drain(source, reading[source], until):
                    poll.unregister(source)
                    open_ones.remove(source)
    finally:
        os.close(watch)


def _drain(source: int, output: Output, until: float) -> bool:
    """Take what is there now; False at the end of ``source``. Raises Overrun and OSError."""
    try:
        while output.take(source):
            if time.monotonic() > until:
                raise Overrun("takes too long")
    except BlockingIOError:
        return True
    return False


def _close(descriptors: "Sequence[int] | Mapping[int, Output]") -> None:
    for fd in descriptors:
        os.close(fd)
