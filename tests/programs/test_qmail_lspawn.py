"""qmail-lspawn as a process: real pipes, real uids (contract: spawn, users)."""

import os
import pwd
import signal
from collections.abc import Iterator

import pytest

from pyqmail.local import channel
from pyqmail.policy.accounts import Accounts
from pyqmail.programs import qmail_lspawn
from pyqmail.protocol.spawn import Command, format_command
from pyqmail.system.loop import Loop
from tests.programs.spawn_bench import Home, Spawn, install, install_script
from tests.waiting import wait_for

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="changes uid")
FIRST_UID = 39001  # ids that belong to nobody


@pytest.fixture
def home() -> Iterator[Home]:
    made = Home()
    yield made
    made.close()


def cold(home: Home, script: str) -> None:
    """A foreign qmail-local and one user, joe."""
    install_script(home.path / "bin/qmail-local", script)
    home.assign(f"=joe:joe:{FIRST_UID}:{FIRST_UID}:/home/joe:::\n+joe-:joe:{FIRST_UID}:{FIRST_UID}:/home/joe:-:pre-:\n")


def warm(home: Home, *users: str) -> None:
    """Our own qmail-local and these lines of users/assign."""
    install(home.path / "bin/qmail-local", "qmail_local")
    home.assign("".join(users))


@pytest.mark.contract("spawn 1.6", "spawn 1.7")
def test_first_byte_is_the_limit_and_end_of_commands_is_exit_0(home: Home) -> None:
    spawn = Spawn(home, "qmail-lspawn", "./Mailbox")
    assert spawn.limit == 120
    assert spawn.end() == 0


@pytest.mark.contract("spawn 4.6", "spawn 4.8", "spawn 9.5", "local 1.1")
def test_a_foreign_qmail_local_gets_argv_ids_groups_and_directory(home: Home) -> None:
    cold(home, 'printf "[%s]" "$0" "$@"; id -u; id -g; id -G; umask; pwd; cat')
    spawn = Spawn(home, "qmail-lspawn", "./Maildir/")
    uid = b"%d" % FIRST_UID
    expected = b"".join(
        b"[%b]" % arg for arg in (b"bin/qmail-local", b"--", b"joe", b"/home/joe", b"JOE-x@Y", b"-", b"pre-x@Y")
    )
    answer = spawn.deliver("JOE-x@Y@Example.ORG")
    assert answer.startswith(b"K" + expected + b"[Example.ORG][s@example.org][./Maildir/]"), answer
    assert answer.split(b"]")[-1].split() == [
        uid, uid, uid, b"0077", os.fsencode(home.path), b"Subject:", b"test", b"body",
    ]  # fmt: skip
    assert spawn.end() == 0


class Unheard:
    """Where nobody listens."""

    def open(self) -> int:
        return os.open("/dev/null", os.O_WRONLY)

    def hear(self, data: bytes) -> None:
        pass


