"""Which user can read, write, connect to or signal what on a running host: pyqmail/ARCHITECTURE.md, cell by cell."""

import os
import pwd
import smtplib
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pyqmail.protocol import accounts, shadow, state, verification
from pyqmail.protocol.logins import SOCKET, format_question
from pyqmail.protocol.sasl import Credentials
from tests.integration.conftest import USER
from tests.integration.mailhost import ROOT, MailHost, fresh_maildir, hold_deliveries, own_user
from tests.look.metrics_server import Metrics
from tests.waiting import wait_for

ARCHITECTURE = Path(__file__).resolve().parents[2] / "pyqmail" / "ARCHITECTURE.md"
WHO = ("qmaild", "qmailq", "qmails", "qmailr", "qmailp", "qmaill", "alias", "a user")
OTHER = own_user("pqtesta")
NO_DATABASE = "postgresql://nobody@127.0.0.1:1/none prefer\n"
NO_ACCOUNTS = """\
source: postgresql
connection: host=127.0.0.1 port=1
owner: nobody
homes: /nonexistent
domains: SELECT 1
"""
ALIVE = 0  # asks whether a signal could be sent


class Place:
    """A running host with a message that is being delivered to OTHER and one that waits for a remote host."""

    def __init__(self, host: MailHost) -> None:
        self.host = host
        self.home = host.home
        self.message = self._message()
        number = self.message.name
        folder = self.message.parent.name
        self.info = self.home / "queue/info" / folder / number
        self.remote = self.home / "queue/remote" / folder / number
        self.pids = self._programs()
        self.other = pwd.getpwnam(OTHER)

    def _message(self) -> Path:
        (found,) = (path for path in self.home.glob("queue/mess/*/*") if b"for far away" in path.read_bytes())
        return found

    def _programs(self) -> dict[str, int]:
        found: dict[str, int] = {}
        for pid in self.host.pids():
            try:
                title = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].decode().split(" ")[0]
                words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
                owner = os.stat(f"/proc/{pid}").st_uid
            except OSError:
                continue
            name = title.rpartition("/")[2]
            if name == "qmail-local" and owner != pwd.getpwnam(OTHER).pw_uid:
                continue
            found.setdefault("tcpserver" if "/bin/tcpserver" in words else name, pid)
        return found


def ids(who: str) -> tuple[int, int, list[int]]:
    """The uid, gid and groups of ``who`` as the tree's processes have them."""
    entry = pwd.getpwnam(USER if who == "a user" else who)
    return entry.pw_uid, entry.pw_gid, [entry.pw_gid]


def allowed(who: str, act: Callable[[], object]) -> bool:
    """Whether ``act`` succeeds in a process of ``who``."""
    uid, gid, groups = ids(who)
    pid = os.fork()
    if pid == 0:
        code = 2
        try:
            os.setgroups(groups)
            os.setresgid(gid, gid, gid)
            os.setresuid(uid, uid, uid)
            try:
                act()
                code = 0
            except (PermissionError, FileNotFoundError):
                code = 1
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code in (0, 1), f"{who}: the probe itself failed"
    return code == 0


def read(path: Path) -> Callable[[], object]:
    def act() -> None:
        os.listdir(path) if path.is_dir() else os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))

    return act


def write(path: Path) -> Callable[[], object]:
    """Make a file in a directory; open a file for writing, without changing it."""

    def act() -> None:
        if stat.S_ISDIR(os.stat(path).st_mode):
            name = path / f"probe{os.getpid()}"
            os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
            os.unlink(name)
        else:
            os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))

    return act


def connect(path: Path, kind: int) -> Callable[[], object]:
    def act() -> None:
        with socket.socket(socket.AF_UNIX, kind) as sock:
            sock.connect(str(path))

    return act


def ask_verifyd(home: Path) -> Callable[[], object]:
    """Have a sender judged; who may not ask is hung up on."""

    def act() -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
            sock.settimeout(60)
            sock.connect(str(home) + verification.SOCKET)
            question = [(b"about", b"sender"), (b"ip", b"192.0.2.1"), (b"helo", b"x"), (b"sender", b"a@localhost")]
            try:
                sock.send(verification.format_pairs(question))
                answer = sock.recv(verification.RECORD_MAX)
            except (BrokenPipeError, ConnectionResetError):
                answer = b""
            if not answer:
                raise PermissionError

    return act


def ask_stated(home: Path, *words: bytes) -> Callable[[], object]:
    """Ask something; who may not ask is hung up on."""

    def act() -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
            sock.settimeout(60)
            sock.connect(str(home) + state.SOCKET)
            try:
                sock.send(state.format_record(*words))
                answer = sock.recv(state.RECORD_MAX)
            except (BrokenPipeError, ConnectionResetError):
                answer = b""
            if not answer:
                raise PermissionError

    return act


