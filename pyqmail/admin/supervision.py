"""What runs of a tree and what does not: the supervisor, its helpers, and the build of each process."""

import errno
import os
import signal
import socket
import time
from collections.abc import Iterator

from pyqmail.build import BUILD_ID
from pyqmail.spool.layout import Layout
from pyqmail.system import processes
from pyqmail.warm.succession import TITLE, is_left_behind, serving, supervisors
from pyqmail.warm.supervised import HELPERS, Helper, answers, ask_build

END_S = 30.0  # that a supervisor may take to end; its helpers have less
TURN_S = 0.05


def qmail_send_runs(home: str) -> bool:
    """Whether a qmail-send of ``home`` runs, as far as we may know: who may not ask it hears yes."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(1)
        return sock.connect_ex(Layout(home, 1).send_socket) in (0, errno.EACCES)


def missing(home: str) -> list[Helper]:
    """The helpers that do not run though qmail-send does and they are wanted."""
    if not qmail_send_runs(home):
        return []
    return [helper for helper in HELPERS if helper.used(home) and not _answers(home, helper)]


def missing_lines(home: str) -> Iterator[str]:
    """A line for each of them."""
    for helper in missing(home):
        yield f"{helper.name.decode()}: does not run: {helper.loss}"


def _answers(home: str, helper: Helper) -> bool:
    try:
        return answers(home, helper)
    except OSError:
        return True  # not known


def helper_lines(home: str) -> Iterator[str]:
    """The supervisor and each helper that runs or is missed: who keeps it."""
    keepers = supervisors(home, f"{home}/queue")
    for keeper in keepers:
        yield f"{TITLE}: runs (pid {keeper.pid})"
    for helper in HELPERS:
        process = serving(home, helper) if helper.kind == socket.SOCK_SEQPACKET else _child(keepers, helper)
        if process is not None:
            yield f"{helper.name.decode()}: runs (pid {process.pid}{_kept_by(process, keepers)})"
    yield from missing_lines(home)


def _child(keepers: list[processes.Process], helper: Helper) -> processes.Process | None:
    """The process of ``helper`` among the children of its supervisor."""
    pids = {keeper.pid for keeper in keepers}
    found = (p for p in processes.all_processes() if p.parent in pids and p.name == helper.name.decode())
    return next(found, None)


def _kept_by(process: processes.Process, keepers: list[processes.Process]) -> str:
    if process.parent in {keeper.pid for keeper in keepers}:
        return f", kept by {TITLE}"
    return ", left behind by a qmail-start" if is_left_behind(process) else ""


def build_lines(home: str) -> Iterator[str]:
    """For each build that is in some process of the tree: what runs from it. Only root sees everybody's."""
    tree = os.path.realpath(home)
    found: dict[str, dict[str, list[int]]] = {}
    for process in processes.all_processes():
        runs_from = processes.build_of(process.pid)
        if runs_from is not None and runs_from[0] == tree and process.pid != os.getpid():
            found.setdefault(runs_from[1], {}).setdefault(process.name.rpartition("/")[2], []).append(process.pid)
    service = ask_build(home)
    if service is not None and service not in found:
        found[service] = {HELPERS[0].name.decode(): []}
    for build, names in sorted(found.items(), key=lambda item: item[0] != BUILD_ID):
        which = "installed" if build == BUILD_ID else "NOT the one that is installed"
        yield f"build {build} ({which}): " + ", ".join(
            name + (f" ({' '.join(map(str, pids))})" if pids else "") for name, pids in names.items()
        )


def left_over(home: str) -> list[processes.Process]:
    """What an earlier qmail-start has left running: supervisors, and a qmail-queued without one."""
    found = supervisors(home, f"{home}/queue")
    process = serving(home, HELPERS[0])
    if process is not None and is_left_behind(process):
        found.append(process)
    return found


def end(process: processes.Process) -> bool:
    """TERM to ``process``; whether it has ended."""
    processes.send_signal(process, signal.SIGTERM)
    until = time.monotonic() + END_S
    while time.monotonic() < until:
        now = processes.look(process.pid)
        if now is None or now.ticks != process.ticks:
            return True
        time.sleep(TURN_S)
    return False