def test_a_look_up_that_hangs_defers_and_assigned_users_have_their_mail(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    cold(home, "echo here")
    install_script(home.path / "bin/qmail-getpw", "exec sleep 1000")
    loop, ended = Loop(), list[bytes]()
    monkeypatch.setattr(channel, "LOOKUP_S", 0.2)
    accounts = Accounts(list(range(FIRST_UID, FIRST_UID + 8)), [FIRST_UID] * 2, b"alias")
    made = channel.LocalChannel(loop, str(home.path), accounts, b"./Mailbox", {b"PATH": b"/usr/bin:/bin"}, 10)
    for recipient in (b"ann@x", b"joe@x"):
        command = Command(1, b"1", b"s@x", recipient)
        message = os.open("/dev/null", os.O_RDONLY)

        def done(status: int | None, recipient: bytes = recipient) -> None:
            ended.append(made.report(status, b"")[:1] + recipient)

        made.start(command, message, Unheard(), done)
    while len(ended) < 2:
        loop.run_once(10)
    made.close()
    assert sorted(ended) == [b"Kjoe@x", b"Zann@x"]


@pytest.mark.contract("spawn 9.11")
def test_a_foreign_qmail_local_has_three_descriptors(home: Home) -> None:
    cold(home, "ls -1 /proc/$$/fd; exit 0")  # no pipe of its own, whose ends it might see
    spawn = Spawn(home, "qmail-lspawn", "./Mailbox")
    found = spawn.deliver("joe@x").split()
    assert [fd for fd in found if fd != b"10"] == [b"K0", b"1", b"2"]  # 10 is the shell's script
    spawn.end()


@pytest.mark.contract("spawn 9.10")
def test_a_foreign_qmail_local_starts_with_the_usual_signals(home: Home) -> None:
    cold(home, "")
    (home.path / "bin/qmail-local").write_text("#!/bin/cat /proc/self/status\n")  # a shell would change them
    spawn = Spawn(home, "qmail-lspawn", "./Mailbox")
    answer = spawn.deliver("joe@x").split()
    blocked, ignored = (int(answer[answer.index(name) + 1], 16) for name in (b"SigBlk:", b"SigIgn:"))
    assert blocked == 1 << (signal.SIGCHLD - 1)
    assert ignored == 1 << (signal.SIGPIPE - 1)
    spawn.end()


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        pytest.param("echo out; exit 0", b"Kout\n", id="0 is success with the output"),
        pytest.param("echo out; exit 100", b"Dout\n", id="100 is failure"),
        pytest.param("echo out; exit 1", b"Dout\n", id="an unknown status is failure"),
        pytest.param("echo out >&2; exit 111", b"Zout\n", id="111 is a deferral"),
        pytest.param("printf 'a\\0b'; exit 75", b"Za", id="text ends at the first NUL"),
        pytest.param("head -c 3000 /dev/zero | tr '\\0' x", b"K" + b"x" * 3000, id="3000 bytes are kept"),
    ],
)
@pytest.mark.contract("spawn 5.10", "spawn 5.11", "spawn 5.12", "spawn 9.12")
def test_status_of_a_foreign_qmail_local_makes_the_report(home: Home, script: str, expected: bytes) -> None:
    cold(home, script)
    spawn = Spawn(home, "qmail-lspawn", "./Mailbox")
    assert spawn.deliver("joe@x") == expected
    spawn.end()


@pytest.mark.contract("spawn 1.5")
def test_a_long_report_is_cut_to_2997_bytes(home: Home) -> None:
    cold(home, "head -c 3072 /dev/zero | tr '\\0' x")
    spawn = Spawn(home, "qmail-lspawn", "./Mailbox")
    answer = spawn.deliver("joe@x")
    assert len(answer) == 1 + 2997
    assert answer.startswith(b"K" + b"x" * 2966 + b"\n")
    spawn.end()


@pytest.mark.contract("spawn 5.1")
def test_a_killed_qmail_local_is_a_deferral(home: Home) -> None:
    cold(home, "kill -9 $$")
    spawn = Spawn(home, "qmail-lspawn", "./Mailbox")
    assert spawn.deliver("joe@x").startswith(b"Z")
    spawn.end()


@pytest.mark.contract("spawn 2.3", "spawn 9.2", "spawn 9.3")
def test_a_report_waits_for_whoever_holds_the_output(home: Home) -> None:
    os.mkfifo(home.path / "gate")
    os.chmod(home.path / "gate", 0o666)
    cold(home, "echo early; (read line < gate; echo late) &")
    spawn = Spawn(home, "qmail-lspawn", "./Mailbox")
    spawn.send(0, "joe@x")
    with open(home.path / "gate", "w") as gate:
        spawn.send(0, "joe@x")
        busy = spawn.report()
        assert (busy.slot, busy.letter) == (0, b"Z")
        assert b"(#4.3.5)" in busy.text
        gate.write("go\n")
    late = spawn.report()
    assert late.letter + late.text == b"Kearly\nlate\n"
    spawn.end()


