"""Runs one of qmail's per-delivery programs: in a warm worker while it is our own launcher, else by fork and exec."""

import gc
import importlib
import os
import sys
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Protocol, cast

from pyqmail import build, launch
from pyqmail.control import Control
from pyqmail.system.file_cache import FileCache
from pyqmail.system.loop import Loop
from pyqmail.system.process import become, prepare_titles
from pyqmail.system.stamp import Stamp, stamp
from pyqmail.warm.cold import NULL, Done, Program, delivery_signals, restore_delivery_signals, start_program
from pyqmail.warm.pool import Pool
from pyqmail.warm.wire import RECORD_MAX
from pyqmail.warm.worker import Wait

Identity = tuple[int, int] | None
IDLE_S = 60.0  # that an idle worker is kept
SURPLUS_S = 1.0  # where another is idle: forking one again costs 3 ms, keeping it 3 MB
PACE_S = 0.003  # about what a worker costs until it has served its first job
LOCAL_PACED_FROM = 4  # workers of one uid that are made without delay: local deliveries are short
SENDER_PACED_FROM = 8  # the same of programs that wait for other hosts
LOCAL_SHORT_S = 0.3  # what several local deliveries at once take on a busy machine
SENDER_SHORT_S = 0.15  # the same of senders
PAYLOAD_MAX = RECORD_MAX // 2
Main = Callable[[Sequence[bytes], Mapping[bytes, bytes]], int]


class ProgramModule(Protocol):
    """A module of pyqmail.programs.

    One with a class ``Sender`` is served by an object of it, which each worker keeps from job to job: its ``main`` in
    place of the module's, its ``wait`` before each wait for a job. It is one whose many workers wait for others.
    """

    __name__: str

    def main(self, argv: Sequence[bytes], environ: Mapping[bytes, bytes]) -> int:
        """Run the program and return its exit code."""


