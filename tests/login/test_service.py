"""qmail-authd as a process: what it answers, to whom, when, and what qmail-smtpd makes of it."""

import base64
import hashlib
import hmac
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pyqmail.login import passwords
from pyqmail.login.answer import Answer
from pyqmail.login.client import ask
from pyqmail.login.passwords import hash_password
from pyqmail.login.virtual_users import VirtualUser, write_users
from pyqmail.protocol.logins import SOCKET, format_question
from pyqmail.protocol.sasl import Credentials
from tests.incoming.test_security import Client
from tests.integration.mailhost import ensure_user
from tests.programs.door import BIN, DEADLINE_S, Door, door_of
from tests.waiting import wait_for

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the service runs as root")
SECRET = b"right horse"
ANN = b"ann@v.example"


def listens(home: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        try:
            sock.connect(str(home) + SOCKET)
        except OSError:
            return False
        return True


def authd(door: Door) -> "subprocess.Popen[bytes]":
    process = subprocess.Popen([BIN / "qmail-authd"], env={"QMAIL_HOME": str(door.base)})
    wait_for(lambda: listens(door.base), "qmail-authd", DEADLINE_S)
    return process


@pytest.fixture
def door(monkeypatch: pytest.MonkeyPatch) -> Iterator[Door]:
    monkeypatch.setattr(passwords, "LN", 4)  # a busy machine must not take as long as a wait does
    with door_of("qmail-smtpd") as made:
        for name in ("run", "users"):
            (made.base / name).mkdir()
        user = VirtualUser(ANN, hash_password(SECRET), SECRET, 40001, 40001, b"/tmp")
        plain = VirtualUser(b"bob@v.example", user.password_hash, b"", 40001, 40001, b"/tmp")
        write_users(str(made.base), {ANN: user, plain.address: plain})
        made.control(authd="virtual")
        made.environ |= {"SMTPAUTH": "!+cram", "FORCETLS": "0"}
        process = subprocess.Popen([BIN / "qmail-authd"], env={"QMAIL_HOME": str(made.base)})
        try:
            wait_for(lambda: listens(made.base), "qmail-authd", DEADLINE_S)
            yield made
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(DEADLINE_S) == 0


def answer(door: Door, user: bytes, secret: bytes, ip: bytes = b"192.0.2.7") -> tuple[Answer, bytes]:
    return ask(str(door.base), Credentials(b"plain", user, secret), ip)


def test_virtual_users_log_in_in_any_case(door: Door) -> None:
    assert answer(door, b"Ann@V.example", SECRET) == (Answer.YES, ANN)


def test_who_is_not_known_is_answered_when_a_wrong_password_is(door: Door) -> None:
    for user in (ANN, b"nobody@v.example"):
        began = time.monotonic()
        assert answer(door, user, b"wrong") == (Answer.NO, b"")
        assert 3.4 < time.monotonic() - began < 6


def test_who_guesses_waits_and_others_do_not(door: Door) -> None:
    began = time.monotonic()
    for _ in range(2):
        answer(door, ANN, b"wrong")
    first = time.monotonic()
    assert answer(door, ANN, SECRET)[0] is Answer.YES
    assert time.monotonic() - first > 0.9  # a second for two wrong passwords
    second = time.monotonic()
    assert answer(door, ANN, SECRET)[0] is Answer.YES
    assert time.monotonic() - second < 0.9
    assert second - began > 7


def test_who_guesses_at_once_is_as_slow_and_holds_up_nobody_elsewhere(door: Door) -> None:
    began = time.monotonic()
    with ThreadPoolExecutor(6) as many:
        guesses = [many.submit(answer, door, b"user%d@v.example" % number, b"wrong") for number in range(6)]
        wait_for(lambda: any(guess.done() for guess in guesses), "the first answer")
        second = time.monotonic()
        assert answer(door, ANN, SECRET, b"198.51.100.1")[0] is Answer.YES
        assert time.monotonic() - second < 3
        assert [guess.result()[0] for guess in guesses] == [Answer.NO] * 6
    assert time.monotonic() - began > 3 * 3.4  # two at a time


def test_a_restart_forgets_nobody() -> None:
    with door_of("qmail-smtpd") as door:
        for name in ("run", "users"):
            (door.base / name).mkdir()
        door.control(authd="virtual")
        counts = door.base / "users/authd.failures"
        process = authd(door)
        for _ in range(2):
            assert answer(door, ANN, b"wrong") == (Answer.NO, b"")
        process.terminate()
        assert process.wait(DEADLINE_S) == 0
        assert counts.stat().st_mode & 0o777 == 0o600
        (door.base / "run/qmail-authd.sock").unlink()
        process = authd(door)
        wait_for(lambda: not counts.exists(), "the counts that are read", DEADLINE_S)
        began = time.monotonic()
        answer(door, ANN, b"wrong")
        assert time.monotonic() - began > 4.4  # 3.5, and a second for the two before
        process.terminate()
        assert process.wait(DEADLINE_S) == 0


def test_accounts_of_the_system_are_not_asked_about_where_only_virtual_ones_are(door: Door) -> None:
    assert answer(door, b"root", b"x")[0] is Answer.NO


@pytest.mark.parametrize(
    ("program", "found"),
    [("exit 0", Answer.YES), ("exit 1", Answer.NO), ("exit 111", Answer.LATER), ("kill -9 $$", Answer.LATER)],
)
def test_a_program_of_the_admin(door: Door, program: str, found: Answer) -> None:
    path = door.base / "checker"
    path.write_text(f'#!/bin/sh\n[ "$TCPREMOTEIP" = 192.0.2.7 ] || exit 0\n{program}\n')
    path.chmod(0o755)
    door.control(authd=f"{path} true")
    assert answer(door, b"joe", b"pw")[0] is found


def test_a_program_of_the_admin_has_its_standard_descriptors(door: Door) -> None:
    """A file that it opens must not become descriptor 2, where its complaints go."""
    path = door.base / "checker"
    path.write_text('#!/bin/sh\nfor fd in 0 1 2; do [ "$(readlink /proc/$$/fd/$fd)" = /dev/null ] || exit 1; done\n')
    path.chmod(0o755)
    door.control(authd=f"{path} true")
    assert answer(door, ANN, SECRET) == (Answer.YES, ANN)


@pytest.mark.parametrize("text", ["/nowhere/checker true", "virtua"])
def test_what_cannot_be_asked_is_no_answer(door: Door, text: str) -> None:
    door.control(authd=text)
    assert answer(door, ANN, SECRET)[0] is Answer.LATER


def test_a_damaged_database_is_no_answer(door: Door) -> None:
    (door.base / "users/virtual.cdb").write_bytes(b"x")
    assert answer(door, ANN, SECRET)[0] is Answer.LATER


def test_others_are_hung_up_on_unread(door: Door) -> None:
    door.base.chmod(0o755)
    program = (
        "import os, socket, sys\n"
        "os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)\n"
        "sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET); sock.connect(sys.argv[1])\n"
        "try: assert sock.recv(10) == b''\n"
        "except ConnectionResetError: pass\n"
    )
    subprocess.run(["/usr/bin/python3", "-c", program, str(door.base) + SOCKET], check=True, timeout=DEADLINE_S)


@pytest.mark.parametrize("record", [b"", b"pl1", b"pl2plain\0a\0b\0\0", b"x" * 5000, b"pl1plain\0a\n\0b\0\0"])
def test_what_is_no_question_is_hung_up_on(door: Door, record: bytes) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.settimeout(DEADLINE_S)
        sock.connect(str(door.base) + SOCKET)
        sock.send(record)
        assert sock.recv(10) == b""


def test_a_socket_of_somebody_else_is_told_no_password(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as trap:
        trap.bind(str(tmp_path) + SOCKET)
        pid = os.fork()
        if pid == 0:
            os.setresuid(65534, 65534, 65534)
            trap.listen()
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        assert ask(str(tmp_path), Credentials(b"plain", b"ann", b"pw"), b"") == (Answer.LATER, b"")


def test_qmail_smtpd_asks_it(door: Door) -> None:
    client = Client(door)
    client.reply()
    assert b"250 AUTH LOGIN PLAIN CRAM-MD5\r\n" in client.say(b"EHLO c")
    assert client.say(b"AUTH PLAIN " + base64.b64encode(b"\0Ann@v.example\0" + SECRET)).startswith(b"235 ")
    for command in (b"MAIL FROM:<a@b>", b"RCPT TO:<c@elsewhere.test>", b"DATA", b"x: y\r\n."):
        client.say(command)
    client.say(b"QUIT")
    log = client.end()[2]
    assert "type=plain user=<ann@v.example>" in log.lower() and " authuser=ann@v.example authtype=plain" in log
    assert door.base.joinpath("envelope").read_bytes() == b"Fa@b\0Tc@elsewhere.test\0\0"


@pytest.mark.parametrize(("user", "reply"), [(ANN, b"235 "), (b"bob@v.example", b"535 "), (b"no@v.example", b"535 ")])
def test_cram_md5_is_for_users_with_a_secret(door: Door, user: bytes, reply: bytes) -> None:
    client = Client(door)
    client.reply()
    challenge = base64.b64decode(client.say(b"AUTH CRAM-MD5").removeprefix(b"334 "))
    digest = hmac.new(SECRET, challenge, hashlib.md5).hexdigest().encode()
    assert client.say(base64.b64encode(user + b" " + digest)).startswith(reply)


def test_a_service_that_is_away_is_454() -> None:
    with door_of("qmail-smtpd") as door:
        door.environ |= {"SMTPAUTH": "", "FORCETLS": "0"}
        client = Client(door)
        client.reply()
        assert client.say(b"AUTH PLAIN " + base64.b64encode(b"\0ann\0pw")).startswith(b"454 ")


def test_a_question_is_not_more_than_it_may_be() -> None:
    longest = Credentials(b"cram-md5", b"u" * 250, b"s" * 200, b"c" * 59)
    assert longest.possible and len(format_question(longest, b"2001:db8::1")) <= 1024


def pop3(door: Door, password: bytes, name: bytes = ANN) -> tuple[int, bytes]:
    """What checkpassword ends with, and whom it became."""
    request = door.base / "request"
    request.write_bytes(name + b"\0" + password + b"\0<1.2@host>\0")
    words = ["/bin/sh", "-c", f'exec "$@" 3<{request}', "sh", str(BIN / "checkpassword"), "/usr/bin/id", "-u"]
    environ = {"QMAIL_HOME": str(door.base), "TCPREMOTEIP": "192.0.2.7"}
    done = subprocess.run(words, env=environ, stdout=subprocess.PIPE, timeout=DEADLINE_S)
    return done.returncode, done.stdout


def test_pop3_counts_too(door: Door) -> None:
    assert pop3(door, SECRET) == (0, b"40001\n")
    assert pop3(door, hashlib.md5(b"<1.2@host>" + SECRET).hexdigest().encode()) == (0, b"40001\n")  # APOP
    assert [pop3(door, b"wrong") for _ in range(2)] == [(1, b"")] * 2
    began = time.monotonic()
    assert answer(door, ANN, SECRET)[0] is Answer.YES
    assert time.monotonic() - began > 0.9


def test_pop3_is_no_answer_where_the_service_has_none(door: Door) -> None:
    door.control(authd="virtua")
    assert pop3(door, SECRET) == (111, b"")


def test_accounts_of_the_system_by_pam(door: Door) -> None:
    pytest.importorskip("pamela")
    account = ensure_user("pqauth")
    subprocess.run(["chpasswd"], input=b"pqauth:one of many words\n", check=True)
    door.control(authd="")
    assert answer(door, b"pqauth", b"one of many words") == (Answer.YES, b"pqauth")
    assert answer(door, b"pqauth", b"another")[0] is Answer.NO
    assert answer(door, b"nobody-at-all", b"x")[0] is Answer.NO
    assert pop3(door, b"one of many words", b"pqauth") == (0, b"%d\n" % account.pw_uid)


def children_faults(process: "subprocess.Popen[bytes]") -> int:
    """Pages faulted in by children that it has waited for: more than before after each that was forked."""
    return int(Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[8])


def test_who_was_right_a_moment_ago_is_not_looked_at_again() -> None:
    with door_of("qmail-smtpd") as door:
        for name in ("run", "users"):
            (door.base / name).mkdir()
        door.control(authd="virtual")
        write_users(str(door.base), {ANN: VirtualUser(ANN, hash_password(SECRET), b"", 40001, 40001, b"/tmp")})
        process = authd(door)
        wait_for(lambda: answer(door, ANN, SECRET)[0] is Answer.YES and settled(door, process), "a memory", DEADLINE_S)
        assert answer(door, ANN, b"wrong") == (Answer.NO, b"")
        write_users(str(door.base), {ANN: VirtualUser(ANN, hash_password(b"new"), b"", 40001, 40001, b"/tmp")})
        assert answer(door, ANN, SECRET) == (Answer.NO, b"")
        process.terminate()
        assert process.wait(DEADLINE_S) == 0


def settled(door: Door, process: "subprocess.Popen[bytes]") -> bool:
    """Whether the next yes takes no child: one that answers has ended a little later."""
    before = children_faults(process)
    assert answer(door, ANN, SECRET) == (Answer.YES, ANN)
    wait_for(lambda: not children_of(process), "the end of children", DEADLINE_S)
    return children_faults(process) == before


def children_of(process: "subprocess.Popen[bytes]") -> str:
    return Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()


def test_an_account_whose_password_was_changed_has_the_new_one_at_once(door: Door) -> None:
    pytest.importorskip("pamela")
    ensure_user("pqauth")
    door.control(authd="")
    for password in (b"the first of two", b"the second of two", b"the first of two"):
        subprocess.run(["chpasswd"], input=b"pqauth:" + password + b"\n", check=True)
        assert [answer(door, b"pqauth", password)[0] for _ in range(3)] == [Answer.YES] * 3
    assert answer(door, b"pqauth", b"the second of two")[0] is Answer.NO


def test_who_was_right_before_is_not_kept_out_by_who_guesses_from_everywhere() -> None:
    pytest.importorskip("pamela")
    ensure_user("pqauth")
    subprocess.run(["chpasswd"], input=b"pqauth:one of many words\n", check=True)
    with door_of("qmail-smtpd") as door, ThreadPoolExecutor(24) as many:
        for name in ("run", "users"):
            (door.base / name).mkdir()
        door.control(authd="", authcachettl="0")
        process = authd(door)
        right = b"pqauth", b"one of many words", b"203.0.113.9"
        assert answer(door, *right)[0] is Answer.YES
        guesses = [many.submit(answer, door, b"pqauth", b"wrong", b"198.51.100.%d" % number) for number in range(24)]
        wait_for(lambda: any(guess.done() for guess in guesses), "the first no", DEADLINE_S)
        assert sum(guess.done() for guess in guesses) < 12  # many wait
        assert answer(door, *right)[0] is Answer.YES
        waiting = sum(not guess.done() for guess in guesses)
        process.terminate()
        assert process.wait(DEADLINE_S) == 0
        assert waiting > 6


def test_a_question_of_who_has_gone_is_not_looked_at() -> None:
    with door_of("qmail-smtpd") as door:
        for name in ("run", "users"):
            (door.base / name).mkdir()
        asked = door.base / "asked"
        checker = door.base / "checker"
        checker.write_text(f"#!/bin/sh\nhead -c 3 <&3 >>{asked}\nsleep 1\nexit 0\n")
        checker.chmod(0o755)
        door.control(authd=f"{checker} true")
        process = authd(door)
        socks = []
        for number in range(4):
            socks.append(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
            socks[-1].connect(str(door.base) + SOCKET)
            socks[-1].send(format_question(Credentials(b"plain", b"us%d" % number, b"x"), b"192.0.2.1"))
        wait_for(lambda: asked.exists() and len(asked.read_bytes()) == 6, "two checks", DEADLINE_S)
        socks[2].close()  # it waits: its network has two
        assert socks[3].recv(10)[:1] == Answer.YES.value
        assert asked.read_bytes().count(b"us2") == 0 and len(asked.read_bytes()) == 9
        process.terminate()
        assert process.wait(DEADLINE_S) == 0
        for sock in socks:
            sock.close()
