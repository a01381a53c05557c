"""qmail-pop3d as a process on a real Maildir; as root the process runs as another user."""

import os
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.public_directory import public_directory

BIN = Path(__file__).resolve().parents[2] / "bin"
DEADLINE_S = 20
UID = os.getuid() or 65534
PAST = int(time.time()) - 1000


@pytest.fixture
def home() -> Iterator[Path]:
    """A directory that the user may enter and write."""
    with public_directory() as made:
        for folder in ("Maildir", "Maildir/tmp", "Maildir/new", "Maildir/cur"):
            (made / folder).mkdir()
            os.chown(made / folder, UID, -1)
        os.chown(made, UID, -1)
        yield made


def put(home: Path, name: str, data: bytes = b"a: b\n\nx\n", age_s: float = 0) -> Path:
    path = home / "Maildir" / name
    path.write_bytes(data)
    os.utime(path, (PAST - age_s, PAST - age_s))
    os.chown(path, UID, -1)
    return path


class Pop:
    """A session; ``greeting`` has been read."""

    def __init__(self, home: Path, *words: str, uid: int | None = UID, environ: dict[str, str] | None = None) -> None:
        ours, theirs = socket.socketpair()
        ours.settimeout(DEADLINE_S)
        self.socket = ours
        self.process = subprocess.Popen(
            [sys.executable, "-ISXutf8", str(BIN / "qmail-pop3d"), *(words or ("Maildir",))],
            env=environ or {},
            cwd=home,
            stdin=theirs,
            stdout=theirs,
            stderr=subprocess.PIPE,
            user=uid if os.getuid() == 0 else None,
        )
        theirs.close()
        self.lines = ours.makefile("rb")
        self.greeting = self.lines.readline()

    def say(self, command: bytes) -> bytes:
        """The line that answers ``command``."""
        self.socket.sendall(command + b"\r\n")
        return self.lines.readline()

    def many(self, command: bytes) -> bytes:
        """All of a reply of several lines."""
        reply = self.say(command)
        while not reply.endswith(b"\r\n.\r\n"):
            line = self.lines.readline()
            assert line
            reply += line
        return reply

    def end(self) -> tuple[bytes, int]:
        """What is still said when no more commands come, and the exit status."""
        self.socket.shutdown(socket.SHUT_WR)
        rest = self.lines.read()
        return rest, self.process.wait(DEADLINE_S)

    def quit(self) -> bytes:
        """The replies to QUIT."""
        self.socket.sendall(b"QUIT\r\n")
        rest = self.lines.read()
        assert self.process.wait(DEADLINE_S) == 0
        return rest


def names(home: Path) -> list[str]:
    return sorted(str(path.relative_to(home / "Maildir")) for path in (home / "Maildir").glob("*/*"))


@pytest.mark.contract(
    "pop3 3.5", "pop3 3.9", "pop3 3.10", "pop3 3.11", "pop3 3.12", "pop3 3.31", "pop3 3.32", "pop3 4.9"
)
def test_lists_are_oldest_first_and_sizes_are_those_of_the_files(home: Path) -> None:
    put(home, "new/b", b"12345\n", 50)
    put(home, "cur/a:2,S", b"123\n", 100)
    put(home, "cur/c:x:2,", b"", 10)
    put(home, "new/.hidden")
    pop = Pop(home)
    assert pop.greeting == b"+OK \r\n"
    assert pop.say(b"STAT") == b"+OK 3 10\r\n"
    assert pop.many(b"LIST") == b"+OK \r\n1 4\r\n2 6\r\n3 0\r\n.\r\n"
    assert pop.many(b"uidl") == b"+OK \r\n1 a\r\n2 b\r\n3 c\r\n.\r\n"
    assert pop.say(b"LIST 2 junk") == b"+OK 2 6\r\n"
    assert pop.say(b"UIDL 1x") == b"+OK 1 a\r\n"
    assert pop.end() == (b"", 0)


