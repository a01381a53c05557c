"""qmail-start: builds the daemons and the pipes between them, then is qmail-send itself (qmail-start(8)).

    pipe 0  qmail-send -> logger         pipe 3, 4  qmail-send -> qmail-rspawn -> qmail-send
    pipe 1, 2  the same for lspawn       pipe 5, 6  the same for qmail-clean

Each program is the one that PATH finds.  Where that is our own launcher it is not executed but forked: the modules are
imported once here, and the memory is shared.  Any failure after the account look-up exits 111 without a word: fd 2 is a
pipe by then.
"""

import fcntl
import gc
import os
import pwd
import signal
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module

from pyqmail.control import ControlUnreadable, home_of
from pyqmail.launch import identify
from pyqmail.policy.accounts import AccountMissing, Accounts, read_accounts
from pyqmail.policy.routing_wire import FD_VARIABLE
from pyqmail.spool.layout import Layout, read_layout
from pyqmail.system.process import HIGHEST, become, close_all_but, find_program, schedule_as_batch, set_title
from pyqmail.system.readiness import without_request

FAILED = 111
DEFAULT_DELIVERY = b"./Mailbox"
SEND = b"qmail-send"
PROGRAMS = (b"qmail-lspawn", b"qmail-rspawn", b"qmail-clean", SEND)
QUEUED = b"qmail-queued"
RCPTD = b"qmail-rcptd"
RESTART_S = 1.0  # before a qmail-queued that has died is replaced


class Start:
    """What all children need to know."""

    def __init__(self, home: str, accounts: Accounts, environ: Mapping[bytes, bytes]) -> None:
        self.home = home
        self.accounts = accounts
        self.environ = environ
        self._warm: dict[bytes, str] = {}

    def load(self) -> None:
        """Import, once and before any fork, each program that is ours."""
        for name in (*PROGRAMS, QUEUED, RCPTD):
            path = find_program(name, self.environ.get(b"PATH"))
            if name in (QUEUED, RCPTD) and path is None:
                path = f"{self.home}/bin/{name.decode()}"
            module = identify(path) if path is not None else None
            if module == "pyqmail.programs." + name.decode().replace("-", "_"):
                self._warm[name] = module
                if name != SEND:  # it forks nothing: what it alone needs would make every fork of the others dearer
                    import_module(module)
        gc.collect()
        gc.freeze()

    def run(self, argv: Sequence[bytes]) -> int:
        """Be the program ``argv[0]``: its exit code if it is ours, else it is executed. Raises OSError."""
        for signum in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT):
            signal.signal(signum, signal.SIG_DFL)  # Python's own settings are not the caller's
        module = self._warm.get(argv[0])
        if module is None:
            os.execvpe(argv[0], list(argv), dict(self.environ))
        set_title(argv[0].decode())
        return int(import_module(module).main(list(argv), self.environ))

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


def fork_child(prepare: Callable[[], None], run: Callable[[], int]) -> int:
    """The pid of a child that prepares itself and runs; whatever escapes is exit 111, never the parent's code."""
    pid = os.fork()
    if pid != 0:
        return pid
    code = FAILED
    try:
        prepare()
        code = run()
    finally:
        os._exit(code & 255)


