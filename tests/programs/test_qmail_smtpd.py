"""qmail-smtpd as a process on a real socket: its edges to the system. The conversations are tests/transcripts/smtpd."""

import contextlib
import fcntl
import json
import os
import re
import select
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import cdblib
import pytest

from pyqmail.incoming import decisions, smtp, smtp_connection
from pyqmail.incoming.decisions import DecisionLog
from pyqmail.incoming.smtp import SmtpSession
from pyqmail.incoming.smtp_settings import Settings
from pyqmail.intake.client import Injection
from pyqmail.mailauth.canonical import parse_fields
from pyqmail.policy import interfaces
from pyqmail.remote.signatures import vouched
from pyqmail.stream.lines import LineReader
from pyqmail.stream.stream import Stream
from tests.loopback import everything, talk
from tests.programs.door import BIN, DEADLINE_S, Door, door_of
from tests.programs.smtp_transcripts import fork_ours

NO_CONTROLS = b"421 unable to read controls (#4.3.0)\r\n"


@pytest.fixture
def door() -> Iterator[Door]:
    with door_of("qmail-smtpd", "-x") as made:
        yield made


BEFORE = b"HELO c\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@here.test>\r\n"
MESSAGE = BEFORE + b"DATA\r\nSubject: x\r\n\r\n..y\r\n.\r\nQUIT\r\n"


@pytest.mark.contract("smtpd 1.1", "smtpd 1.2", "smtpd 5.11")
def test_a_message_reaches_the_queue_with_its_received_line(door: Door) -> None:
    replies, code = door.talk(MESSAGE)
    assert code == 0
    assert replies.startswith(b"220 mx.test ESMTP\r\n250 mx.test\r\n250 ok\r\n250 ok\r\n354 go ahead\r\n250 ok ")
    assert door.envelope() == b"Fa@b\0Tc@here.test\0\0" and door.text() == b"Subject: x\n\n.y\n"
    assert re.match(
        rb"Received: from unknown \(HELO c\) \(192\.0\.2\.7\)\n"
        rb"  by mx\.test with SMTP; [1-9]\d? [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d -0000\n",
        (door.base / "message").read_bytes(),
    )


@pytest.mark.contract("smtpd 9.2", "smtpd 2.16")
def test_qp_is_the_pid_of_the_queue_program_and_the_time_is_now(door: Door) -> None:
    before = int(time.time())
    replies, _ = door.talk(MESSAGE)
    found = re.search(rb"250 ok (\d+) qp (\d+)\r\n", replies)
    assert found and before <= int(found[1]) <= time.time()
    assert [int(found[2])] == door.pids()


@pytest.mark.contract("smtpd 1.10", "smtpd 1.11", "smtpd 1.12", "smtpd 1.13", "smtpd 5.11")
@pytest.mark.parametrize(
    ("environ", "hello", "head"),
    [
        pytest.param({}, b"", b"from unknown (unknown)\n  by unknown with SMTP", id="nothing is known"),
        pytest.param(
            {"TCPREMOTEHOST": "Client.test", "TCPREMOTEIP": "192.0.2.1", "TCPLOCALIP": "192.0.2.2"},
            b"EHLO cLient.test\r\n",
            b"from Client.test (192.0.2.1)\n  by 192.0.2.2 with SMTP",
            id="HELO with the name that is known, and the local address",
        ),
        pytest.param(
            {"TCPREMOTEHOST": "client.test", "TCPLOCALHOST": "mx.test", "TCPLOCALIP": "192.0.2.2"},
            b"HELO\r\n",
            b"from client.test (HELO ) (unknown)\n  by mx.test with SMTP",
            id="an empty HELO is shown, and the local name wins",
        ),
        pytest.param(
            {"TCPREMOTEINFO": "", "TCPREMOTEIP": "::1"},
            b"HELO unknown\r\n",
            b"from unknown (@::1)\n  by unknown with SMTP",
            id="an empty IDENT answer still shows its @",
        ),
        pytest.param(
            {"TCPREMOTEINFO": "a_b (c)", "TCPREMOTEHOST": "h(o)st\n", "TCPLOCALHOST": "l\\", "TCPREMOTEIP": "<>"},
            b"HELO under_score [1.2.3.4]%+/=:-@\xff\r\n",
            b"from h?o?st? (HELO under?score?[1.2.3.4]%+/=:-@?) (a?b??c?@??)\n  by l? with SMTP",
            id="bytes that could break the line or a comment",
        ),
    ],
)
def test_received(door: Door, environ: dict[str, str], hello: bytes, head: bytes) -> None:
    door.environ = {name: door.environ[name] for name in ("QMAIL_HOME", "QMAILQUEUE")} | environ
    door.talk(hello + MESSAGE.removeprefix(b"HELO c\r\n"))
    assert (door.base / "message").read_bytes().startswith(b"Received: " + head + b"; ")


