"""A process between a program and its network: it hands on what passes in both directions, after looking at it.

The program keeps the process number and the parent; what stands between is its child (recordio(1), fixcrio(1)).
"""

import os
import select
from collections.abc import Callable, Mapping, Sequence

from pyqmail.system.process import close_all_but, execute

PIECE = 4096  # what a pipe that is ready takes without blocking

Look = Callable[[bytes], bytes]  # bytes that have come, b"" at the end; returns what to hand on


class _Way:
    """One direction: what is read here, looked at, and waits to be written there."""

    def __init__(self, source: int, target: int, look: Look) -> None:
        self.source = source
        self.target = target
        self._look = look
        self._ended = False
        self._waiting = b""

    def wanted(self) -> tuple[int, int]:
        """The descriptor to wait for and the event; (-1, 0) when this way is closed."""
        if self._waiting:
            return self.target, select.POLLOUT
        return (-1, 0) if self._ended else (self.source, select.POLLIN)

    def go(self) -> None:
        """Do what has become possible; a way whose other end has gone hands on no more."""
        if self._waiting:
            try:
                self._waiting = self._waiting[os.write(self.target, self._waiting[:PIECE]) :]
            except OSError:
                self._waiting, self._ended = b"", True
            return
        try:
            data = os.read(self.source, PIECE)
        except OSError:
            data = b""
        self._waiting = self._look(data)
        self._ended = not data

    def over(self) -> bool:
        """Whether nothing more will be handed on."""
        return self._ended and not self._waiting


def stand_between(argv: Sequence[bytes], environ: Mapping[bytes, bytes], inward: Look, outward: Look) -> None:
    """Become the program ``argv``, with a child on its way to descriptors 0 and 1.

    ``inward`` sees what goes to the program, ``outward`` what comes from it. Raises OSError if it cannot run.
    """
    to_program, from_program = os.pipe(), os.pipe()
    if os.fork() == 0:
        code = 111
        try:
            close_all_but((0, 1, 2, to_program[1], from_program[0]))
            _copy(_Way(0, to_program[1], inward), _Way(from_program[0], 1, outward))
            code = 0
        finally:
            os._exit(code)
    os.dup2(to_program[0], 0)
    os.dup2(from_program[1], 1)
    for fd in (*to_program, *from_program):
        os.close(fd)
    execute(argv, environ)


def _copy(to_program: _Way, from_program: _Way) -> None:
    """Hand on until the program has closed its output; the end of the input is handed on at once."""
    closed = False
    while not from_program.over():
        waiting: dict[int, _Way] = {}
        poll = select.poll()
        for way in (to_program, from_program):
            fd, event = way.wanted()
            if fd >= 0:
                waiting[fd] = way
                poll.register(fd, event)
        for fd, _ in poll.poll():
            waiting[fd].go()
        if to_program.over() and not closed:
            closed = True
            os.close(to_program.target)