class Runner:
    """One program, such as bin/qmail-local. ``locate`` finds its file anew for each job, None when there is none.

    Which launcher was found when this was made, and the package's build file, are looked at again before each job:
    after any change the program is executed, as another implementation would be. Modules are loaded for the first job:
    a host that sends nothing needs no resolver in memory.
    """

    def __init__(
        self,
        loop: Loop,
        locate: Callable[[], str | None],
        module: str,
        environ: Mapping[bytes, bytes],
        *,
        directory: str,
        limit: int,
        setup_exit: int,
        descriptor_exit: int,
        exec_exit: int,
    ) -> None:
        self._loop = loop
        self._locate = locate
        self._environ = environ
        self._directory = directory
        self._setup_exit = setup_exit
        self._descriptor_exit = descriptor_exit
        self._exec_exit = exec_exit
        self._null = -1  # a worker's /dev/null
        self._umask = 0
        self._module = module
        self._limit = limit
        self._known = self._known_file(locate())
        self._main: Main | None = None
        self._pool: Pool | None = None

    @property
    def warm(self) -> bool:
        """Whether the next job will be served by a worker, not executed."""
        return self._workers(self._locate()) is not None

    def run(
        self,
        argv: Sequence[bytes],
        identity: Identity,
        message: int,
        output: int,
        done: Done,
        *,
        errors: bool = True,
        affinity: Hashable = None,
    ) -> Callable[[], None]:
        """Run the program as ``identity`` (uid, gid; None: as we are), owning both descriptors.

        ``message`` (or NULL) is its descriptor 0, ``output`` its 1 and, with ``errors``, its 2; ``affinity`` tells the
        pool which worker to prefer. What it returns kills the program and its descendants as long as ``done`` was not
        called. Raises OSError when it could not be started; the descriptors are then still the
        caller's.
        """
        path = self._locate()
        payload = bytes((errors,)) + b"\0".join(argv)
        fds = (output,) if message == NULL else (output, message)
        workers = self._workers(path) if len(payload) <= PAYLOAD_MAX else None
        if workers is not None:
            workers.submit(identity, payload, fds, done, affinity=affinity)
            number = workers.submitted
            return lambda: workers.stop(number)
        standard = (message, output, output if errors else NULL)
        if path is not None and launch.is_launcher(path):
            done = _temporary_without_interpreter(done)
        stop = start_program(self._loop, self._cold(path, argv, identity, standard), done)
        for fd in fds:
            os.close(fd)
        return stop

    def close(self) -> None:
        """No more jobs."""
        if self._pool is not None:
            self._pool.close()

    def _cold(
        self, path: str | None, argv: Sequence[bytes], identity: Identity, standard: tuple[int, int, int]
    ) -> Program:
        return Program(
            # relative, as scripts have always seen it; without a file the failed exec answers
            path=(path or "/nonexistent").removeprefix(self._directory + "/"),
            argv=argv,
            environ=self._environ,
            standard=standard,
            directory=self._directory,
            identity=identity,
            setup_exit=self._setup_exit,
            descriptor_exit=self._descriptor_exit,
            exec_exit=self._exec_exit,
        )

    def _known_file(self, path: str | None) -> tuple[str | None, Stamp | None, Stamp | None]:
        return path, None if path is None else stamp(path), stamp(build.__file__)

    def _workers(self, path: str | None) -> Pool | None:
        """What serves the program at ``path``, in memory from its first job on; None if it has to be executed."""
        if path is None or self._known_file(path) != self._known:
            return None
        if self._pool is None and launch.identify(path) == self._module:
            try:
                program = cast(ProgramModule, importlib.import_module(self._module))
            except Exception:  # a half-finished upgrade: execute it, and let its crash code speak
                return None
            if self._known_file(path) == self._known:
                self._main = program.main
                self._pool = self._make_pool(program)
        return self._pool

    def _make_pool(self, program: ProgramModule) -> Pool:
        wait: Wait | None = None
        paced_from, short_s, surplus_s = LOCAL_PACED_FROM, LOCAL_SHORT_S, SURPLUS_S
        if hasattr(program, "Sender"):
            sender = program.Sender()
            self._main, wait = sender.main, sender.wait
            paced_from, short_s = SENDER_PACED_FROM, SENDER_SHORT_S
            surplus_s = IDLE_S  # each may hold a connection of its own
        prepare_titles()
        gc.collect()
        gc.freeze()
        title = program.__name__.rpartition(".")[2].replace("_", "-")
        return Pool(
            self._loop,
            self._serve,
            prepare=_become_key,
            limit=self._limit,
            title=title,
            wait=wait,
            idle_s=IDLE_S,
            surplus_s=surplus_s,
            pace_s=PACE_S,
            paced_from=paced_from,
            short_s=short_s,
        )

    def _serve(self, payload: bytes, fds: list[int]) -> int:
        """In the worker: one job from a clean state; whatever escapes is temporary."""
        errors, argv = payload[0], payload[1:].split(b"\0")
        if self._null < 0:
            self._settle()
        output, message = fds[0], fds[1] if len(fds) > 1 else self._null
        for source, target in ((message, 0), (output, 1), (output if errors else self._null, 2)):
            os.dup2(source, target)
        for fd in fds:
            os.close(fd)
        assert self._main is not None
        try:
            return self._main(argv, dict(self._environ)) & 255
        except BaseException as error:  # a bug must never bounce mail
            _complain(error)
            return 111
        finally:
            for target in (0, 1, 2):
                os.dup2(self._null, target)
            os.umask(self._umask)
            os.chdir(self._directory)
            restore_delivery_signals()

    def _settle(self) -> None:
        """In a new worker: the state in which each job begins, and to which it goes back."""
        self._null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        self._umask = os.umask(0o077)
        os.umask(self._umask)
        os.chdir(self._directory)
        Control.cache = FileCache()
        delivery_signals()


def _temporary_without_interpreter(done: Done) -> Done:
    """No launcher exits with 1 by itself: then its interpreter could not start, and that must not bounce mail."""
    return lambda status: done(111 if status == 1 else status)


def _complain(error: BaseException) -> None:
    try:
        os.write(2, f"internal error: {type(error).__name__}: {error}\n".encode("utf-8", "replace"))
    except OSError:
        sys.exc_info()


def _become_key(key: Hashable) -> None:
    """Become the (uid, gid) that ``key`` is, or stay for None; anything else raises and ends the worker."""
    if key is None:
        return
    uid, gid = cast(tuple[int, int], key)
    become(uid, gid, [gid])