@pytest.mark.parametrize(
    ("recipient", "message", "letter", "code"),
    [
        pytest.param("joe@x", "0/a", b"D", b"5.3.5", id="a name with letters"),
        pytest.param("joe@x", "/0/1", b"D", b"5.3.5", id="an absolute name"),
        pytest.param("joe@x", "0/../1", b"D", b"5.3.5", id="a name with dots"),
        pytest.param("joe@x", "", b"D", b"5.3.5", id="an empty name"),
        pytest.param("joe@x", "0" * 100, b"D", b"5.3.5", id="a name that is too long"),
        pytest.param("joe", "0/1", b"D", b"5.1.3", id="a recipient without a host"),
        pytest.param("joe@x", "0/2", b"Z", b"4.3.0", id="a message that is not there"),
        pytest.param("joe@x", "0", b"Z", b"4.3.5", id="a directory"),
        pytest.param("joe@x", "0/3", b"Z", b"4.3.5", id="a file of another owner"),
    ],
)
@pytest.mark.contract(
    "spawn 2.4", "spawn 2.5", "spawn 2.6", "spawn 2.7", "spawn 2.8", "spawn 2.10", "spawn 2.11", "spawn 9.4"
)
def test_what_is_refused_before_a_program_starts(
    home: Home, recipient: str, message: str, letter: bytes, code: bytes
) -> None:
    cold(home, "exit 0")
    home.message("0/3", b"", owner="qmails")
    spawn = Spawn(home, "qmail-lspawn", "./Mailbox")
    answer = spawn.deliver(recipient, message=message)
    assert answer.startswith(letter)
    assert b"(#%b)" % code in answer
    spawn.end()


@pytest.mark.contract("spawn 2.2", "spawn 9.8")
def test_slots_at_and_above_the_limit_are_refused(home: Home) -> None:
    (home.path / "control/conf-spawn").write_text("2\n")
    cold(home, "exit 0")
    spawn = Spawn(home, "qmail-lspawn", "./Mailbox")
    assert spawn.limit == 2
    for slot in (2, 200):
        spawn.send(slot, "joe@x")
        report = spawn.report()
        assert (report.slot, report.letter) == (slot, b"Z")
        assert b"(#4.3.5)" in report.text
    spawn.end()


@pytest.mark.contract("spawn 4.1", "spawn 9.4")
def test_an_empty_local_part_is_silently_done(home: Home) -> None:
    spawn = Spawn(home, "qmail-lspawn", "./Mailbox")
    assert spawn.deliver("@local.host") == b"K"
    spawn.end()


@pytest.mark.contract("spawn 5.6")
def test_a_damaged_cdb_is_a_deferral(home: Home) -> None:
    (home.path / "users/cdb").write_bytes(b"damaged")
    spawn = Spawn(home, "qmail-lspawn", "./Mailbox")
    assert spawn.deliver("joe@x").startswith(b"Z")
    spawn.end()


@pytest.mark.contract("spawn 4.7", "spawn 5.3")
def test_an_assignment_to_root_is_refused(home: Home) -> None:
    cold(home, "exit 0")
    home.assign("=joe:joe:0:0:/root:::\n=ann:ann:x:7:/:::\n")
    spawn = Spawn(home, "qmail-lspawn", "./Mailbox")
    assert b"root" in spawn.deliver("joe@x")
    assert spawn.deliver("ann@x").startswith(b"Z")
    spawn.end()


@pytest.mark.contract("spawn 9.1")
def test_a_missing_qmail_local_or_interpreter_never_bounces(home: Home) -> None:
    cold(home, "exit 0")
    (home.path / "bin/qmail-local").unlink()
    spawn = Spawn(home, "qmail-lspawn", "./Mailbox")
    assert spawn.deliver("joe@x").startswith(b"Z")
    (home.path / "bin/qmail-local").write_text("#!/no/such/python\n")
    (home.path / "bin/qmail-local").chmod(0o755)
    assert spawn.deliver("joe@x").startswith(b"Z")
    spawn.end()


