"""qmail-rcptd: its answers about an installed tree, and the 550 that qmail-smtpd gives for them."""

import grp
import os
import pwd
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import cdblib
import pytest

from pyqmail.policy.classify import Routing
from pyqmail.policy.routing_wire import format_routing, parse_routing
from pyqmail.protocol.recipients import PLAIN, SOCKET, format_question, is_nobody, parse_question
from tests.integration.mailhost import MailHost, install
from tests.loopback import ask
from tests.programs.lingering import lingering
from tests.public_directory import public_directory
from tests.waiting import wait_for

DEADLINE_S = 30
JOE, STRANGER = 40001, 40002
ROUTING = Routing(
    default_host=b"here.test",
    locals=frozenset((b"here.test", b"mx.test", b"hack.test")),
    percent_hack=frozenset((b"hack.test",)),
    virtual={b"v.test": b"joe", b".v.test": b"joe-sub", b"away.v.test": b"", b"one@w.test": b"joe-w"},
)


class Service:
    """qmail-rcptd of one tree, fed with maps as qmail-send feeds it."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.feed, theirs = socket.socketpair()
        with theirs:
            self.process = subprocess.Popen(
                [home / "bin" / "qmail-rcptd"], stdin=theirs, env={"PATH": "/usr/bin:/bin"}, stderr=subprocess.PIPE
            )
        self.number = 0

    def tell(self, routing: Routing) -> None:
        """New maps; returns when somebody answers by them."""
        self.feed.sendall(format_routing(routing))
        wait_for(self.answers, "an answer of qmail-rcptd", DEADLINE_S)

    def answers(self) -> bool:
        """Whether anybody is there."""
        try:
            self.nobody(b"x@elsewhere.test", patience_s=1)
        except OSError:
            return False
        return True

    def nobody(self, recipient: bytes, patience_s: int = DEADLINE_S) -> bool:
        """The answer about ``recipient``."""
        self.number += 1
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as door:
            door.settimeout(patience_s)
            door.connect(str(self.home) + SOCKET)
            door.bind("")
            door.send(format_question(self.number, recipient))
            return is_nobody(door.recv(64), self.number)

    def close(self) -> None:
        """End it as the end of qmail-send does."""
        self.feed.close()
        assert self.process.wait(DEADLINE_S) == 0


def write(path: Path, text: str, *, uid: int = JOE, mode: int = 0o644) -> Path:
    """A file of a user."""
    path.write_text(text)
    path.chmod(mode)
    os.chown(path, uid, uid)
    return path


def homedir(path: Path, uid: int, mode: int = 0o755) -> Path:
    """A home."""
    path.mkdir(mode=mode)
    path.chmod(mode)
    os.chown(path, uid, uid)
    return path


def assign(tree: Path, base: Path) -> None:
    """Users of the tests only: the accounts of the machine are asked for nobody."""
    alias = pwd.getpwnam("alias").pw_uid
    lines = [
        f"=joe:joe:{JOE}:{JOE}:{base}/joe:::",
        f"+joe-:joe:{JOE}:{JOE}:{base}/joe:-::",
        f"+closed-:closed:{STRANGER}:{STRANGER}:{base}/closed:-::",
        f"+gone-:gone:{STRANGER}:{STRANGER}:{base}/gone:-::",
        f"+root-:root:0:0:{base}/alias:-::",
        f"+:alias:{alias}:{alias}:{base}/alias:-::",
        ".\n",
    ]
    (tree / "users" / "assign").write_text("\n".join(lines))
    subprocess.run([tree / "bin" / "qmail-newu"], check=True)


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A tree with homes beside it."""
    if os.geteuid() != 0:
        pytest.skip("needs root: homes of several users")
    with public_directory() as base:
        install(base / "qmail", me="mx.test\n", locals="here.test\n", rcpthosts="here.test\nnew.test\n")
        for name, uid, mode in (
            ("joe", JOE, 0o755),
            ("closed", STRANGER, 0o700),
            ("alias", pwd.getpwnam("alias").pw_uid, 0o755),
        ):
            homedir(base / name, uid, mode)
        joe = base / "joe"
        write(joe / ".qmail-list", "./Maildir/\n")
        write(joe / ".qmail-sub-default", "./Maildir/\n")
        write(joe / ".qmail-secret", "./Maildir/\n", mode=0o600)
        write(joe / ".qmail-open", "./Maildir/\n", mode=0o666)
        write(joe / ".qmail-empty", "")
        write(joe / ".qmail-w-one", "./Maildir/\n")
        (joe / ".qmail-dir").mkdir()
        (joe / ".qmail-loop").symlink_to(".qmail-loop")
        write(base / "alias" / ".qmail-root", "&joe\n")
        assign(base / "qmail", base)
        yield base