def ask_authd(home: Path) -> Callable[[], object]:
    """Have a wrong password checked; who may not ask is hung up on."""

    def act() -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
            sock.settimeout(30)
            sock.connect(str(home) + SOCKET)
            try:
                sock.send(format_question(Credentials(b"plain", b"nobody@nowhere.test", b"x"), b"192.0.2.1"))
                answer = sock.recv(100)
            except (BrokenPipeError, ConnectionResetError):
                answer = b""
            if not answer:
                raise PermissionError

    return act


def ask_shadowd(home: Path, *words: bytes) -> Callable[[], object]:
    """Say something, with two open files; who may not is hung up on."""

    def act() -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock, open("/etc/passwd", "rb") as file:
            sock.settimeout(60)
            sock.connect(str(home) + shadow.SOCKET)
            try:
                socket.send_fds(sock, [shadow.format_record(*words)], [file.fileno()] * 2)
                answer = sock.recv(shadow.RECORD_MAX)
            except (BrokenPipeError, ConnectionResetError):
                answer = b""
            if not answer:
                raise PermissionError

    return act


def kill(pid: int) -> Callable[[], object]:
    return lambda: os.kill(pid, ALIVE)


def trace(pid: int) -> Callable[[], object]:
    """Look into the memory of a process, and at what it has open."""
    return lambda: (os.listdir(f"/proc/{pid}/fd"), os.close(os.open(f"/proc/{pid}/mem", os.O_RDONLY)))


# Each row of the table, in its order: what is tried on a Place.
DEEDS: dict[str, Callable[[Place], Callable[[], object]]] = {
    "see the names in queue/mess": lambda place: read(place.message.parent),
    "read a message in queue/mess": lambda place: read(place.message),
    "write a message in queue/mess": lambda place: write(place.message),
    "make a file in queue/mess/N": lambda place: write(place.message.parent),
    "make a file in queue/todo": lambda place: write(place.home / "queue/todo"),
    "make a file in queue/intd or pid": lambda place: write(place.home / "queue/pid"),
    "see the names in queue/todo": lambda place: read(place.home / "queue/todo"),
    "read the sender in queue/info": lambda place: read(place.info),
    "mark a recipient in queue/remote": lambda place: write(place.remote),
    "make a file in queue/bounce": lambda place: write(place.home / "queue/bounce"),
    "pull the trigger": lambda place: write(place.home / "queue/lock/trigger"),
    "hold up qmail-send by its lock": lambda place: write(place.home / "queue/lock/sendmutex"),
    "write the time-out table": lambda place: write(place.home / "queue/lock/tcpto"),
    "write what is known of providers": lambda place: write(place.home / "queue/pyqmail/remotelimits"),
    "hold or delete in queue/pyqmail": lambda place: write(place.home / "queue/pyqmail"),
    "see the names in queue/pyqmail/facts": lambda place: read(place.home / "queue/pyqmail/facts/0"),
    "make a file in queue/pyqmail/facts": lambda place: write(place.home / "queue/pyqmail/facts/0"),
    "make a file in run": lambda place: write(place.home / "run"),
    "connect to qmail-queued": lambda place: connect(place.home / "run/qmail-queued.sock", socket.SOCK_SEQPACKET),
    "ask qmail-rcptd": lambda place: connect(place.home / "run/qmail-rcptd.sock", socket.SOCK_DGRAM),
    "ask qmail-authd": lambda place: ask_authd(place.home),
    "ask qmail-verifyd": lambda place: ask_verifyd(place.home),
    "have qmail-stated count": lambda place: ask_stated(place.home, b"take", b"x", b"recipients 1 9 60"),
    "see or reset what qmail-stated has counted": lambda place: ask_stated(place.home, b"show"),
    "have qmail-shadowd copy a message": lambda place: ask_shadowd(place.home, shadow.COPY, b"0" * 32, b""),
    "hear from qmail-shadowd what is ours": lambda place: ask_shadowd(place.home, shadow.SERVE),
    "order by run/send/control": lambda place: connect(place.home / "run/send/control", socket.SOCK_STREAM),
    "read control files": lambda place: read(place.home / "control/me"),
    "read the token of qmail-metrics": lambda place: read(place.home / "control/metricstoken"),
    "write control files": lambda place: write(place.home / "control/me"),
    "write users/, bin/ or the library": lambda place: write(place.home / "bin/qmail-local"),
    "write alias/": lambda place: write(place.home / "alias"),
    "read another user's Maildir": lambda place: read(Path(place.other.pw_dir) / "Maildir/new"),
    "signal qmail-send": lambda place: kill(place.pids["qmail-send"]),
    "signal qmail-queued": lambda place: kill(place.pids["qmail-queued"]),
    "signal qmail-lspawn": lambda place: kill(place.pids["qmail-lspawn"]),
    "signal qmail-rspawn": lambda place: kill(place.pids["qmail-rspawn"]),
    "signal qmail-clean": lambda place: kill(place.pids["qmail-clean"]),
    "signal tcpserver": lambda place: kill(place.pids["tcpserver"]),
    "signal qmail-metrics": lambda place: kill(place.pids["qmail-metrics"]),
    "signal qmail-shadowd": lambda place: kill(place.pids["qmail-shadowd"]),
    "signal qmail-accountsd": lambda place: kill(place.pids["qmail-accountsd"]),
    "signal another user's qmail-local": lambda place: kill(place.pids["qmail-local"]),
    "look into qmail-queued": lambda place: trace(place.pids["qmail-queued"]),
    "look into qmail-lspawn": lambda place: trace(place.pids["qmail-lspawn"]),
    "look into qmail-metrics": lambda place: trace(place.pids["qmail-metrics"]),
    "look into qmail-shadowd": lambda place: trace(place.pids["qmail-shadowd"]),
    "look into qmail-accountsd": lambda place: trace(place.pids["qmail-accountsd"]),
    "look into another user's qmail-local": lambda place: trace(place.pids["qmail-local"]),
}


