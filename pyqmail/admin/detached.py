"""Programs kept without a supervisor: started detached by python-daemon, their output sent to syslog by splogger.

What is remembered is the pid and the kernel's start time of the process, so that a pid that was given to another
process is never signalled. As root that is kept in /run, where only root writes: HOME/run belongs to qmailq.
"""

import os
import select
import signal
import stat
import subprocess

RUN = "/run/pyqmail"
STOP_S = 30.0


class KeeperTrouble(Exception):
    """Why it was not started, stopped or signalled."""


def start_time(pid: int) -> str | None:
    """When the kernel started ``pid``, in its own ticks; None when there is no such process, or only its remains."""
    try:
        with open(f"/proc/{pid}/stat", encoding="latin-1") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in ("Z", "X") else fields[19]


class Keeper:
    """One kept program of one home."""

    def __init__(self, home: str, name: str) -> None:
        self.home = home
        self.name = name
        self._directory = f"{RUN}{home.replace('/', '_')}" if os.geteuid() == 0 else f"{home}/run"
        self._file = f"{self._directory}/{name}.pid"

    def pid(self) -> int | None:
        """The pid if it runs."""
        try:
            with open(self._file, encoding="ascii") as file:
                number, _, ticks = file.read().strip().partition(" ")
        except OSError:
            return None
        return int(number) if number.isdigit() and start_time(int(number)) == ticks else None

    def signal(self, signum: int) -> None:
        """Send a signal. Raises KeeperTrouble when it does not run."""
        pid = self.pid()
        if pid is None:
            raise KeeperTrouble("is not running")
        try:
            os.kill(pid, signum)
        except ProcessLookupError:
            raise KeeperTrouble("is not running") from None

    def stop(self) -> None:
        """TERM and CONT, and wait for its end. Raises KeeperTrouble when it does not end."""
        pid = self.pid()
        if pid is None:
            return
        try:
            handle = os.pidfd_open(pid)
        except ProcessLookupError:
            return
        try:
            if self.pid() != pid:
                return
            try:
                signal.pidfd_send_signal(handle, signal.SIGTERM)
                signal.pidfd_send_signal(handle, signal.SIGCONT)
            except ProcessLookupError:
                pass  # it has ended already
            if not select.select([handle], [], [], STOP_S)[0]:
                raise KeeperTrouble(f"pid {pid} still runs; it finishes its deliveries first")
        finally:
            os.close(handle)
        os.unlink(self._file)

    def start(self, script: str) -> None:
        """Run ``script`` in the background unless it runs already. Raises KeeperTrouble."""
        if self.pid() is not None:
            return
        self._own_directory()
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                os.close(reader)
                self._detach(script, writer)
            finally:
                os._exit(111)
        os.close(writer)
        os.waitpid(child, 0)
        with os.fdopen(reader, "rb") as answer:
            problem = answer.read().decode(errors="replace")
        if problem or self.pid() is None:
            raise KeeperTrouble(problem or "ended at once; the log says why")

    def _own_directory(self) -> None:
        """Make the directory, or refuse one that somebody else could write. Raises KeeperTrouble."""
        for path in (RUN, self._directory) if os.geteuid() == 0 else (self._directory,):
            try:
                os.mkdir(path, 0o755)
            except FileExistsError:
                pass
            except OSError as error:
                raise KeeperTrouble(f"{path}: {error.strerror}") from error
            status = os.lstat(path)
            if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o022:
                raise KeeperTrouble(f"{path} is not a directory that only {os.geteuid()} can write")

    def _detach(self, script: str, answer: int) -> None:
        """In the child: leave the session of the caller, start the logger, become the program."""
        import daemon

        with daemon.DaemonContext(files_preserve=[answer], umask=0o022, working_directory="/"):
            os.set_inheritable(answer, False)
            try:
                logger = subprocess.Popen(
                    [f"{self.home}/bin/splogger", self.name], stdin=subprocess.PIPE, close_fds=True, env={}
                )
                assert logger.stdin is not None
                for fd in (1, 2):
                    os.dup2(logger.stdin.fileno(), fd)
                os.set_inheritable(0, True)  # /dev/null, which got that number by close-on-exec open
                with open(self._file + ".new", "w", encoding="ascii") as file:
                    file.write(f"{os.getpid()} {start_time(os.getpid())}\n")
                os.replace(self._file + ".new", self._file)
                for signum in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT, signal.SIGTERM):
                    signal.signal(signum, signal.SIG_DFL)
                environ = {
                    "PATH": f"{self.home}/bin:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
                    "QMAIL_HOME": self.home,
                }
                os.execve(script, [script], environ)
            except OSError as error:
                os.write(answer, f"{error.filename}: {error.strerror}".encode())