@pytest.fixture(scope="module")
def service(place: Path) -> Iterator[Service]:
    """The service with ROUTING in force."""
    made = Service(place / "qmail")
    made.tell(ROUTING)
    yield made
    made.close()


@pytest.mark.parametrize(
    ("recipient", "nobody"),
    [
        pytest.param(b"joe@here.test", False, id="a user"),
        pytest.param(b"JOE@Here.Test", False, id="a user in other case"),
        pytest.param(b"joe", False, id="a user without a domain"),
        pytest.param(b"joe-list@here.test", False, id="an extension with a file"),
        pytest.param(b"joe-LIST@here.test", False, id="an extension in other case"),
        pytest.param(b"joe-empty@here.test", False, id="an empty file is the default delivery"),
        pytest.param(b"joe-none@here.test", True, id="an extension without a file"),
        pytest.param(b"joe-list-x@here.test", True, id="a longer extension"),
        pytest.param(b"joe-sub-x@here.test", False, id="an extension with a default file"),
        pytest.param(b"joe-sub@here.test", True, id="the default file is not for the word alone"),
        pytest.param(b"joe-dir@here.test", True, id="a directory is no instructions"),
        pytest.param(b"joe-secret@here.test", False, id="a file that may not be read"),
        pytest.param(b"joe-open@here.test", False, id="a file that defers"),
        pytest.param(b"joe-" + b"x" * 500 + b"@here.test", True, id="a name that no file can have"),
        pytest.param(b"joe-\0@here.test", False, id="a NUL is not judged"),
        pytest.param(b"joe-a/../list@here.test", True, id="a path to nowhere"),
        pytest.param(b"closed-x@here.test", False, id="a home that may not be searched"),
        pytest.param(b"gone-x@here.test", False, id="a home that is not there"),
        pytest.param(b"root-x@here.test", False, id="root is deferred"),
        pytest.param(b"root@here.test", False, id="an alias"),
        pytest.param(b"nosuch@here.test", True, id="neither user nor alias"),
        pytest.param(b"nosuch", True, id="neither user nor alias, without a domain"),
        pytest.param(b"nosuch@elsewhere.test", False, id="a remote domain"),
        pytest.param(b"@here.test", False, id="the trash address"),
        pytest.param(b"", False, id="nothing at all"),
        pytest.param(b"joe%here.test@hack.test", False, id="percenthack to a user"),
        pytest.param(b"nosuch%here.test@hack.test", True, id="percenthack to nobody"),
        pytest.param(b"nosuch%elsewhere.test@hack.test", False, id="percenthack to a remote domain"),
        pytest.param(b"list@v.test", False, id="a virtual domain: joe-list"),
        pytest.param(b"none@V.test", True, id="a virtual domain: joe-none"),
        pytest.param(b"any@a.v.test", False, id="below a virtual domain: joe-sub-any"),
        pytest.param(b"any@away.v.test", False, id="an exception"),
        pytest.param(b"one@w.test", False, id="a virtual user: joe-w-one"),
        pytest.param(b"two@w.test", False, id="not virtual, so remote"),
    ],
)
def test_answers(service: Service, recipient: bytes, nobody: bool) -> None:
    assert service.nobody(recipient) is nobody