def table() -> dict[str, dict[str, bool]]:
    """The table of ARCHITECTURE.md: deed, user, whether it is possible."""
    rows = [
        [cell.strip() for cell in line.strip("|\n").split("|")]
        for line in ARCHITECTURE.read_text().split("## Who can do what")[1].split("\n## ")[0].split("\n")
        if line.startswith("|")
    ]
    head = rows[0][1:]
    assert tuple(head) == WHO
    return {row[0]: {who: cell == "yes" for who, cell in zip(head, row[1:], strict=True)} for row in rows[2:]}


def listens(address: str) -> bool:
    """Whether somebody takes connections there."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        return sock.connect_ex(address) == 0


@contextmanager
def away_from_its_database(home: Path, program: str, address: str, control: Path, text: str) -> Iterator[int]:
    """The pid of a helper that serves and finds no database; the library is the tests'."""
    control.touch(mode=0o600)
    control.write_text(text)
    run = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from pyqmail.launch import run; "
    words = [sys.executable, "-c", run + f"run('pyqmail.programs.{program}', crash_exit=111)"]
    with subprocess.Popen(words, env={"QMAIL_HOME": str(home)}, stdin=subprocess.DEVNULL) as process:
        try:
            wait_for(lambda: listens(f"{home}{address}"), program)
            control.unlink()
            yield process.pid
        finally:
            control.unlink(missing_ok=True)
            process.terminate()


@pytest.fixture(scope="module")
def place(installed_home: Path) -> Iterator[Place]:
    """A host with mail in flight: one message held open by a program of OTHER, and one for a host that is not there."""
    gate, started = hold_deliveries(OTHER)
    fresh_maildir(OTHER)
    gate.parent.chmod(0o755)
    route = installed_home / "control/smtproutes"
    route.write_text(":127.0.0.1:1\n")
    logins = installed_home / "control/authd"
    logins.write_text("virtual\n")
    senders = installed_home / "control/spfbehavior"
    senders.write_text("1\n")
    limits = installed_home / "control/relaylimits"
    limits.write_text(":100000\n")
    token = installed_home / "control/metricstoken"
    token.write_text("a secret of many letters\n")
    token.chmod(0o600)
    host = MailHost(installed_home)
    host.log.write_bytes(b"")
    host.start_delivery()
    host.start_smtp(RELAYCLIENT="")
    try:
        for recipient, words in ((f"{OTHER}-hold@example.test", "x"), ("x@far.example", "for far away")):
            with smtplib.SMTP("127.0.0.1", host.port, timeout=30) as client:
                client.sendmail("a@client.test", [recipient], f"Subject: {words}\r\n\r\n{words}\r\n")
        assert int(started.read_text())
        wait_for(lambda: b"deferral" in host.log.read_bytes(), "the deferral")
        with (
            Metrics(installed_home, str(host.log)) as metrics,
            away_from_its_database(
                installed_home, "qmail_shadowd", shadow.SOCKET, installed_home / "control/shadow", NO_DATABASE
            ) as shadowd,
            away_from_its_database(
                installed_home, "qmail_accountsd", accounts.SOCKET, installed_home / "control/accounts", NO_ACCOUNTS
            ) as accountsd,
        ):
            made = Place(host)
            made.pids |= {"qmail-metrics": metrics.pid, "qmail-shadowd": shadowd, "qmail-accountsd": accountsd}
            assert allowed("root", ask_shadowd(installed_home, shadow.SERVE))  # so it has become another user
            yield made
        gate.write_text("go\n")
        wait_for(lambda: host.queued() == 1, "the delivery")
    finally:
        route.unlink()
        logins.unlink()
        senders.unlink()
        limits.unlink()
        token.unlink()
        (installed_home / "queue/pyqmail/id").unlink(missing_ok=True)
        for name in ("control/metricslisten", "http"):
            (installed_home / name).unlink(missing_ok=True)
        host.stop()
        for path in installed_home.glob("queue/*/*/*"):
            if path.is_file():
                path.unlink()


def test_the_table_has_each_deed_and_no_other() -> None:
    assert list(table()) == list(DEEDS)


@pytest.mark.parametrize("deed", DEEDS)
@pytest.mark.parametrize("who", WHO)
def test_a_user_can_do_what_the_table_says_and_no_more(place: Place, who: str, deed: str) -> None:
    assert allowed(who, DEEDS[deed](place)) == table()[deed][who]
