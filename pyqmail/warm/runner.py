"""Runs one of qmail's per-delivery programs: in a warm worker while it is our own launcher, else by fork and exec."""

import gc
import os
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass

from pyqmail import build, launch
from pyqmail.system.loop import Loop
from pyqmail.system.process import become, prepare_titles
from pyqmail.system.stamp import Glance, Stamp, stamp
from pyqmail.system.typed import cast
from pyqmail.warm.cold import NULL, Done, Program, start_program
from pyqmail.warm.collector import Output
from pyqmail.warm.jobs import Jobs, ReportingJobs, format_job
from pyqmail.warm.pool import Pool
from pyqmail.warm.served import Reporting, Served, load
from pyqmail.warm.wire import RECORD_MAX

Identity = tuple[int, int] | None
Look = Callable[[str], Stamp | None]
IDLE_S = 60.0  # that an idle worker is kept
SURPLUS_S = 5.0  # where another is idle: forking one again costs 3 ms, keeping it 3 MB
PACE_S = 0.003  # about what a worker costs until it has served its first job
PAYLOAD_MAX = RECORD_MAX // 2
NOTHING: Mapping[bytes, bytes] = {}


@dataclass(frozen=True, slots=True)
class Pacing:
    """How the workers of one program come and go (warm/pool)."""

    paced_from: int  # workers of one uid that are made without delay
    short_s: float  # what several jobs at once take on a busy machine
    surplus_s: float  # that an idle one is kept beside another
    at_once: int = 1  # made in one go while new uids are many


LOCAL = Pacing(paced_from=4, short_s=0.3, surplus_s=SURPLUS_S, at_once=8)  # local deliveries are short
SENDERS = Pacing(paced_from=8, short_s=0.15, surplus_s=IDLE_S)  # they wait for others, each may hold a connection