@pytest.mark.parametrize("ext", ["list", "none", "sub-x", "sub", "dir", "loop", "open", "empty", "x" * 500])
def test_nobody_is_what_qmail_local_would_refuse(service: Service, place: Path, ext: str) -> None:
    words = ["joe", str(place / "joe"), f"joe-{ext}", "-", ext, "here.test", "a@b", "./Mailbox"]
    result = subprocess.run([place / "qmail" / "bin" / "qmail-local", "-n", "--", *words], capture_output=True)
    assert service.nobody(b"joe-%b@here.test" % ext.encode()) is (result.returncode == 100)


FASTFORWARD = [
    pytest.param("| fastforward -d {}\n", b"known@here.test", False, id="a known address"),
    pytest.param("| fastforward -d {}\n", b"Known@HERE.test", False, id="a known address in other case"),
    pytest.param("| fastforward -d {}\n", b"box@here.test", False, id="box@ for every host"),
    pytest.param("| fastforward -d {}\n", b"any@mx.test", False, id="@host for every box"),
    pytest.param("| fastforward -d {}\n", b"unknown@here.test", True, id="an unknown address"),
    pytest.param("|fastforward -d {}\n", b"unknown@here.test", True, id="without a blank"),
    pytest.param("# aliases\n| /usr/local/bin/fastforward  -d {} \n", b"unknown@here.test", True, id="by its path"),
    pytest.param("| fastforward -d {}\n", b"root@here.test", False, id="a file of its own"),
    pytest.param("| fastforward -p -d {}\n", b"unknown@here.test", False, id="other options"),
    pytest.param("| fastforward {}\n", b"unknown@here.test", False, id="without -d"),
    pytest.param("| fastforward -d {}; true\n", b"unknown@here.test", False, id="a shell command"),
    pytest.param("| fastforward -d {}.missing\n", b"unknown@here.test", False, id="no database"),
    pytest.param("| fastforward -d {}\n./Maildir/\n", b"unknown@here.test", False, id="another line after it"),
    pytest.param("./Maildir/\n", b"unknown@here.test", False, id="any other default"),
]


@pytest.mark.parametrize(("text", "recipient", "nobody"), FASTFORWARD)
def test_a_default_of_fastforward(service: Service, place: Path, text: str, recipient: bytes, nobody: bool) -> None:
    database = place / "aliases.cdb"
    with database.open("wb") as file, cdblib.Writer(file) as writer:
        for key in (b":known@here.test", b":box@", b":@mx.test", b"?unknown@here.test"):
            writer.put(key, b"&x@y\0")
    default = write(place / "alias" / ".qmail-default", text.format(database))
    try:
        assert service.nobody(recipient) is nobody
    finally:
        default.unlink()


def test_a_damaged_alias_database_is_no_answer(service: Service, place: Path) -> None:
    database = write(place / "damaged.cdb", "x" * 3000)
    default = write(place / "alias" / ".qmail-default", f"| fastforward -d {database}\n")
    assert not service.nobody(b"unknown@here.test")
    default.unlink()


def test_changes_are_seen_at_once(service: Service, place: Path) -> None:
    assert service.nobody(b"joe-later@here.test")
    file = write(place / "joe" / ".qmail-later", "./Maildir/\n")
    assert not service.nobody(b"joe-later@here.test")
    file.unlink()
    assert service.nobody(b"joe-later@here.test")


def test_a_damaged_users_database_is_no_answer(service: Service, place: Path) -> None:
    database = place / "qmail" / "users" / "cdb"
    whole = database.read_bytes()
    database.write_bytes(whole[:1000])
    assert not service.nobody(b"nosuch@here.test")
    database.unlink()
    database.write_bytes(whole)
    assert service.nobody(b"nosuch@here.test")