@pytest.mark.contract("spawn 1.4", "spawn 4.3", "spawn 5.4", "spawn 5.8", "users 1.3")
def test_getpw_is_asked_as_qmailp_when_the_cdb_has_no_answer(home: Home) -> None:
    install_script(
        home.path / "bin/qmail-getpw",
        f'printf "%s\\\\0" "$1" {FIRST_UID} {FIRST_UID} "/$(id -u),$(id -G)" - ext',
    )
    install_script(home.path / "bin/qmail-local", 'printf "[%s]" "$@"')
    spawn = Spawn(home, "qmail-lspawn", "./Mailbox")
    passwd = pwd.getpwnam("qmailp")
    where = b"[/%d,%d]" % (passwd.pw_uid, passwd.pw_gid)
    assert spawn.deliver("Any@x").startswith(b"K[--][Any]" + where + b"[Any][-][ext][x]")
    install_script(home.path / "bin/qmail-getpw", "exit 115")
    assert spawn.deliver("Any@x").startswith(b"Z")
    (home.path / "bin/qmail-getpw").unlink()
    assert spawn.deliver("Any@x").startswith(b"Z")
    spawn.end()


@pytest.mark.contract("users 1.3", "users 6.6", "users 6.7", "users 6.18")
def test_our_own_getpw_answers_from_a_warm_worker(home: Home) -> None:
    install(home.path / "bin/qmail-getpw", "qmail_getpw")
    install_script(home.path / "bin/qmail-local", 'printf "[%s]" "$@"')
    spawn = Spawn(home, "qmail-lspawn", "./Mailbox")
    for _ in range(2):
        answer = spawn.deliver("no-such-User@x")
        assert answer.startswith(b"K[--][alias]")
        assert b"[no-such-User][-][no-such-User][x]" in answer
    spawn.end()


@pytest.mark.contract("spawn 4.6", "spawn 9.5", "spawn 9.11")
def test_a_warm_delivery_runs_as_its_user_and_sees_nothing_else(home: Home) -> None:
    program = "|id -u; id -g; id -G; pwd; ls -1 /proc/self/fd | wc -l\n"
    users = [home.user(f"u{n}", FIRST_UID + n, program, FIRST_UID + 50 + n) for n in range(3)]
    warm(home, *users)
    spawn = Spawn(home, "qmail-lspawn", "./Mailbox")
    for slot in range(9):
        spawn.send(slot, f"u{slot % 3}@x")
    for _ in range(9):
        report = spawn.report()
        n = report.slot % 3
        uid, gid = b"%d" % (FIRST_UID + n), b"%d" % (FIRST_UID + 50 + n)
        where = os.fsencode(home.path / f"u{n}")
        assert report.letter == b"K", report
        assert report.text.split()[:5] == [uid, gid, gid, where, b"4"]
        assert report.text.endswith(b"did 0+0+1\n")
    assert spawn.end() == 0


def test_one_worker_serves_one_user_again_and_never_another(home: Home) -> None:
    warm(home, home.user("joe", FIRST_UID, "|echo $PPID\n"), home.user("ann", FIRST_UID + 1, "|echo $PPID\n"))
    spawn = Spawn(home, "qmail-lspawn", "./Mailbox")
    joe, ann, again = (spawn.deliver(name).split()[0] for name in ("joe@x", "ann@x", "joe@x"))
    assert joe == again
    assert joe != ann
    spawn.end()


def test_a_single_user_tree_delivers_below_its_own_home_without_root(home: Home) -> None:
    (home.path / "control/conf-users").write_text(f"{FIRST_UID}\n" * 8)
    (home.path / "control/conf-groups").write_text(f"{FIRST_UID}\n" * 2)
    install_script(home.path / "bin/qmail-local", 'printf "[%s]" "$@"; id -u; id -G')
    os.chown(home.path / "queue/mess/0/1", FIRST_UID, FIRST_UID)
    spawn = Spawn(home, "qmail-lspawn", "./Mailbox", uid=FIRST_UID)
    expected = f"K[--][alias][{home.path}/home][root][-][root][x][s@example.org][./Mailbox]{FIRST_UID}\n{FIRST_UID}\n"
    assert spawn.deliver("root@x") == expected.encode()
    (home.path / "users/assign").write_text("=ann:ann:1:1:/ann:::\n.\n")
    assert spawn.deliver("ann@x").startswith(b"K[--][ann][/ann][ann][][][x]")
    assert spawn.end() == 0