class Runner:
    """One program, such as bin/qmail-local. ``locate`` finds its file anew for each job, None when there is none.

    Which launcher was found when this was made, and a build file that may be replaced, are looked at again before each
    job, by ``glance`` where several were asked for together: after any change the program is executed, as another
    implementation would be. Modules are loaded for the first job: a host that sends nothing needs no resolver in
    memory.
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
        pacing: Pacing = LOCAL,
        glance: Glance | None = None,
    ) -> None:
        self._loop = loop
        self._locate = locate
        self._environ = environ
        self._directory = directory
        self._setup_exit = setup_exit
        self._descriptor_exit = descriptor_exit
        self._exec_exit = exec_exit
        self._pacing = pacing
        self._glance = glance or Glance()
        self._module = module
        self._limit = limit
        self._build = replaceable_build()
        self._known = self._known_file(locate(), stamp)
        self._pool: Pool | None = None
        self._reporting = False  # the pool's program says into a report

    @property
    def warm(self) -> bool:
        """Whether the next job will be served by a worker, not executed."""
        return self._workers(self._locate()) is not None

    def run(
        self,
        argv: Sequence[bytes],
        identity: Identity,
        message: int,
        output: Output,
        done: Done,
        *,
        errors: bool = True,
        affinity: Hashable = None,
        variables: Mapping[bytes, bytes] = NOTHING,
        size: int | None = None,
    ) -> Callable[[], None]:
        """Run the program as ``identity`` (uid, gid; None: as we are), owning ``message``.

        ``message`` (or NULL), of ``size`` bytes where that is known, is its descriptor 0, the pipe of ``output`` its 1
        and, with ``errors``, its 2; without a pipe a worker tells what its program has said. ``affinity`` tells the
        pool which worker to prefer, ``variables`` are this job's alone, beside the environment. What it returns kills
        the program and its descendants as long as ``done`` was not called. Raises OSError when it could not be started;
        ``message`` is then still the caller's.
        """
        path = self._locate()
        payload = format_job(argv, variables, errors=errors, size=size)
        workers = self._workers(path) if len(payload) <= PAYLOAD_MAX else None
        if workers is not None and self._reporting and message != NULL:
            workers.submit(identity, payload, (message,), done, affinity=affinity, output=output)
            number = workers.submitted
            return lambda: workers.stop(number)
        pipe = output.open()
        try:
            if workers is not None:
                fds = (pipe,) if message == NULL else (pipe, message)
                workers.submit(identity, payload, fds, done, affinity=affinity)
                number = workers.submitted
                return lambda: workers.stop(number)
            standard = (message, pipe, pipe if errors else NULL)
            environ = {**self._environ, **variables} if variables else self._environ
            if path is not None and launch.is_launcher(path):
                done = _temporary_without_interpreter(done)
            stop = start_program(self._loop, self._cold(path, argv, environ, identity, standard), done)
        except OSError:
            os.close(pipe)
            raise
        for fd in standard[:2]:
            if fd != NULL:
                os.close(fd)
        return stop

    def close(self) -> None:
        """No more jobs."""
        if self._pool is not None:
            self._pool.close()

    def _cold(
        self,
        path: str | None,
        argv: Sequence[bytes],
        environ: Mapping[bytes, bytes],
        identity: Identity,
        standard: tuple[int, int, int],
    ) -> Program:
        return Program(
            # relative, as scripts have always seen it; without a file the failed exec answers
            path=(path or "/nonexistent").removeprefix(self._directory + "/"),
            argv=argv,
            environ=environ,
            standard=standard,
            directory=self._directory,
            identity=identity,
            setup_exit=self._setup_exit,
            descriptor_exit=self._descriptor_exit,
            exec_exit=self._exec_exit,
        )

    def _known_file(self, path: str | None, look: Look) -> tuple[str | None, Stamp | None, Stamp | None]:
        return path, None if path is None else look(path), None if self._build is None else look(self._build)

    def _workers(self, path: str | None) -> Pool | None:
        """What serves the program at ``path``, in memory from its first job on; None if it has to be executed."""
        if path is None or self._known_file(path, self._glance.stamp) != self._known:
            return None
        if self._pool is None and launch.identify(path) == self._module:
            try:
                served = load(self._module, self._environ)
            except Exception:  # a half-finished upgrade: execute it, and let its crash code speak
                return None
            if self._known_file(path, stamp) == self._known:
                self._pool = self._make_pool(served)
        return self._pool

    def _make_pool(self, served: Served) -> Pool:
        jobs, report = Jobs(served, self._environ, self._directory), None
        if isinstance(served, Reporting):
            jobs, report = ReportingJobs(served, self._environ, self._directory), served.report
            self._reporting = True
        prepare_titles()
        gc.collect()
        gc.freeze()
        return Pool(
            self._loop,
            jobs.serve,
            prepare=_become_key,
            limit=self._limit,
            title=self._module.rpartition(".")[2].replace("_", "-"),
            wait=served.wait,
            idle_s=IDLE_S,
            surplus_s=self._pacing.surplus_s,
            pace_s=PACE_S,
            paced_from=self._pacing.paced_from,
            short_s=self._pacing.short_s,
            at_once=self._pacing.at_once,
            report=report,
        )


def replaceable_build() -> str | None:
    """The build file, where another build would be written over this one, as in a checkout.

    None for an installed copy: its directory is named for its build, another one lies beside it (admin/package), and
    the launchers say which is in force.
    """
    directory = os.path.dirname(os.path.dirname(os.path.abspath(build.__file__)))
    return None if os.path.basename(directory) == f"pyqmail-{build.BUILD_ID}" else build.__file__


def _temporary_without_interpreter(done: Done) -> Done:
    """No launcher exits with 1 by itself: then its interpreter could not start, and that must not bounce mail."""
    return lambda status: done(111 if status == 1 else status)


def _become_key(key: Hashable) -> None:
    """Become the (uid, gid) that ``key`` is, or stay for None; anything else raises and ends the worker."""
    if key is None:
        return
    uid, gid = cast(tuple[int, int], key)
    become(uid, gid, [gid])