@pytest.mark.contract("smtpd 1.3")
def test_without_a_home_it_says_421(door: Door) -> None:
    door.environ["QMAIL_HOME"] = str(door.base / "missing")
    assert door.talk(b"QUIT\r\n") == (NO_CONTROLS, 1)


@pytest.mark.contract("smtpd 1", "smtpd 1.9")
@pytest.mark.parametrize(
    "name",
    ["me", "smtpgreeting", "localiphost", "timeoutsmtpd", "rcpthosts", "badmailfrom", "databytes", "morercpthosts.cdb"],
)
def test_a_control_file_that_cannot_be_read_is_not_a_missing_one(door: Door, name: str) -> None:
    path = door.base / "control" / name
    path.unlink(missing_ok=True)
    path.symlink_to(name)  # a loop: even root cannot read it
    assert door.talk(b"QUIT\r\n") == (NO_CONTROLS, 1)


@pytest.mark.contract("smtpd 1.4", "smtpd 1.6")
def test_a_client_that_has_gone_is_exit_1_and_no_signal(door: Door) -> None:
    ours, process = door.start()
    ours.recv(1)
    ours.sendall(b"NOOP\r\n" * 20000)
    ours.close()
    assert process.wait(DEADLINE_S) == 1
    assert door.log.read_bytes() == b""


@pytest.mark.contract("smtpd 1.8")
def test_a_command_may_be_very_long(door: Door) -> None:
    wire = b"NOOP " + b"x" * 1000000 + b"\r\nMAIL FROM:" + b" " * 100000 + b"<a@b>\r\nQUIT\r\n"
    replies, code = door.talk(wire)
    assert (replies, code) == (b"220 mx.test ESMTP\r\n250 ok\r\n250 ok\r\n221 mx.test\r\n", 0)


@pytest.mark.contract("smtpd 2.22")
@pytest.mark.parametrize(
    "wire",
    [
        pytest.param(b"x" * (smtp_connection.COMMAND_MAX + 200000), id="a command without an end"),
        pytest.param(b"MAIL\r\n" + b"RCPT TO:<a@here.test>\r\n" * 115000, id="recipients without an end"),
    ],
)
def test_what_would_fill_the_memory_ends_the_session(door: Door, wire: bytes) -> None:
    ours, process = door.start()
    with ours:
        heard = b""
        left = memoryview(wire)
        try:
            while left:
                ready = select.select([ours], [ours], [], DEADLINE_S)
                if ready[0]:
                    chunk = ours.recv(65536)
                    if not chunk:
                        break
                    heard = heard[-100:] + chunk
                elif ready[1]:
                    left = left[ours.send(left[:65536], socket.MSG_DONTWAIT) :]
        except ConnectionError:
            pass  # we were still talking
        heard += everything(ours)
        assert process.wait(DEADLINE_S) == 1
    assert heard.endswith(b"421 out of memory (#4.3.0)\r\n")


@pytest.mark.contract("smtpd 2.20", "smtpd 1.20", "smtpd 9.8")
def test_a_silent_client_is_told_and_dropped(door: Door) -> None:
    door.control(timeoutsmtpd="0")
    ours, process = door.start()
    with ours:
        assert everything(ours) == b"220 mx.test ESMTP\r\n451 timeout (#4.4.2)\r\n"
        assert process.wait(DEADLINE_S) == 1


def test_a_session_may_be_idle_between_messages_and_go_on_without_rset(door: Door) -> None:
    """OpenSMTPD keeps a session for 10 s after its mail, and so does this, once; timeoutsmtpd is as it is shipped."""
    ours, process = door.start()
    with ours, ours.makefile("rb") as replies:
        assert replies.readline().startswith(b"220 ")
        for idle_s in (10, 0):
            ours.sendall(b"MAIL FROM:<a@b>\r\nRCPT TO:<c@here.test>\r\nDATA\r\n")
            assert [replies.readline()[:3] for _ in range(3)] == [b"250", b"250", b"354"]
            ours.sendall(b"Subject: x\r\n\r\nx\r\n.\r\n")
            assert replies.readline().startswith(b"250 ok ")
            assert select.select([ours], [], [], idle_s)[0] == []  # nothing is said, and nothing closed
        ours.sendall(b"QUIT\r\n")
        assert replies.read().startswith(b"221 ")
        assert process.wait(DEADLINE_S) == 0
    assert len(door.pids()) == 2