def test_a_delivery_hears_what_srs_makes_of_its_sender(home: Home) -> None:
    warm(home, home.user("joe", FIRST_UID, '|echo "$SRSSENDER,$NEWSENDER"\n'))
    for name, text in (("me", "mx.test"), ("srs_domain", "srs.test"), ("srs_secrets", "x")):
        (home.path / "control" / name).write_text(text + "\n")
    (home.path / "control/srs_secrets").chmod(0o400)
    spawn = Spawn(home, "qmail-lspawn", "./Mailbox", environ={"SRSSENDER": "wrong@x"})
    made = spawn.deliver("joe@x")[1:].partition(b"\n")[0].split(b",")
    assert made[0] == made[1] and made[0].startswith(b"SRS0=") and made[0].endswith(b"=example.org=s@srs.test")
    assert spawn.deliver("joe@x", sender="s@mx.test").startswith(b"K,s@mx.test\n")
    (home.path / "bin/qmail-local").unlink()
    install_script(home.path / "bin/qmail-local", 'printf "$SRSSENDER"')
    assert spawn.deliver("joe@x") == b"K" + made[0]
    spawn.end()


def test_srs_in_a_single_user_tree(home: Home) -> None:
    (home.path / "control/conf-users").write_text(f"{FIRST_UID}\n" * 8)
    (home.path / "control/conf-groups").write_text(f"{FIRST_UID}\n" * 2)
    install_script(home.path / "bin/qmail-local", 'printf "$SRSSENDER"')
    os.chown(home.path / "queue/mess/0/1", FIRST_UID, FIRST_UID)
    for name, text in (("me", "mx.test"), ("srs_domain", "srs.test"), ("srs_secrets", "x")):
        (home.path / "control" / name).write_text(text + "\n")
    (home.path / "control/srs_secrets").chmod(0o400)
    os.chown(home.path / "control/srs_secrets", FIRST_UID, FIRST_UID)
    spawn = Spawn(home, "qmail-lspawn", "./Mailbox", uid=FIRST_UID)
    assert spawn.deliver("joe@x").endswith(b"=example.org=s@srs.test")
    spawn.end()


def with_gate(home: Home) -> None:
    """A fifo where a program of any user may wait."""
    os.mkfifo(home.path / "gate")
    os.chmod(home.path / "gate", 0o666)


@pytest.mark.contract("spawn 2.3", "spawn 9.3")
def test_who_keeps_a_report_open_says_nothing_in_the_next_one(home: Home) -> None:
    """Even if the same worker makes it: the first delivery ends with whoever holds its pipe."""
    with_gate(home)
    lines = home.user("joe", FIRST_UID, f"|(read line <{home.path}/gate; echo late; echo later >&2) & echo begun\n")
    folder = home.path / "joe"
    (folder / ".qmail-program").write_text("|echo $PPID\n")
    (folder / ".qmail-file").write_text("./mbox\n")
    warm(home, lines, f"+joe-:joe:{FIRST_UID}:{FIRST_UID}:{folder}:-::\n")
    spawn = Spawn(home, "qmail-lspawn", "./Mailbox")
    worker = spawn.deliver("joe-program@x").split()[0][1:]
    spawn.send(1, "joe@x")
    with open(home.path / "gate", "w") as gate:
        wait_until_idle(home, int(worker))
        assert spawn.deliver("joe-program@x") == b"K%b\ndid 0+0+1\n" % worker
        assert spawn.deliver("joe-file@x") == b"Kdid 1+0+0\n"
        gate.write("go\n")
    late = spawn.report()
    assert (late.slot, late.letter, late.text) == (1, b"K", b"begun\ndid 0+0+1\nlate\nlater\n")
    assert spawn.deliver("joe-file@x") == b"Kdid 1+0+0\n"
    spawn.end()