def service_answers(layout: Layout) -> bool:
    """Whether some qmail-queued takes connections. Raises OSError without a descriptor."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as probe:
        return probe.connect_ex(layout.run_socket) == 0


def start_service(start: Start, layout: Layout) -> None:
    """Have qmail-queued kept running when none answers, by a process that outlives qmail-send as injection does.

    As root, since qmail-queued makes run/ before it becomes qmailq. Raises OSError unless that process is at work.
    """
    if service_answers(layout) or not start.known(QUEUED):
        return
    reader, writer = os.pipe()

    def prepare() -> None:
        os.setsid()
        os.chdir(layout.queue)
        close_all_but((writer,))

    try:
        fork_child(prepare, Keeper(start, layout, writer).run)
        os.close(writer)
        if not os.read(reader, 1):
            raise OSError("qmail-queued has no keeper")
    finally:
        os.close(reader)


class Keeper:
    """Starts qmail-queued again when it was killed or could not start: nobody else would. TERM ends both."""

    def __init__(self, start: Start, layout: Layout, ready: int) -> None:
        self._start = start
        self._layout = layout
        self._ready = ready
        self._child = 0
        self._ending = False

    def run(self) -> int:
        """Return once qmail-queued has ended in order, another one answers, or the queue is gone."""
        signal.signal(signal.SIGTERM, self._end)
        while self._serve() != 0 and not self._ending:
            time.sleep(RESTART_S)
            if self._answered() or not os.path.isdir(self._layout.queue):
                break
        return 0

    def _end(self, _number: int, _frame: object) -> None:
        self._ending = True
        if self._child:
            os.kill(self._child, signal.SIGTERM)

    def _answered(self) -> bool:
        try:
            return service_answers(self._layout)
        except OSError:
            return False

    def _serve(self) -> int:
        """The wait status of qmail-queued; not 0 either when it could not be forked again. Raises OSError at first."""
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])  # until we know whom to tell
        try:
            self._child = fork_child(self._prepare, lambda: self._start.run([QUEUED]))
        except OSError:
            if self._ready >= 0:
                raise
            return FAILED
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
        if self._ready >= 0:
            os.write(self._ready, b"+")
            os.close(self._ready)
            self._ready = -1
        status = os.waitpid(self._child, 0)[1]
        self._child = 0
        return status

    @staticmethod
    def _prepare() -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
        os.closerange(0, HIGHEST)
        for _ in range(3):
            os.open("/dev/null", os.O_RDWR)


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
        ([b"qmail-lspawn", delivery], None, [qmail]),
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

        fork_child(prepare, lambda argv=argv: start.run(argv))  # type: ignore[misc]
    os.dup2(1, 0)
    for target, (reader, writer) in enumerate(pipes, start=1):
        os.dup2(writer if target % 2 else reader, target)
    close_all(ends)


def start_recipient_check(start: Start) -> dict[bytes, bytes]:
    """Fork qmail-rcptd, as root since it binds its socket; what qmail-send has to know to feed it.

    Only our own qmail-send, in this very process, can: without it every recipient is accepted unasked.
    """
    if not start.warm(b"qmail-send") or not start.warm(RCPTD):
        return {}
    ours, theirs = socket.socketpair()

    def prepare() -> None:
        os.dup2(theirs.fileno(), 0)
        os.closerange(1, HIGHEST)
        for _ in range(2):
            os.open("/dev/null", os.O_RDWR)

    fork_child(prepare, lambda: start.run([RCPTD]))
    theirs.close()
    return {FD_VARIABLE: b"%d" % ours.detach()}


def main(argv: Sequence[bytes], environ: Mapping[bytes, bytes]) -> int:
    """Start everything; does not return before qmail-send ends, 111 on any failure."""
    os.chdir("/")
    os.umask(0o077)
    schedule_as_batch()
    home = home_of(environ)
    try:
        accounts, layout = read_accounts(home), read_layout(home)
    except (AccountMissing, ControlUnreadable) as error:
        os.write(2, str(error).encode() + b"\n")
        return FAILED
    try:
        fcntl.fcntl(0, fcntl.F_GETFD)
        start = Start(home, accounts, without_request(environ))
        start.load()
        start_service(start, layout)
        if not accounts.single_user:
            os.setgroups([accounts.gid_qmail])
            os.setgid(accounts.gid_qmail)
        for fd in range(2, 7):
            os.dup2(0, fd)
        if len(argv) > 2:
            start_logger(start, argv[2:])
        start_daemons(start, argv[1] if len(argv) > 1 else DEFAULT_DELIVERY)
        feed = start_recipient_check(start)
        start.take_identity(accounts.uid_send, accounts.gid_qmail, [accounts.gid_qmail])
        start.environ = {**environ, **feed}  # it alone tells systemd that it is ready, and qmail-rcptd the maps
        return start.run([b"qmail-send"])
    except Exception:  # silent by contract: fd 2 may be a pipe to a daemon
        return FAILED