@pytest.mark.contract(
    "pop3 3.14", "pop3 3.15", "pop3 3.16", "pop3 3.17", "pop3 3.19", "pop3 4.4", "pop3 3.9", "pop3 4.1"
)
def test_dele_last_rset_and_what_stat_counts(home: Path) -> None:
    for name, age in (("new/1", 9), ("new/2", 8), ("new/3", 7)):
        put(home, name, b"xx\n", age)
    pop = Pop(home)
    assert pop.say(b"LAST") == b"+OK 0\r\n"
    assert pop.say(b"DELE 2") == b"+OK \r\n"
    assert pop.say(b"DELE 1") == b"+OK \r\n"
    assert pop.say(b"RETR 3") == b"+OK \r\n"
    assert [pop.lines.readline() for _ in range(3)] == [b"xx\r\n", b"\r\n", b".\r\n"]
    assert pop.say(b"LAST") == b"+OK 2\r\n"
    assert pop.say(b"STAT") == b"+OK 1 3\r\n"
    assert pop.many(b"LIST") == b"+OK \r\n3 3\r\n.\r\n"
    assert pop.say(b"NOOP x") == b"+OK \r\n"
    for line in (b"AUTH", b"USER x", b"PASS x", b"", b"STATx"):
        assert pop.say(line) == b"-ERR unimplemented\r\n"
    assert pop.say(b"RSET") == b"+OK \r\n"
    assert pop.say(b"LAST") == b"+OK 0\r\n"
    assert pop.say(b"STAT") == b"+OK 3 9\r\n"
    assert pop.quit() == b"+OK \r\n"
    assert names(home) == ["cur/1:2,", "cur/2:2,", "cur/3:2,"]


def test_capa_names_what_there_is(home: Path) -> None:
    assert Pop(home).many(b"CAPA") == b"+OK \r\nTOP\r\nUSER\r\nUIDL\r\n.\r\n"


def test_what_is_no_message_in_a_maildir_does_not_end_the_session(home: Path) -> None:
    put(home, "new/1", b"one\n", 9)
    put(home, "cur/2:2,S", b"two\n", 8)
    base = home / "Maildir"
    (base / "new" / "folder").mkdir()
    (base / "cur" / "folder:2,").mkdir()
    os.mkfifo(base / "new" / "fifo")
    (base / "new" / "nowhere").symlink_to("gone")
    (base / "new" / "loop").symlink_to("loop")
    (base / "cur" / "link").symlink_to(base / "new")
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(str(base / "new" / "socket"))
    for name in ("new/folder", "cur/folder:2,", "new/fifo", "new/socket"):
        os.utime(base / name, (PAST, PAST))
    pop = Pop(home)
    assert pop.say(b"STAT") == b"+OK 2 8\r\n"
    assert pop.many(b"LIST") == b"+OK \r\n1 4\r\n2 4\r\n.\r\n"
    assert pop.many(b"RETR 2") == b"+OK \r\ntwo\r\n\r\n.\r\n"
    assert pop.quit() == b"+OK \r\n"


def test_a_message_that_became_something_else_is_an_answer(home: Path) -> None:
    path = put(home, "new/1", b"one\n")
    pop = Pop(home)
    path.unlink()
    path.mkdir()
    assert pop.say(b"RETR 1") == b"-ERR unable to open that message\r\n"
    assert pop.say(b"NOOP") == b"+OK \r\n"
    assert pop.quit() == b"+OK \r\n"


def test_a_name_that_pop3_cannot_carry_has_a_unique_id_all_the_same(home: Path) -> None:
    for name in ("a b", "new\nline", "\x7f", "\u00e9:2,S"):
        put(home, f"new/{name}")
    reply = Pop(home).many(b"UIDL").split(b"\r\n")[1:-2]
    ids = [line.split(b" ", 1)[1] for line in reply]
    assert len(set(ids)) == 4 and all(len(one) == 32 and one.isalnum() for one in ids)
    (home / "Maildir" / "new" / "a b").rename(home / "Maildir" / "cur" / "a b:2,S")
    assert {line.split(b" ", 1)[1] for line in Pop(home).many(b"UIDL").split(b"\r\n")[1:-2]} == set(ids)


