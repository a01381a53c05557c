"""Programs that a parent holds in memory: one contract for spawners, tcpserver and qmail-start.

A module of pyqmail.programs with a function ``prepare(environ)`` brings into memory what its jobs need, before
identities are dropped and before workers are forked, and returns what serves them. Of any other its ``main`` serves.
"""

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module

from pyqmail.system.typed import Protocol

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyqmail.warm.held_report import HeldReport

Main = Callable[[Sequence[bytes], Mapping[bytes, bytes]], int]


class Served(Protocol):
    """A program that a parent holds in memory; each worker forked from it has its own from then on."""

    def serve(self, argv: Sequence[bytes], environ: Mapping[bytes, bytes], /) -> int:
        """One job from beginning to end; the exit code."""

    def wait(self, fd: int, /) -> None:
        """Before each wait for a job: until ``fd`` is readable, or at once if nothing else is to be waited for."""

    def close(self) -> None:
        """No more jobs: give back what was kept from one to the next."""


class Plain:
    """A program that keeps nothing from job to job."""

    def __init__(self, main: Main) -> None:
        self.serve = main

    def wait(self, fd: int, /) -> None:
        """There is nothing else to wait for."""

    def close(self) -> None:
        """There is nothing to give back."""


class Reporting(Plain):
    """The same of one that says into ``report``, after ``settle`` was called once in its worker.

    A job without a child leaves umask and signals as it has found them.
    """

    def __init__(self, main: Main, report: "HeldReport", settle: Callable[[], None]) -> None:
        super().__init__(main)
        self.report = report
        self.settle = settle


def load(module: str, environ: Mapping[bytes, bytes]) -> Served:
    """The program ``module`` in memory. Raises whatever its import raises."""
    program = import_module(module)
    prepare: Callable[[Mapping[bytes, bytes]], Served] | None = getattr(program, "prepare", None)
    return Plain(program.main) if prepare is None else prepare(environ)