@pytest.mark.contract("smtpd 9.12", "smtpd 1.20")
def test_a_client_silent_in_its_message_is_told_and_dropped(door: Door) -> None:
    door.control(timeoutsmtpd="1")
    ours, process = door.start()
    with ours:
        ours.sendall(BEFORE + b"DATA\r\nSubject: x\r\n")
        assert everything(ours).endswith(b"354 go ahead\r\n451 timeout (#4.4.2)\r\n")
        assert process.wait(DEADLINE_S) == 1
    assert door.envelope() == b""


@pytest.mark.contract("smtpd 2", "smtpd 1.20")
def test_a_client_that_never_reads_is_dropped_without_a_word(door: Door) -> None:
    door.control(timeoutsmtpd="1", smtpgreeting="g" * 60000)
    ours, process = door.start()
    with ours:
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        ours.sendall(b"HELO x\r\n" * 100)
        assert process.wait(DEADLINE_S) == 1
        assert b"timeout" not in everything(ours)


@pytest.mark.parametrize("kind", ["pipes", "a socket that somebody made non-blocking"])
def test_other_descriptors_have_the_time_limit_too(door: Door, kind: str) -> None:
    door.control(timeoutsmtpd="1")
    if kind == "pipes":
        (reader, ours), (answers, writer) = os.pipe(), os.pipe()
    else:
        first, second = socket.socketpair()
        second.setblocking(False)
        ours = answers = first.detach()
        reader = writer = second.detach()
    process = subprocess.Popen([BIN / "qmail-smtpd"], stdin=reader, stdout=writer, env=door.environ)
    for fd in {reader, writer}:
        os.close(fd)
    os.write(ours, b"NOOP\r\n")
    heard = b""
    while chunk := os.read(answers, 4096):
        heard += chunk
    assert heard == b"220 mx.test ESMTP\r\n250 ok\r\n451 timeout (#4.4.2)\r\n" and process.wait(DEADLINE_S) == 1
    for fd in {ours, answers}:
        os.close(fd)