def test_copies_with_one_name_have_unique_ids_and_none_takes_anothers_place(home: Path) -> None:
    """As after a restore, or a copy with cp -a."""
    for name, data in (
        ("cur/7.a:2,S", b"seen\n"),
        ("cur/7.a:2,", b"old\n"),
        ("new/7.a", b"new\n"),
        ("new/8", b"other\n"),
    ):
        put(home, name, data)
    ids = []
    for _ in range(2):
        pop = Pop(home)
        lines = pop.many(b"UIDL").split(b"\r\n")[1:-2]
        assert pop.say(b"UIDL 2") == b"+OK " + lines[1] + b"\r\n"
        ids.append([line.split()[1] for line in lines])
        assert pop.quit() == b"+OK \r\n"
    assert len(set(ids[0])) == 4 and {b"7.a", b"8"} < set(ids[0]) == set(ids[1])
    assert names(home) == ["cur/7.a:2,", "cur/7.a:2,S", "cur/8:2,", "new/7.a"]
    assert (home / "Maildir" / "cur" / "7.a:2,").read_bytes() == b"old\n"


@pytest.mark.contract("pop3 3.33")
@pytest.mark.parametrize("verb", [b"RETR", b"TOP", b"DELE", b"LIST", b"UIDL"], ids=bytes.decode)
def test_argument_errors_in_their_order(home: Path, verb: bytes) -> None:
    put(home, "new/1")
    pop = Pop(home)
    assert pop.say(verb + b" x") == b"-ERR syntax error\r\n"
    assert pop.say(verb + b" 0") == b"-ERR messages are counted from 1\r\n"
    assert pop.say(verb + b" 2") == b"-ERR not that many messages\r\n"
    assert pop.say(verb + b" 99999999999999999999999") == b"-ERR not that many messages\r\n"
    if verb in (b"RETR", b"TOP", b"DELE"):
        assert pop.say(verb) == b"-ERR syntax error\r\n"
    pop.say(b"DELE 1")
    assert pop.say(verb + b" 1") == b"-ERR already deleted\r\n"
    assert pop.end() == (b"", 0)


@pytest.mark.contract("pop3 3.13", "pop3 3.20", "pop3 3.25", "pop3 4.4")
def test_retr_and_top_take_the_same_arguments(home: Path) -> None:
    put(home, "new/1", b"a: b\n\n1\n.2\n3\n")
    pop = Pop(home)
    whole = b"+OK \r\na: b\r\n\r\n1\r\n..2\r\n3\r\n\r\n.\r\n"
    two = b"+OK \r\na: b\r\n\r\n1\r\n..2\r\n\r\n.\r\n"
    assert pop.many(b"RETR 1") == pop.many(b"TOP 1") == pop.many(b"RETR 1 x") == whole
    assert pop.many(b"TOP 1 2") == pop.many(b"RETR 1   2") == two
    assert pop.many(b"TOP 1 0") == b"+OK \r\na: b\r\n\r\n\r\n.\r\n"
    assert pop.many(b"TOP 1 999999999999999999999999") == whole


@pytest.mark.contract("pop3 3.18", "pop3 3.34", "pop3 4.7")
def test_quit_deletes_and_moves_in_order_and_says_what_it_could_not(home: Path) -> None:
    for name, age in (("new/1", 9), ("new/a:weird", 8), ("cur/3:2,S", 7), ("new/4", 6), ("new/5", 5), ("new/6", 4)):
        put(home, name, age_s=age)
    pop = Pop(home)
    for number in (1, 4, 5):
        pop.say(b"DELE %d" % number)
    for name in ("new/4", "new/5", "new/6"):
        (home / "Maildir" / name).unlink()  # another session was faster
    assert pop.quit() == b"-ERR unable to unlink all deleted messages\r\n" * 2 + b"+OK \r\n"
    assert names(home) == ["cur/3:2,S", "cur/a:weird:2,"]


