"""An installed tree under test: real users, real processes, started and ended by pid."""

import atexit
import hashlib
import mailbox
import os
import pwd
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from pyqmail.warm.supervised import HELPERS, answers
from tests.programs.tcp_servers import gone
from tests.waiting import wait_for

ROOT = Path(__file__).resolve().parents[2]


def hold_deliveries(user: str) -> tuple[Path, Path]:
    """Let mail to ``user``-hold wait: the FIFO that lets it go, and the one in which its qmail-local's pid comes."""
    entry = ensure_user(user)
    home = Path(entry.pw_dir)
    gate, started = home / "gate", home / "started"
    for path in (gate, started):
        path.unlink(missing_ok=True)
        os.mkfifo(path, 0o600)
        os.chown(path, entry.pw_uid, entry.pw_gid)
    (home / ".qmail-hold").write_text(f"|echo $PPID > {started}; cat {gate}\n./Maildir/\n")
    os.chown(home / ".qmail-hold", entry.pw_uid, entry.pw_gid)
    return gate, started


def own_user(name: str) -> str:
    """The name of an account of this run of the tests alone: another run on the machine has its own mailbox."""
    return f"{name}{os.getpid()}"


def ensure_user(name: str) -> pwd.struct_passwd:
    """The account ``name``, made with a home below /home if it does not exist; one of this run goes with it."""
    try:
        return pwd.getpwnam(name)
    except KeyError:
        subprocess.run(["useradd", "-m", "-d", f"/home/{name}", "-s", "/bin/sh", name], check=True)
        if name.endswith(str(os.getpid())):
            atexit.register(_remove_user, name, os.getpid())
        return pwd.getpwnam(name)


def _remove_user(name: str, run: int) -> None:
    if os.getpid() == run:  # children of the tests end too
        subprocess.run(["userdel", "-f", "-r", name], check=False, capture_output=True)


def install(home: Path, **controls: str) -> None:
    """Put a tree with the real users into ``home`` by bin/qmail-setup and write its control files."""
    environ = dict(os.environ, QMAIL_HOME=str(home))
    subprocess.run([ROOT / "bin" / "qmail-setup"], check=True, env=environ, stdout=subprocess.DEVNULL)
    alias = Path(pwd.getpwnam("alias").pw_dir)  # the account's home, wherever the tree under test lies
    alias.mkdir(parents=True, exist_ok=True)
    alias.parent.chmod(0o755)
    for name, text in controls.items():
        path = home / "control" / name
        path.write_text(text)
        path.chmod(0o644)


class MailHost:
    """One tree, its daemons and its SMTP port; ``prefix`` runs everything inside a network namespace."""

    def __init__(self, home: Path, prefix: tuple[str, ...] = (), listen: str = "127.0.0.1", port: int = 0) -> None:
        self.home = home
        self.prefix = prefix
        self.listen = listen
        self.port = port
        self.started: list[subprocess.Popen[bytes]] = []
        self.log = home / "test.log"

    def environ(self) -> dict[str, str]:
        """What a supervisor gives: a PATH that finds the tree's programs."""
        return {"PATH": f"{self.home}/bin:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"}

    def start_delivery(self, default: str = "./Maildir/") -> subprocess.Popen[bytes]:
        """qmail-start, logging to a file; its helpers can be asked."""
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                [*self.prefix, str(self.home / "bin" / "qmail-start"), default],
                env=self.environ(),
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.started.append(process)
        wait_for(lambda: b"status" in self.log.read_bytes(), "the first status line")
        home = str(self.home)
        for helper in HELPERS:  # a door that cannot ask qmail-rcptd yet takes everybody, and so on
            if helper.configured(home):
                wait_for(lambda helper=helper: answers(home, helper), helper.name.decode())  # type: ignore[misc]
        return process

    def start_smtp(self, program: str | None = None, *options: str, **environ: str) -> None:
        """A tcpserver (the tree's own unless told otherwise) in front of qmail-smtpd, with more ``options``."""
        entry = pwd.getpwnam("qmaild")
        server = program or str(self.home / "bin" / "tcpserver")
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                [*self.prefix, server, "-1", "-H", "-R", "-l", "0", "-c", "100", "-u", str(entry.pw_uid)]
                + [
                    "-g",
                    str(entry.pw_gid),
                    *options,
                    self.listen,
                    str(self.port),
                    str(self.home / "bin" / "qmail-smtpd"),
                ],
                env=self.environ() | environ,
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )
        self.started.append(process)
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.strip().isdigit(), f"tcpserver printed {line!r}; log: {self.log.read_text()[-500:]}"
        self.port = int(line)

    def pids(self) -> list[int]:
        """Every process of this host: those started, all their descendants, and a queue service that outlived them."""
        parents = {}
        found = {process.pid for process in self.started if process.poll() is None}  # else another's by now
        for entry in os.listdir("/proc"):
            if entry.isdigit():
                try:
                    stat = Path(f"/proc/{entry}/stat").read_text()
                except OSError:
                    continue
                parents[int(entry)] = int(stat.rpartition(")")[2].split()[1])
                if int(entry) != os.getpid() and Path(_directory(int(entry))).is_relative_to(self.home):
                    found.add(int(entry))
        while more := {pid for pid, parent in parents.items() if parent in found} - found:
            found |= more
        return sorted(pid for pid in found if pid in parents)

    def stop(self, patience: float = 15.0) -> None:
        """TERM to what was started; KILL to what is left of it after ``patience`` seconds.

        Helpers that outlive it have as long to end: the next host in this home would take them for its own.
        """
        left = self.pids()
        for process in self.started:
            if process.poll() is None:
                process.terminate()
        end = time.monotonic() + patience
        for process in self.started:
            try:
                process.wait(max(0.1, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if process.stdout is not None:
                process.stdout.close()
        ending = []
        for pid in left:
            try:
                if str(self.home) in Path(f"/proc/{pid}/cmdline").read_text() or "qmail" in _title(pid):
                    os.kill(pid, signal.SIGTERM)
                    ending.append(pid)
            except OSError:
                continue
        end = time.monotonic() + patience
        while not all(map(gone, ending)) and time.monotonic() < end:
            select.select([], [], [], 0.01)  # asked again
        self.started.clear()

    def queued(self) -> int:
        """How many messages the queue holds."""
        return sum(len(names) for _, _, names in os.walk(self.home / "queue" / "mess"))


def _directory(pid: int) -> str:
    try:
        return os.readlink(f"/proc/{pid}/cwd")
    except OSError:
        return ""


def _title(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")


def fresh_maildir(user: str) -> Path:
    """An empty Maildir of ``user``, and a .qmail-default that delivers there."""
    entry = ensure_user(user)
    base = Path(entry.pw_dir) / "Maildir"
    shutil.rmtree(base, ignore_errors=True)
    for path in (base, base / "new", base / "cur", base / "tmp"):
        path.mkdir(mode=0o700)
        os.chown(path, entry.pw_uid, entry.pw_gid)
    default = Path(entry.pw_dir) / ".qmail-default"
    default.write_text("./Maildir/\n")
    os.chown(default, entry.pw_uid, entry.pw_gid)
    return base


def messages(base: Path) -> Iterator[mailbox.MaildirMessage]:
    """The messages in a Maildir."""
    yield from mailbox.Maildir(base, create=False)


def body_hash(text: bytes) -> str:
    """What an audit compares: the hash of a body."""
    return hashlib.sha256(text).hexdigest()