@pytest.mark.parametrize("mode", ["<", ">", "<>"])
def test_nobody_opens_a_report_again(home: Home, mode: str) -> None:
    """It would be his own, but is root's."""
    program = f"|sh -c 'exec 7{mode}/proc/self/fd/1' 2>/dev/null || echo refused\n"
    warm(home, home.user("joe", FIRST_UID, program))
    spawn = Spawn(home, "qmail-lspawn", "./Mailbox")
    assert spawn.deliver("joe@x") == b"Krefused\ndid 0+0+1\n"
    spawn.end()


def test_a_warm_program_has_the_message_on_0_and_one_pipe_on_1_and_2(home: Home) -> None:
    warm(home, home.user("joe", FIRST_UID, "./mbox\n|readlink /proc/self/fd/0 /proc/self/fd/1 /proc/self/fd/2\n"))
    spawn = Spawn(home, "qmail-lspawn", "./Mailbox")
    pipes = set()
    for _ in range(3):
        message, output, error, *_ = spawn.deliver("joe@x").split()
        assert message == b"K" + os.fsencode(home.path / "queue/mess/0/1")
        assert output == error
        assert output.startswith(b"pipe:")
        pipes.add(output)
    assert len(pipes) == 3
    spawn.end()


@pytest.mark.parametrize("line", ["./mbox", "|exit 0", "|exit 100"])
def test_an_idle_worker_has_nothing_of_its_last_delivery(home: Home, line: str) -> None:
    warm(home, home.user("joe", FIRST_UID, line + "\n"), home.user("ann", FIRST_UID + 1, "./mbox\n"))
    spawn = Spawn(home, "qmail-lspawn", "./Mailbox")
    for recipient in ("joe@x", "ann@x", "joe@x", "ann@x"):
        spawn.deliver(recipient)
    workers = [pid for pid in children(spawn.process.pid) if is_user(pid)]
    assert len(workers) == 2
    for pid in workers:
        wait_until_idle(home, pid)
        assert held_by(pid) <= {"/dev/null", "socket"}
    spawn.end()


def test_each_program_of_a_worker_begins_with_the_same_umask_and_signals(home: Home) -> None:
    lines = home.user("joe", FIRST_UID, "./mbox\n")
    folder = home.path / "joe"
    (folder / ".qmail-program").write_text("|umask; grep -E 'Sig(Blk|Ign|Cgt)' /proc/self/status\n")
    (folder / ".qmail-maildir").write_text("./M/\n")
    for name in ("M", "M/tmp", "M/new", "M/cur"):
        (folder / name).mkdir()
        os.chown(folder / name, FIRST_UID, FIRST_UID)
    warm(home, lines, f"+joe-:joe:{FIRST_UID}:{FIRST_UID}:{folder}:-::\n")
    spawn = Spawn(home, "qmail-lspawn", "./Mailbox")
    seen = set()
    for _ in range(3):
        seen.add(spawn.deliver("joe-program@x"))
        spawn.deliver("joe@x")
        spawn.deliver("joe-maildir@x")
    assert len(seen) == 1
    words = seen.pop().split()
    assert words[0] == b"K0077"
    ours = sum(1 << (number - 1) for number in (signal.SIGPIPE, signal.SIGALRM, signal.SIGCHLD, signal.SIGXFSZ))
    assert [int(word, 16) & ours for word in words[2:7:2]] == [0, 0, 0]  # blocked, ignored, caught
    assert {path.stat().st_mode & 0o777 for path in (folder / "M/new").iterdir()} == {0o600}
    assert (folder / "mbox").stat().st_mode & 0o777 == 0o600
    spawn.end()