@pytest.mark.contract("smtpd 2.19")
def test_no_process_for_the_queue_is_451_before_354(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_pipes(*_: object, **__: object) -> None:
        raise OSError(24, "no descriptors")

    monkeypatch.setattr(Injection, "open", no_pipes)
    replies = in_process(door, BEFORE + b"DATA\r\nMAIL FROM:<>\r\nDATA\r\nQUIT\r\n")
    assert replies.endswith(
        b"250 ok\r\n451 qqt failure (#4.3.0)\r\n250 ok\r\n503 RCPT first (#5.5.1)\r\n221 mx.test\r\n"
    )


@pytest.mark.contract("smtpd 2.23")
def test_unknown_interfaces_are_421(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown() -> None:
        raise OSError(12, "no memory")

    monkeypatch.setattr(interfaces, "local_addresses", unknown)
    replies = in_process(door, b"MAIL FROM:<a@[127.0.0.1]>\r\nQUIT\r\n")
    assert replies.endswith(b"ESMTP\r\n421 unable to figure out my IP addresses (#4.3.0)\r\n")


def in_process(door: Door, wire: bytes) -> bytes:
    """The replies of a session in a fork of this very process, which a test may have changed."""
    ours, theirs = socket.socketpair()
    with theirs, door.log.open("wb") as log:
        pid = fork_ours(theirs.fileno(), log.fileno(), door.environ)
    with ours:
        heard = talk(ours, wire)
    os.waitpid(pid, 0)
    return heard


@pytest.mark.contract("smtpd 3.22")
def test_a_queue_program_whose_end_cannot_be_learned_is_451(door: Door) -> None:
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # ours starts with it: the kernel forgets its children
    try:
        ours, process = door.start()
    finally:
        signal.signal(signal.SIGCHLD, before)
    with ours:
        ours.sendall(MESSAGE)
        assert b"451 qq waitpid surprise (#4.3.0)\r\n" in everything(ours)
    process.wait(DEADLINE_S)


@pytest.mark.contract("smtpd 9.11", "smtpd 3.17")
def test_the_text_on_descriptor_6_is_read_to_its_end(door: Door) -> None:
    fifo = door.base / "fifo"
    os.mkfifo(fifo)
    door.queue(f"(read x <{fifo}; printf 'not yet' >&6) & printf 'Ztry ' >&6; exit 82")
    ours, process = door.start()
    with ours:
        ours.sendall(MESSAGE)
        with fifo.open("w") as background:  # opens once the background process waits there; the program has ended
            background.write("x\n")
        heard = everything(ours)
    assert b"451 try not yet\r\n" in heard and process.wait(DEADLINE_S) == 0


@pytest.mark.contract("smtpd 3.17")
def test_at_most_255_bytes_of_the_text_are_sent(door: Door) -> None:
    door.queue("head -c 400 /dev/zero | tr '\\0' x | sed s/x/D/ >&6; exit 82")
    assert b"554 " + b"x" * 254 + b"\r\n" in door.talk(MESSAGE)[0]


@pytest.mark.contract("smtpd 4.5", "smtpd 1.7")
@pytest.mark.parametrize(
    ("command", "waits"),
    [(b"MAIL", True), (b"RCPT", True), (b"RSET", True)]
    + [(verb, False) for verb in (b"DATA", b"HELO", b"EHLO", b"HELP", b"NOOP", b"VRFY", b"WHAT", b"QUIT")],
)
def test_replies_that_wait_for_the_next_read_and_replies_that_do_not(
    door: Door, monkeypatch: pytest.MonkeyPatch, command: bytes, waits: bool
) -> None:
    sent: list[bytes] = []
    monkeypatch.setattr(decisions, "log_mode", lambda environ, sockets: 0)
    monkeypatch.setattr(LineReader, "line", lambda reader: (sent.append(b"LINE"), reader_line(reader))[1])
    environ = {os.fsencode(name): os.fsencode(value) for name, value in door.environ.items()}
    settings = Settings(str(door.base), environ)
    noted = Noted(command + b"\r\nQUIT\r\n", sent)
    SmtpSession(settings, noted, DecisionLog(b"qmail-smtpd", environ)).run()
    settings.close()
    first = sent.index(b"LINE")
    assert (b"FLUSH" not in sent[first : (sent + [b"LINE"]).index(b"LINE", first + 1)]) is waits


reader_line = LineReader.line


class Noted(Stream):
    """Notes what happens: FLUSH for a flush."""

    def __init__(self, wire: bytes, events: list[bytes]) -> None:
        super().__init__()
        self._wire = wire
        self._events = events

    def read(self) -> bytes:
        return self._wire

    def write(self, data: bytes | bytearray) -> None:
        self._events.append(bytes(data))

    def flush(self) -> None:
        self._events.append(b"FLUSH")

    def say(self, data: bytes | bytearray) -> None:
        self.write(data)
        self.flush()

    def close(self) -> None: ...

    def until(self, deadline: float | None) -> None: ...

    def _receive(self) -> bytes:
        raise AssertionError

    def _send(self, data: bytes | bytearray) -> None:
        raise AssertionError

    def _surrender(self) -> Stream:
        raise AssertionError


def write_morercpthosts(door: Door, *hosts: bytes) -> Path:
    """The second list."""
    path = door.base / "control" / "morercpthosts.cdb"
    with path.open("wb") as file, cdblib.Writer(file) as writer:
        for host in hosts:
            writer.put(host, b"")
    return path


@pytest.mark.contract("smtpd 1.22", "smtpd 4.13")
def test_morercpthosts_by_the_same_rules(door: Door) -> None:
    write_morercpthosts(door, b"more.test", b".sub.test")
    recipients = (b"a@MORE.test", b"b@x.sub.test", b"c@sub.test", b"d@here.test")
    wire = b"MAIL\r\n" + b"".join(b"RCPT TO:<%b>\r\n" % each for each in recipients) + b"QUIT\r\n"
    assert [line[:3] for line in door.talk(wire)[0].split(b"\r\n")[2:6]] == [b"250", b"250", b"553", b"250"]
    (door.base / "control" / "rcpthosts").unlink()
    assert [line[:3] for line in door.talk(wire)[0].split(b"\r\n")[2:6]] == [b"553"] * 4


@pytest.mark.contract("smtpd 9.10")
def test_a_damaged_morercpthosts_is_noticed_when_it_is_needed(door: Door) -> None:
    path = write_morercpthosts(door, b"more.test")
    path.write_bytes(path.read_bytes()[:2048] + b"x")
    wire = b"MAIL\r\nRCPT TO:<a@here.test>\r\nRCPT TO:<b>\r\nRCPT TO:<c@more.test>\r\nNOOP\r\n"
    assert door.talk(wire) == (b"220 mx.test ESMTP\r\n250 ok\r\n250 ok\r\n250 ok\r\n" + NO_CONTROLS, 1)


# The log


@contextlib.contextmanager
def session_with_a_full_log(door: Door) -> Iterator[tuple[socket.socket, int]]:
    """A session that must end well in a fork of this process: our end of its line, and the reader of its full log."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    os.write(writer, b"x" * 4096)
    ours, theirs = socket.socketpair()
    with theirs:
        pid = fork_ours(theirs.fileno(), writer, door.environ)
    os.close(writer)
    with ours:
        ours.settimeout(DEADLINE_S)
        yield ours, reader
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    os.close(reader)


def test_a_full_log_holds_nobody_up(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smtp, "LOG_WAIT_S", 0.1)
    (door.base / "control" / "rcpthosts").unlink()
    with session_with_a_full_log(door) as (ours, _):
        ours.sendall(b"MAIL\r\nRCPT TO:<a@elsewhere.test>\r\nRCPT TO:<b@mx.test>\r\nDATA\r\nx\r\n.\r\nQUIT\r\n")
        heard = everything(ours)
    assert heard.endswith(b"221 mx.test\r\n") and b"\r\n250 ok 1" in heard


def test_the_decision_comes_after_the_answer(door: Door) -> None:
    with session_with_a_full_log(door) as (ours, reader):
        ours.sendall(MESSAGE.removesuffix(b"QUIT\r\n"))
        heard = b""
        while b"\r\n250 ok 1" not in heard:  # while its log is full
            heard += ours.recv(4096)
        os.read(reader, 4096)
        assert os.read(reader, 4096).startswith(b"qmail-smtpd: accepted ip=")
        ours.sendall(b"QUIT\r\n")
        everything(ours)


def test_a_log_that_stays_full_is_waited_for_once(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smtp, "LOG_WAIT_S", 0.3)
    start = time.monotonic()
    with session_with_a_full_log(door) as (ours, _):
        ours.sendall(b"MAIL\r\n" + b"RCPT TO:<a@elsewhere.test>\r\n" * 200 + b"QUIT\r\n")
        assert everything(ours).count(b"\r\n553 ") == 200
    assert 0.3 <= time.monotonic() - start < 20


@pytest.mark.parametrize("kind", ["a socket", "the line itself", "closed", "sendmail -bs"])
def test_what_is_no_log_gets_no_line(door: Door, kind: str) -> None:
    ours, theirs = socket.socketpair()
    other, log = socket.socketpair()
    environ = dict(door.environ)
    options: dict[str, object] = {"stderr": {"a socket": log, "the line itself": theirs}.get(kind)}
    if kind == "closed":
        options = {"preexec_fn": lambda: os.close(2)}
    if kind == "sendmail -bs":
        options = {"stderr": door.log.open("wb")}
        environ |= {"TCPREMOTEINFO": "sendmail-bs", "TCPREMOTEIP": "127.0.0.1"}
    process = subprocess.Popen(  # type: ignore[call-overload]
        [BIN / "qmail-smtpd"], stdin=theirs, stdout=theirs, env=environ, **options
    )
    theirs.close()
    log.close()
    with ours, other:
        ours.sendall(MESSAGE)
        replies = everything(ours)
        assert process.wait(DEADLINE_S) == 0
        assert b"qmail-smtpd:" not in replies
        assert everything(other) == b""
    assert kind != "sendmail -bs" or door.log.read_bytes() == b""


def test_the_journal_of_systemd_is_a_log(door: Door) -> None:
    ours, theirs = socket.socketpair()
    other, log = socket.socketpair()
    stamp = os.fstat(log.fileno())
    environ = door.environ | {"JOURNAL_STREAM": f"{stamp.st_dev}:{stamp.st_ino}"}
    with theirs, log:
        process = subprocess.Popen([BIN / "qmail-smtpd"], stdin=theirs, stdout=theirs, stderr=log, env=environ)
    with ours, other:
        ours.sendall(MESSAGE)
        everything(ours)
        assert process.wait(DEADLINE_S) == 0
        assert re.fullmatch(rb"qmail-smtpd: accepted ip=.*\n", everything(other))


def logged(door: Door, lines: bytes = MESSAGE) -> list[bytes]:
    """The log of one session."""
    ours, theirs = socket.socketpair()
    with theirs, door.log.open("wb") as log:
        process = subprocess.Popen([BIN / "qmail-smtpd"], stdin=theirs, stdout=theirs, stderr=log, env=door.environ)
    with ours:
        ours.sendall(lines)
        everything(ours)
    assert process.wait(DEADLINE_S) == 0
    return door.log.read_bytes().splitlines()


def test_decisions_are_json_where_control_logformat_says_so(door: Door) -> None:
    (door.base / "control/logformat").write_text("json\n")
    (line,) = logged(door)
    members = json.loads(line)
    assert (members["program"], members["event"], members["result"]) == ("qmail-smtpd", "decision", "accepted")
    assert isinstance(members["to"], list) and members["qp"] > 0 and members["bytes"] > 0
    (door.base / "control/logformat").write_text("both\n")
    classic, twin = logged(door)
    assert classic.startswith(b"qmail-smtpd: accepted ip=") and json.loads(twin)["result"] == "accepted"
    (door.base / "control/logformat").write_text("xml\n")
    (line,) = logged(door)
    assert line.startswith(b"qmail-smtpd: accepted ip=")


def test_a_long_decision_is_a_whole_object(door: Door) -> None:
    (door.base / "control/logformat").write_text("json\n")
    recipients = b"".join(b"RCPT TO:<%b%d@here.test>\r\n" % (b"x" * 200, number) for number in range(40))
    hello = b"HELO " + b"\x01" * 300 + b"\r\n"
    text = b"MAIL FROM:<" + b"y" * 800 + b"@a.test>\r\n" + recipients + b"DATA\r\n.\r\nQUIT\r\n"
    (line,) = logged(door, hello + text)
    assert len(line) < 4096 and json.loads(line)["more"] + len(json.loads(line)["to"]) == 40


def test_decisions_can_be_left_out(door: Door) -> None:
    (door.base / "control/logdecisions").write_text("0\n")
    assert logged(door) == []
    door.environ["LOGDECISIONS"] = "1"
    assert len(logged(door)) == 1


def test_a_line_holds_as_many_recipients_as_fit_and_counts_the_rest(door: Door) -> None:
    recipients = b"".join(b"RCPT TO:<%b%d@here.test>\r\n" % (b"x" * 200, number) for number in range(40))
    door.talk(b"MAIL FROM:<a@b>\r\n" + recipients + b"DATA\r\nx\r\n.\r\n")
    line = door.log.read_bytes()
    assert len(line) <= 4096 and line.count(b"\n") == 1
    found = re.fullmatch(rb"qmail-smtpd: accepted \S+ helo= from=<a@b> to=(\S+),\+(\d+) bytes=2 qp=\d+\n", line)
    assert found and found[1].count(b"<") + int(found[2]) == 40


@pytest.mark.parametrize(
    ("environ", "added"),
    [
        ({"RELAYCLIENT": "", "COMPLETEHEADER": ""}, rb"Date: [^\n]* -0000\nMessage-ID: <[^\n>]*@mx\.test>\n"),
        ({"RELAYCLIENT": ""}, b""),
        ({"COMPLETEHEADER": ""}, b""),
    ],
)
def test_a_rule_completes_the_messages_of_relay_clients(door: Door, environ: dict[str, str], added: bytes) -> None:
    door.environ |= environ
    door.talk(MESSAGE)
    assert re.fullmatch(added + rb"Subject: x\n\n\.y\n", door.text())


@pytest.mark.parametrize(("relay", "keys"), [(True, True), (True, False), (False, True)])
def test_received_tells_qmail_remote_whom_to_sign_for(door: Door, relay: bool, keys: bool) -> None:
    if relay:
        door.environ["RELAYCLIENT"] = ""
    if keys:
        (door.base / "control" / "domainkeys").mkdir()
    door.talk(MESSAGE)
    received = (door.base / "message").read_bytes()
    assert (b" with SMTP (relay client); " in received) is (relay and keys)
    queued = b"Received: (qmail 7 invoked from network); 1 Jan 2026 00:00:00 -0000\n"
    fields = parse_fields(queued + received.partition(b"Subject:")[0])
    assert vouched(fields, b"b.test", b"mx.test") is (relay and keys)
