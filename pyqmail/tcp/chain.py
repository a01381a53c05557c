"""Which command lines tcpserver serves from memory: our own programs, one after another, as they were at its start.

`rblsmtpd -r BASE qmail-smtpd` is a chain of two links. Each names a launcher that PATH found; as long as each launcher
is the very file it was, a worker runs the modules in its own process. Any change, and any other program in the chain,
means that the whole command line is executed, as ucspi-tcp does it.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib import import_module

from pyqmail.launch import identify
from pyqmail.system.stamp import Seen
from pyqmail.warm.served import Served, load
from pyqmail.warm.successors import DEFAULT_PATH, Successors

# What serves one connection after another in one process, and what gets a process for each: it sees passwords, and
# changes its uid.
POOLED = ("pyqmail.programs.qmail_smtpd", "pyqmail.programs.qmail_qmtpd", "pyqmail.programs.qmail_qmqpd")
FORKED = ("pyqmail.programs.qmail_popup",)
SCREEN = "pyqmail.programs.rblsmtpd"
# What goes on as another program: how many words of its command line stand before that.
BEFORE_NEXT = {"pyqmail.programs.qmail_popup": 2, "pyqmail.programs.checkpassword": 1}
# What a child may go on as from memory, and what an escape from it exits with, as in admin/catalogue.
FOLLOWING = {"pyqmail.programs.checkpassword": 111, "pyqmail.programs.qmail_pop3d": 0}

Step = Callable[[Mapping[bytes, bytes]], int | None]  # None: go on with the next program


class Chain:
    """The programs of one command line; ``pooled`` when one process may serve many connections."""

    def __init__(self, steps: Sequence[Step], *, seen: Seen, pooled: bool, path: bytes) -> None:
        self._steps = tuple(steps)
        self._seen = seen
        self._path = path
        self.pooled = pooled

    def unchanged(self, environ: Mapping[bytes, bytes]) -> bool:
        """Whether executing the command line with ``environ`` would run the same programs."""
        if len(self._steps) > 1 and environ.get(b"PATH", DEFAULT_PATH) != self._path:
            return False  # a rule has set PATH: the first program would find others by it
        return self._seen.unchanged()

    def run(self, environ: dict[bytes, bytes]) -> int:
        """Serve the connection on descriptors 0 and 1; the exit code."""
        for step in self._steps:
            code = step(environ)
            if code is not None:
                return code
        return 0


def find_chain(command: Sequence[bytes], environ: Mapping[bytes, bytes]) -> Chain | None:
    """The chain of ``command`` with everything it needs in memory; None if it has to be executed."""
    path = environ.get(b"PATH", DEFAULT_PATH)
    steps: list[Step] = []
    seen = Seen()
    while command:
        module = _locate(command[0], path, seen)
        if module in POOLED or module in FORKED:
            steps.append(_last_step(load(module, environ), command))
            Successors.inherited = successors_of(module, command, path)
            return Chain(steps, seen=seen, pooled=module in POOLED, path=path)
        if module != SCREEN:
            return None
        found = import_module(SCREEN).screen(command)
        if found is None:
            return None
        step, command = found
        steps.append(step)
    return None


def successors_of(module: str | None, command: Sequence[bytes], path: bytes) -> Successors | None:
    """What ``module`` goes on as by its ``command``, as far as that is ours; it is in memory then."""
    successors = None
    while module in BEFORE_NEXT and (command := command[BEFORE_NEXT[module] :]):
        seen = Seen()
        module = _locate(command[0], path, seen)
        if module not in FOLLOWING:
            break
        successors = successors or Successors(path)
        successors.add(command[0], import_module(module).main, FOLLOWING[module], seen)
    return successors


def _last_step(served: Served, command: Sequence[bytes]) -> Step:
    return partial(served.serve, tuple(command))


def _locate(name: bytes, path: bytes, seen: Seen) -> str | None:
    """The module of the launcher that ``name`` runs; notes in ``seen`` every file that could change the answer."""
    folders = [b""] if b"/" in name else path.split(b":")
    for folder in folders:
        candidate = os.path.abspath(os.fsdecode(name if b"/" in name else (folder or b".") + b"/" + name))
        if seen.look(candidate):
            return identify(candidate) if os.access(candidate, os.X_OK) else None
    return None