def wait_until_idle(home: Home, pid: int) -> None:
    """Until worker ``pid`` is back in the tree and sleeps, which it does there for a job only."""

    def idle() -> bool:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] == "S" and os.readlink(f"/proc/{pid}/cwd") == str(
                home.path
            )

    wait_for(idle, "an idle worker")


def children(pid: int) -> list[int]:
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return [int(word) for word in file.read().split()]


def is_user(pid: int) -> bool:
    """Whether it is a worker for somebody, and none to spare."""
    with open(f"/proc/{pid}/status") as file:
        uids = next(line for line in file if line.startswith("Uid:"))
    return int(uids.split()[1]) >= FIRST_UID


def held_by(pid: int) -> set[str]:
    """What a process has open."""
    folder = f"/proc/{pid}/fd"
    return {os.readlink(f"{folder}/{name}").partition(":")[0] for name in os.listdir(folder)}


def test_a_forward_by_a_program_is_heard(home: Home) -> None:
    warm(home, home.user("joe", FIRST_UID, "&ann@elsewhere.example\n"))
    install_script(home.path / "bin/queue", "cat >/dev/null; cat <&1 >/dev/null; echo from the queue >&2")
    spawn = Spawn(home, "qmail-lspawn", "./Mailbox", environ={"QMAILQUEUE": str(home.path / "bin/queue")})
    for _ in range(2):
        assert spawn.deliver("joe@x").startswith(b"Kfrom the queue\ndid 0+1+0\nqp ")
    spawn.end()


def test_a_report_of_no_program_that_is_long_arrives(home: Home) -> None:
    name = "x" * 240
    warm(home, home.user("joe", FIRST_UID, f"./{name}/{'y' * 5000}/\n"))
    spawn = Spawn(home, "qmail-lspawn", "./Mailbox")
    answer = spawn.deliver("joe@x")
    assert answer.startswith(b"ZUnable to")
    assert len(answer) == 1 + 2997
    spawn.end()


@pytest.mark.contract("spawn 5.1")
def test_a_worker_killed_in_the_middle_is_a_deferral_and_the_next_delivery_works(home: Home) -> None:
    lines = home.user("joe", FIRST_UID, "|kill -9 $PPID; echo dying\n"), home.user("ann", FIRST_UID, "|echo fine\n")
    warm(home, *lines)
    spawn = Spawn(home, "qmail-lspawn", "./Mailbox")
    assert spawn.deliver("ann@x").startswith(b"Kfine\n")
    assert spawn.deliver("joe@x") == b"Zqmail-local crashed.\n"
    assert spawn.deliver("ann@x").startswith(b"Kfine\n")
    spawn.end()


def test_a_replaced_qmail_local_is_executed_from_then_on(home: Home) -> None:
    warm(home, home.user("joe", FIRST_UID, "|echo ours\n"))
    spawn = Spawn(home, "qmail-lspawn", "./Mailbox")
    assert spawn.deliver("joe@x").startswith(b"Kours\n")
    (home.path / "bin/qmail-local").unlink()
    install_script(home.path / "bin/qmail-local", "echo theirs")
    assert spawn.deliver("joe@x") == b"Ktheirs\n"
    spawn.end()