@pytest.mark.parametrize("name", ["qmail-local", "qmail-getpw"])
def test_with_another_program_in_its_place_nobody_is_refused(service: Service, place: Path, name: str) -> None:
    program = place / "qmail" / "bin" / name
    saved = program.with_name("saved")
    program.rename(saved)
    write(program, "#!/bin/sh\nexit 0\n", uid=0, mode=0o755)
    try:
        assert not service.nobody(b"nosuch@here.test")
    finally:
        saved.rename(program)


def test_new_maps_are_in_force_once_told(service: Service) -> None:
    try:
        service.tell(Routing(b"x", frozenset((b"other.test",)), frozenset(), {}))
        wait_for(lambda: not service.nobody(b"nosuch@here.test"), "the new maps")
        assert service.nobody(b"nosuch@other.test")
    finally:
        service.tell(ROUTING)
        wait_for(lambda: service.nobody(b"nosuch@here.test"), "the old maps")


def test_it_has_given_up_its_rights_and_its_descriptors(service: Service) -> None:
    pid = service.process.pid
    wait_for(lambda: len(children(pid)) == 2, "two workers")  # those with older maps are ending
    uid, gid = pwd.getpwnam("qmailp").pw_uid, grp.getgrnam("nofiles").gr_gid
    for each in (pid, *children(pid)):
        status = Path(f"/proc/{each}/status").read_text()
        assert f"Uid:\t{uid}\t{uid}\t{uid}\t{uid}\n" in status
        assert f"Gid:\t{gid}\t{gid}\t{gid}\t{gid}\nFDSize" in status and f"Groups:\t{gid} \n" in status
        fds = {os.readlink(f"/proc/{each}/fd/{fd}") for fd in os.listdir(f"/proc/{each}/fd")}
        assert sum(name.startswith("socket:") for name in fds) <= 2


def test_questions_that_are_none_are_passed_over(service: Service) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as door:
        door.settimeout(DEADLINE_S)
        door.connect(str(service.home) + SOCKET)
        for data in (b"", b"R", b"X" * 20, b"R" + b"x" * 100000):
            door.send(data)  # without a name: nowhere to answer
        door.send(format_question(1, b"nosuch@here.test"))
    assert service.nobody(b"nosuch@here.test")


def test_descriptors_that_others_send_do_not_stop_it(service: Service) -> None:
    for _ in range(4):  # more than there are workers
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as door:
            door.connect(str(service.home) + SOCKET)
            fd = lingering()
            socket.send_fds(door, [format_question(1, b"joe@here.test")], [fd])
            os.close(fd)
    assert service.nobody(b"nosuch@here.test")


def children(pid: int) -> set[int]:
    """The processes that ``pid`` has forked."""
    return set(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


@pytest.mark.parametrize(("group", "answered"), [("nofiles", True), ("nogroup", False)])
def test_only_the_systems_own_users_reach_it(service: Service, group: str, answered: bool) -> None:
    connect = f"import socket; socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).connect({str(service.home) + SOCKET!r})"
    done = subprocess.run(
        ["/usr/bin/python3", "-c", connect],
        user=STRANGER,
        group=group,
        extra_groups=[],
        stderr=subprocess.PIPE,
        check=False,
    )
    assert (done.returncode == 0) is answered
    assert answered or b"PermissionError" in done.stderr


def test_a_dead_worker_is_replaced_and_a_dead_parent_takes_its_workers_along(place: Path) -> None:
    path = Path(str(place / "qmail") + SOCKET)

    def inode() -> int:
        try:
            return path.stat().st_ino
        except FileNotFoundError:
            return 0

    before = inode()
    service = Service(place / "qmail")  # takes the name over
    service.feed.sendall(format_routing(ROUTING))
    wait_for(lambda: inode() not in (0, before) and service.answers(), "its own socket")
    workers = children(service.process.pid)
    for pid in workers:
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: len(children(service.process.pid) - workers) == 2 and service.answers(), "new workers")
    service.process.kill()
    service.process.wait()
    wait_for(lambda: not service.answers(), "the end of the workers")
    service.feed.close()