@pytest.mark.contract("pop3 3.7", "pop3 3.6")
def test_without_quit_nothing_changes(home: Path) -> None:
    put(home, "new/1")
    put(home, "new/2")
    pop = Pop(home)
    pop.say(b"DELE 1")
    pop.socket.sendall(b"QUIT")  # without its end
    assert pop.end() == (b"", 0)
    assert names(home) == ["new/1", "new/2"]


@pytest.mark.contract("pop3 3.8", "pop3 4.7", "pop3 3.6")
def test_a_maildir_changed_behind_an_open_session(home: Path) -> None:
    for name, age in (("new/1", 9), ("new/2", 8), ("new/3", 7)):
        put(home, name, b"xx\n", age)
    first, second = Pop(home), Pop(home)
    second.say(b"DELE 1")
    assert second.quit() == b"+OK \r\n"
    put(home, "new/4")
    assert first.many(b"LIST") == b"+OK \r\n1 3\r\n2 3\r\n3 3\r\n.\r\n"
    for number in (1, 2):  # removed, and moved to cur
        assert first.say(b"RETR %d" % number) == b"-ERR unable to open that message\r\n"
    first.say(b"DELE 1")
    assert first.quit() == b"-ERR unable to unlink all deleted messages\r\n+OK \r\n"
    assert names(home) == ["cur/2:2,", "cur/3:2,", "new/4"]


@pytest.mark.contract("pop3 3.30", "pop3 4.5")
def test_mail_of_this_second_or_of_the_future_is_not_seen(home: Path) -> None:
    put(home, "new/old")
    future = put(home, "new/future")
    os.utime(future, (time.time() + 1000,) * 2)
    now = put(home, "new/now")
    (home / "Maildir/new/dangling").symlink_to("nowhere")
    (home / "Maildir/cur/folder").mkdir()
    os.utime(home / "Maildir/cur/folder", (PAST - 1, PAST - 1))
    for _ in range(20):  # a start within one second, however slow the machine is
        before = int(time.time())
        os.utime(now, (before, before))
        pop = Pop(home)
        said = pop.many(b"UIDL")
        pop.end()
        if int(time.time()) == before:
            break
    assert said == b"+OK \r\n1 old\r\n.\r\n"


@pytest.mark.contract("pop3 3.29", "pop3 4.6")
def test_what_nobody_has_read_for_36_hours_goes_from_tmp(home: Path) -> None:
    now = time.time()
    for name, atime, mtime in (("old", 129700, 0), ("young", 129500, 999999), (".dot", 999999, 999999)):
        path = put(home, f"tmp/{name}")
        os.utime(path, (now - atime, now - mtime))
    Pop(home).quit()
    assert names(home) == ["tmp/.dot", "tmp/young"]


@pytest.mark.contract("pop3 3.2", "pop3 3.3")
@pytest.mark.parametrize(
    ("prepare", "words", "reply"),
    [
        (lambda home: None, ("No/such",), b"-ERR this user has no $HOME/Maildir\r\n"),
        (lambda home: (home / "Maildir/cur").rmdir(), ("Maildir",), b"-ERR unable to scan $HOME/Maildir\r\n"),
        (lambda home: (home / "Maildir/new").chmod(0), ("Maildir",), b"-ERR unable to scan $HOME/Maildir\r\n"),
        (lambda home: (home / "Maildir/tmp").rmdir(), ("Maildir",), b"+OK \r\n"),
    ],
    ids=["no Maildir", "no cur", "new is closed", "no tmp is no trouble"],
)
def test_a_maildir_that_cannot_be_used(
    home: Path, prepare: Callable[[Path], None], words: tuple[str, ...], reply: bytes
) -> None:
    prepare(home)
    pop = Pop(home, *words)
    assert pop.greeting == reply
    assert pop.end() == (b"", 0)