@pytest.mark.contract("spawn 1.6")
def test_what_is_read_together_is_looked_up_at_one_look_and_no_later_command_is(home: Home) -> None:
    """A new assignment counts for what is asked for after it, and for nobody else's sake is a file looked at twice."""
    warm(home, home.user("joe", FIRST_UID, "./mbox\n"))
    ann = home.user("ann", FIRST_UID + 1, "./mbox\n")
    looks = home.path / "looks"
    strace = ("strace", "-qq", "-o", str(looks), "-e", "trace=newfstatat,stat,read", "-e", "signal=none", "-s", "300")
    spawn = Spawn(home, "qmail-lspawn", "./Mailbox", wrapper=strace)
    assert spawn.deliver("joe@x") == b"Kdid 1+0+0\n"
    names = [format_command(slot, b"0/1", b"s@x", b"joe@x") for slot in range(6)]
    os.write(spawn.to, b"".join(names))
    assert {spawn.report().letter for _ in names} == {b"K"}
    home.assign(ann + "=joe:joe:0:0:/root:::\n")
    os.write(spawn.to, format_command(0, b"0/1", b"s@x", b"joe@x") + format_command(1, b"0/1", b"s@x", b"ann@x"))
    assert {(report.slot, report.letter) for report in (spawn.report(), spawn.report())} == {(0, b"Z"), (1, b"K")}
    spawn.end()
    turns = looks.read_text().split("read(0, ")
    together = next(turn for turn in turns if turn.count("joe@x") == 6)
    for name in ("users/cdb", "bin/qmail-local", "pyqmail/build.py"):
        assert together.count(name) == 1, together


def test_the_end_of_commands_waits_for_running_deliveries(home: Home) -> None:
    os.mkfifo(home.path / "gate")
    os.chmod(home.path / "gate", 0o666)
    cold(home, "read line < gate; echo $line")
    spawn = Spawn(home, "qmail-lspawn", "./Mailbox")
    spawn.send(7, "joe@x")
    os.write(spawn.to, b"\1incomplete")
    assert spawn.process.stdin is not None
    spawn.process.stdin.close()
    with open(home.path / "gate", "w") as gate:
        gate.write("late\n")
    report = spawn.report()
    assert (report.slot, report.letter + report.text) == (7, b"Klate\n")
    assert spawn.read() == b""
    assert spawn.process.wait(20) == 0


@pytest.mark.contract("spawn 1.1")
def test_no_default_delivery_is_exit_100() -> None:
    assert qmail_lspawn.main([b"qmail-lspawn"], {}) == 100


@pytest.mark.contract("spawn 1.8")
def test_nothing_is_written_to_descriptor_2(home: Home, capfd: pytest.CaptureFixture[str]) -> None:
    cold(home, "echo out; echo error >&2")
    spawn = Spawn(home, "qmail-lspawn", "./Mailbox")
    assert spawn.deliver("joe@x") == b"Kout\nerror\n"
    assert spawn.deliver("joe").startswith(b"D")
    assert spawn.deliver("joe@x", message="0/2").startswith(b"Z")
    (home.path / "bin/qmail-local").unlink()
    assert spawn.deliver("joe@x").startswith(b"Z")
    assert spawn.end() == 0
    assert capfd.readouterr().err == ""


@pytest.mark.contract("spawn 9.9")
def test_a_closed_descriptor_2_is_plugged_and_no_delivery_sees_the_plug(home: Home) -> None:
    cold(home, "cat; readlink /proc/self/fd/1 /proc/self/fd/2; ls -1 /proc/$$/fd")
    closed = ("/bin/sh", "-c", 'exec "$@" 2>&-', "sh")
    spawn = Spawn(home, "qmail-lspawn", "./Mailbox", wrapper=closed)
    assert os.readlink(f"/proc/{spawn.process.pid}/fd/2") == "/dev/null"
    words = [word for word in spawn.deliver("joe@x").split() if word != b"10"]  # 10 is the shell's own
    *message, first, second, zero, one, two = words
    assert message == [b"KSubject:", b"test", b"body"]
    assert first == second
    assert first.startswith(b"pipe:")
    assert [zero, one, two] == [b"0", b"1", b"2"]
    assert spawn.end() == 0


@pytest.mark.contract("spawn 4.5")
def test_the_message_is_on_0_and_one_pipe_on_1_and_2(home: Home) -> None:
    cold(home, "readlink /proc/self/fd/0 /proc/self/fd/1 /proc/self/fd/2")
    spawn = Spawn(home, "qmail-lspawn", "./Mailbox")
    message, output, error = spawn.deliver("joe@x").split()
    assert message == b"K" + os.fsencode(home.path / "queue/mess/0/1")
    assert output == error
    assert output.startswith(b"pipe:")
    spawn.end()
