"""How qmail-start makes the processes around qmail-send: logger, daemons and supervisor, each on its pipes.

Each program is the one that PATH finds.  Where that is our own launcher it is not executed but forked: the modules are
imported once here, and the memory is shared.
"""

import gc
import os
import pwd
import signal
import socket
from collections.abc import Mapping, Sequence
from importlib import import_module

from pyqmail.launch import identify
from pyqmail.log.bugs import tell_bug
from pyqmail.policy.accounts import Accounts
from pyqmail.protocol.supervision import FD_VARIABLE
from pyqmail.spool.layout import Layout
from pyqmail.system.process import (
    become,
    close_all_but,
    default_signals,
    find_program,
    fork_child,
    plug_standard_descriptors,
    prepare_titles,
    set_title,
)
from pyqmail.warm.helper_process import SIGNALS
from pyqmail.warm.served import load
from pyqmail.warm.supervised import HELPERS
from pyqmail.warm.supervisor import Supervisor, wanted_helpers

SEND = b"qmail-send"
LSPAWN = b"qmail-lspawn"
PROGRAMS = (b"qmail-rspawn", b"qmail-clean", SEND)
QUEUED = b"qmail-queued"
FAILED = 111
IN_WORKERS = {LSPAWN: ("pyqmail.programs.qmail_local", "pyqmail.programs.qmail_getpw")}  # what each one's workers run


class Start:
    """What all children need to know."""

    def __init__(self, home: str, accounts: Accounts, environ: Mapping[bytes, bytes]) -> None:
        self.home = home
        self.accounts = accounts
        self.environ = environ
        self._warm: dict[bytes, str] = {}

    def load(self) -> None:
        """Import, before the first fork, so that all share it, each of the programs that is ours."""
        for name in (LSPAWN, *PROGRAMS, *(helper.name for helper in HELPERS if helper.configured(self.home))):
            path = find_program(name, self.environ.get(b"PATH"))
            if path is None and name not in (LSPAWN, *PROGRAMS):
                path = f"{self.home}/bin/{name.decode()}"
            module = identify(path) if path is not None else None
            if module == "pyqmail.programs." + name.decode().replace("-", "_"):
                self._warm[name] = module
                if name != SEND:  # it forks nothing: what it alone needs would make every fork of the others dearer
                    import_module(module)
                for module in IN_WORKERS.get(name, ()):
                    import_module(module)
        prepare_titles()
        gc.collect()
        gc.freeze()

    def run(self, argv: Sequence[bytes]) -> int:
        """Be the program ``argv[0]``: its exit code if it is ours, else it is executed. Raises OSError."""
        default_signals(signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT)  # Python's own settings are not the caller's
        module = self._warm.get(argv[0])
        if module is None:
            os.execvpe(argv[0], list(argv), dict(self.environ))
        set_title(argv[0].decode())
        return load(module, self.environ).serve(list(argv), self.environ)

    def run_in_silence(self, argv: Sequence[bytes]) -> int:
        """As `run`, for a program that has no log: syslog hears of what escapes from it, which is exit 111."""
        try:
            return self.run(argv)
        except BaseException as error:
            tell_bug(os.fsdecode(argv[0]), error)
            return FAILED

    def warm(self, name: bytes) -> bool:
        """Whether ``name`` is our own program, served from memory."""
        return name in self._warm

    def known(self, name: bytes) -> bool:
        """Whether there is a program ``name`` to run."""
        return name in self._warm or find_program(name, self.environ.get(b"PATH")) is not None

    def take_identity(self, uid: int, gid: int, groups: Sequence[int]) -> None:
        """Become a user, unless the whole tree is one user's. Raises OSError."""
        if not self.accounts.single_user:
            become(uid, gid, groups)


def start_supervisor(start: Start, layout: Layout) -> dict[bytes, bytes]:
    """Fork the supervisor, which outlives qmail-send as injection does; what qmail-send has to know to hear of it.

    As root, since helpers make and bind their sockets before they become others. Only our own qmail-send, in this very
    process, can tell qmail-rcptd the maps: without it every recipient is accepted unasked. Raises OSError unless the
    supervisor is at work.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    reader, writer = os.pipe()
    told = start.warm(SEND)

    def known(name: bytes) -> bool:
        return start.warm(name) if name != QUEUED else start.known(name)

    def prepare() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        os.setsid()
        os.chdir(layout.queue)
        close_all_but((writer, theirs.fileno()))
        plug_standard_descriptors()
        if not told:
            theirs.close()

    def run() -> int:
        wanted = wanted_helpers(start.home, known, told=told)
        return Supervisor(start.home, layout.queue, start.run, wanted, theirs.detach()).run(writer)

    fork_child(prepare, run)
    close_all((writer, theirs.detach()))
    if not os.read(reader, 1):
        raise OSError("the helpers have no supervisor")
    os.close(reader)
    return {FD_VARIABLE: b"%d" % ours.detach()} if told else {}


def start_logger(start: Start, logger: Sequence[bytes]) -> None:
    """Fork the logger and put the write end of its pipe on fd 1."""
    reader, writer = os.pipe()
    accounts = start.accounts

    def prepare() -> None:
        start.take_identity(accounts.uid_log, accounts.gid_nofiles, [accounts.gid_nofiles])
        os.dup2(reader, 0)
        os.closerange(2, 7)
        close_all((reader, writer))

    fork_child(prepare, lambda: start.run(logger))
    os.dup2(writer, 1)
    close_all((reader, writer))


def close_all(fds: Sequence[int]) -> None:
    """Close each of ``fds``."""
    for fd in fds:
        os.close(fd)


def remote_groups(accounts: Accounts) -> list[int]:
    """All groups of qmailr, and qmail."""
    try:
        name = pwd.getpwuid(accounts.uid_remote).pw_name
    except KeyError:
        return [accounts.gid_qmail]
    return os.getgrouplist(name, accounts.gid_qmail)


def start_daemons(start: Start, delivery: bytes) -> None:
    """Fork the three daemons on six pipes, and lay our own descriptors out as qmail-send's. Raises OSError."""
    accounts = start.accounts
    qmail = accounts.gid_qmail
    pipes = [os.pipe() for _ in range(6)]
    ends = [fd for pair in pipes for fd in pair]
    daemons: tuple[tuple[list[bytes], int | None, list[int]], ...] = (
        ([LSPAWN, delivery], None, [qmail]),
        ([b"qmail-rspawn"], accounts.uid_remote, remote_groups(accounts)),
        ([b"qmail-clean"], accounts.uid_queue, [qmail]),
    )
    for index, (argv, uid, groups) in enumerate(daemons):
        commands, reports = pipes[2 * index][0], pipes[2 * index + 1][1]

        def prepare(
            commands: int = commands, reports: int = reports, uid: int | None = uid, groups: list[int] = groups
        ) -> None:
            if uid is not None:
                start.take_identity(uid, qmail, groups)
            os.dup2(commands, 0)
            os.dup2(reports, 1)
            os.closerange(2, 7)
            close_all(ends)

        fork_child(prepare, lambda argv=argv: start.run_in_silence(argv))  # type: ignore[misc]
    os.dup2(1, 0)
    for target, (reader, writer) in enumerate(pipes, start=1):
        os.dup2(writer if target % 2 else reader, target)
    close_all(ends)