@pytest.mark.contract("pop3 3.2")
def test_no_argument_is_no_maildir(home: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-ISXutf8", str(BIN / "qmail-pop3d")], capture_output=True, cwd=home,
        user=UID if os.getuid() == 0 else None, check=False,
    )  # fmt: skip
    assert (result.returncode, result.stdout) == (0, b"-ERR this user has no $HOME/Maildir\r\n")


@pytest.mark.contract("pop3 3.4", "pop3 3.6")
@pytest.mark.parametrize("trouble", [MemoryError, None], ids=["no memory", "a message that cannot be read on"])
def test_trouble_inside(home: Path, trouble: type[BaseException] | None) -> None:
    raising = "raise MemoryError" if trouble else "return [(1, b'new/1', 5)]"
    put(home, "new/1", b"begun\n")
    program = (
        f"import os, sys; sys.path.insert(0, {str(BIN.parent)!r})\n"
        "from pyqmail.local import pop3_session as session\n"
        "from pyqmail.programs import qmail_pop3d as program\n"
        f"def scan(now):\n    {raising}\n"
        "def chunks(fd):\n    raise OSError\n    yield\n"
        "session._chunks = chunks; session.scan = scan; os.getuid = lambda: 1\n"
        "os._exit(program.main([b'x', b'Maildir'], {}))\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], input=b"RETR 1\r\nNOOP\r\n", capture_output=True, cwd=home, check=False
    )
    assert result.stdout == (b"-ERR out of memory\r\n" if trouble else b"+OK \r\n")
    assert result.returncode == 0


@pytest.mark.contract("pop3 3.1")
@pytest.mark.skipif(os.getuid() != 0, reason="only root is root")
def test_root_is_not_served(home: Path) -> None:
    pop = Pop(home, uid=None)
    assert pop.greeting == b""
    assert pop.process.wait(DEADLINE_S) == 1
    assert pop.process.stderr is not None
    assert pop.process.stderr.read() == b"qmail-pop3d invoked as uid 0, terminating\n"


def test_a_big_message_arrives_whole_at_a_slow_client(home: Path) -> None:
    body = b"".join(b".%d%s\n" % (n, b"x" * (n % 200)) for n in range(30_000))
    put(home, "new/1", body)
    pop = Pop(home)
    pop.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    wire = pop.many(b"RETR 1")
    assert wire == b"+OK \r\n" + body.replace(b"\n", b"\r\n").replace(b".", b"..") + b"\r\n.\r\n"
    assert pop.end() == (b"", 0)


def test_fifty_thousand_messages_are_listed_in_two_seconds(home: Path) -> None:
    for n in range(50_000):
        fd = os.open(home / f"Maildir/cur/{n}:2,", os.O_CREAT | os.O_WRONLY)
        os.close(fd)
        os.utime(home / f"Maildir/cur/{n}:2,", (PAST, PAST))

    def seconds() -> float:
        """Of processors, whoever else uses them."""
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        pop = Pop(home)
        assert pop.many(b"UIDL").count(b"\n") == 50_002
        assert pop.end() == (b"", 0)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    times = [seconds() for _ in range(3)]
    assert min(times) < 2, times


def test_uids_stay_the_same_through_moves_and_sessions(home: Path) -> None:
    for n in range(5):
        put(home, f"new/{n}.M1P2Q3.host", age_s=n % 2)
    first = Pop(home)
    before = first.many(b"UIDL")
    first.quit()
    (home / "Maildir/cur/3.M1P2Q3.host:2,").rename(home / "Maildir/cur/3.M1P2Q3.host:2,RS")
    second = Pop(home)
    assert second.many(b"UIDL") == before
    second.quit()