@pytest.mark.parametrize("record", [b"x", b"3:abc,", b"999999999999:", b"12:" + b"3:a,"], ids=repr)
def test_maps_that_are_none_end_it(place: Path, record: bytes) -> None:
    service = Service(place / "qmail")
    service.feed.sendall(record)
    service.feed.close()
    assert service.process.wait(DEADLINE_S) in (0, 111)
    assert service.process.stderr is not None and b"Traceback" not in service.process.stderr.read()


def test_the_wires() -> None:
    assert parse_routing(format_routing(ROUTING).partition(b":")[2][:-1]) == ROUTING
    assert parse_question(format_question(7, b"a@b")) == ((7).to_bytes(8, "little"), b"a@b", PLAIN)
    assert not is_nobody(b"", 0) and not is_nobody(bytes(8) + b"Y", 0) and is_nobody(bytes(8) + b"N", 0)


# The whole chain


def codes(port: int, *recipients: bytes) -> list[bytes]:
    """What qmail-smtpd answers to ``recipients``."""
    commands = b"".join(b"RCPT TO:<%b>\r\n" % recipient for recipient in recipients)
    heard = ask(port, b"MAIL FROM:<>\r\n" + commands + b"QUIT\r\n")
    return [reply[:3] for reply in heard.split(b"\r\n")[2 : 2 + len(recipients)]]


@pytest.fixture
def host(place: Path) -> Iterator[MailHost]:
    """The tree, running."""
    made = MailHost(place / "qmail")
    made.log.write_bytes(b"")
    made.start_delivery()
    made.start_smtp()
    yield made
    made.stop()
    (place / "qmail" / "control" / "rcptcheck").unlink(missing_ok=True)


CHECKED = (b"joe@here.test", b"nosuch@here.test", b"joe-none@here.test", b"root@here.test")


def test_rcpt_refuses_nobody_by_the_maps_that_qmail_send_has(host: MailHost, place: Path) -> None:
    wait_for(lambda: codes(host.port, *CHECKED) == [b"250", b"550", b"550", b"250"], "the answers")
    log = host.log.read_bytes()
    assert b"refused ip=127.0.0.1 helo= from=<> to=<nosuch@here.test> reason=550_sorry,_no_mailbox_here" in log
    locals_file = place / "qmail" / "control" / "locals"
    locals_file.write_text("here.test\nnew.test\n")
    assert codes(host.port, b"nosuch@new.test") == [b"250"]  # qmail-send does not know yet
    os.kill(host.started[0].pid, 1)
    wait_for(lambda: codes(host.port, b"nosuch@new.test") == [b"550"], "the maps after HUP")
    locals_file.write_text("here.test\n")


def test_control_rcptcheck(host: MailHost, place: Path) -> None:
    wait_for(lambda: codes(host.port, b"nosuch@here.test") == [b"550"], "the answers")
    control = place / "qmail" / "control" / "rcptcheck"
    control.write_text("off\n")
    assert codes(host.port, *CHECKED) == [b"250"] * 4
    checker = write(
        place / "checker", '#!/bin/sh\ncase "$1" in joe@*) exit 100;; nosuch@*) exit 111;; esac\n', mode=0o755
    )
    control.write_text(f"{checker}\n")
    assert codes(host.port, *CHECKED) == [b"550", b"250", b"250", b"250"]
    control.write_text("/nonexistent\n")
    assert codes(host.port, *CHECKED) == [b"250"] * 4


def test_without_qmail_send_everybody_is_accepted_until_it_is_back(host: MailHost) -> None:
    wait_for(lambda: codes(host.port, b"nosuch@here.test") == [b"550"], "the answers")
    host.started[0].terminate()
    host.started[0].wait(DEADLINE_S)
    wait_for(lambda: codes(host.port, *CHECKED) == [b"250"] * 4, "the end of the service")
    host.start_delivery()
    wait_for(lambda: codes(host.port, *CHECKED) == [b"250", b"550", b"550", b"250"], "the next service")
