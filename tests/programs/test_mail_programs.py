"""qreceipt, qbiff, maildir2mbox, predate, datemail and mailsubj as processes (contract inject, section 4)."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pyqmail.programs import maildir2mbox, qbiff
from tests.programs.test_small_programs import MESSAGE, Sandbox

ROOT = Path(__file__).parents[2]
PAST = 1_000_000_000
FROM_DATE = rb"\w{3} \w{3} \d\d \d\d:\d\d:\d\d \d{4}\n"


@pytest.fixture
def sandbox(tmp_path: Path) -> Sandbox:
    return Sandbox(tmp_path)


def ask(sandbox: Sandbox, header: bytes) -> None:
    (sandbox.base / "message").write_bytes(header + b"\nbody\n")


@pytest.mark.contract("inject 4.6")
@pytest.mark.parametrize(
    ("header", "wanted"),
    [
        pytest.param(b"Notice-Requested-Upon-Delivery-To: joe@x\n", True, id="named"),
        pytest.param(b"notice-requested-upon-delivery-to :\n bob@x,\n Joe <joe@x> (him)\n", True, id="in a list"),
        pytest.param(b"Notice-Requested-Upon-Delivery-To: JOE@x\n", False, id="case matters"),
        pytest.param(b"Notice-Requested-Upon-Delivery-To: joe\n", False, id="another address"),
        pytest.param(b"Return-Receipt-To: joe@x\n", False, id="another field"),
        pytest.param(b"X: y\n\nNotice-Requested-Upon-Delivery-To: joe@x\n", False, id="in the body"),
        pytest.param(b"", False, id="no header"),
    ],
)
def test_qreceipt_answers_if_its_address_is_named(sandbox: Sandbox, header: bytes, wanted: bool) -> None:
    ask(sandbox, header)
    assert sandbox.run("qreceipt", "joe@x").returncode == 0
    assert sandbox.envelope() == ("F|Tann@s||" if wanted else None)


@pytest.mark.contract("inject 4.6")
def test_the_notice_names_both_addresses_and_the_message(sandbox: Sandbox) -> None:
    ask(sandbox, b"Message-ID: <1@s>\nNotice-Requested-Upon-Delivery-To: joe@x\nMessage-ID: <2\n @s>\n")
    sandbox.environ["SENDER"] = "an n\nBcc: evil@x@s"
    assert sandbox.run("qreceipt", "joe@x").returncode == 0
    header, _, body = (sandbox.base / "queued").read_bytes().partition(b"\n\n")
    lines = header.split(b"\n")
    assert re.fullmatch(rb"Date: \d+ \w{3} \d{4} \d\d:\d\d:\d\d -0000", lines[0])
    assert re.fullmatch(rb"Message-ID: <\d{14}\.\d+\.qreceipt@[a-z.]+>", lines[1])
    assert lines[2:] == [
        b'From: DELIVERY NOTICE SYSTEM <"an n\\_Bcc: evil@x"@s>',
        b'To: <"an n\\_Bcc: evil@x"@s>',
        b"Subject: success notice",
        b"Auto-Submitted: auto-replied",
        b"MIME-Version: 1.0",
        b"Content-Type: text/plain; charset=us-ascii",
        b"Content-Transfer-Encoding: 7bit",
    ]
    assert body.count(b"\n") == 4 and b"joe@x" in body and body.endswith(b"\nYour Message-ID: <2\n @s>\n")


@pytest.mark.contract("inject 4.6")
@pytest.mark.parametrize("sender", ["", "#@[]"])
def test_a_bounce_gets_no_notice(sandbox: Sandbox, sender: str) -> None:
    ask(sandbox, b"Notice-Requested-Upon-Delivery-To: joe@x\n")
    sandbox.environ["SENDER"] = sender
    assert sandbox.run("qreceipt", "joe@x").returncode == 0
    assert sandbox.envelope() is None


@pytest.mark.contract("inject 4.6")
def test_qreceipt_in_trouble(sandbox: Sandbox) -> None:
    ask(sandbox, b"Notice-Requested-Upon-Delivery-To: joe@x\n")
    for status, code, kind in (("31", 100, b"permanent"), ("53", 111, b"temporary")):
        sandbox.environ["QUEUE_EXIT"] = status
        result = sandbox.run("qreceipt", "joe@x")
        assert (result.returncode, result.stderr) == (code, b"qreceipt: fatal: " + kind + b" qmail-queue error\n")
    ask(sandbox, b"Notice-Requested-Upon-Delivery-To: <joe@x\n\tand (more\n")
    del sandbox.environ["QUEUE_EXIT"]
    result = sandbox.run("qreceipt", "Joe <joe@x>")  # what the field says is found in whatever is around it
    assert (result.returncode, result.stderr) == (0, b"")
    assert sandbox.envelope() is not None
    assert sandbox.run("qreceipt").returncode == 100
    del sandbox.environ["SENDER"]
    assert sandbox.run("qreceipt", "joe@x").returncode == 100


@pytest.mark.contract("inject 4.7")
@pytest.mark.parametrize(
    ("message", "text"),
    [
        (b"Subject: hi\nTo: x\n\nfirst\nsecond\n", b"    hi\n\nfirst\nsecond\n"),
        (b"To: x\nsubject :\n folded\n\x1b[2J\n", b"    folded\n\n\x1b[2J\n"),
        (b"\nbody only", b"    \nbody only"),
        (b"", b"    "),
        (b"Subject: " + b"x" * 100 + b"\n\nlong\n", b"    " + b"x" * 74),
    ],
)
def test_qbiff_shows_the_subject_and_the_start_of_the_body(message: bytes, text: bytes) -> None:
    assert qbiff.extract(message.splitlines(keepends=True)) == text


@pytest.mark.contract("inject 4.7")
def test_nothing_that_a_terminal_acts_upon_is_shown() -> None:
    shown = qbiff.announcement(b"joe-\x1bx", b"\xe9@s", b"    hi\n\x07\xff")
    assert shown == b"\r\n\a*** TO <joe-_x> FROM <_@s>\r\n    hi///\r\n"


def record(user: bytes, line: bytes, kind: int = 7) -> bytes:
    """One record of utmp as this C library has it."""
    head = kind.to_bytes(2, sys.byteorder) + bytes(6)
    size = 400 if os.uname().machine in ("aarch64", "riscv64") else 384
    return (head + line.ljust(32, b"\0") + bytes(4) + user.ljust(32, b"\0")).ljust(size, b"\0")


@pytest.mark.contract("inject 4.7")
@pytest.mark.parametrize(
    ("mode", "user", "kind", "line", "shown"),
    [
        (0o720, b"joe", 7, None, True),
        (0o620, b"joe", 7, None, False),
        (0o720, b"joey", 7, None, False),
        (0o720, b"joe", 8, None, False),
        (0o720, b"joe", 7, b"./", False),
    ],
    ids=["allowed", "not allowed", "another user", "logged out", "a name with a dot"],
)
def test_qbiff_writes_to_the_terminals_of_the_user(
    sandbox: Sandbox, mode: int, user: bytes, kind: int, line: bytes | None, shown: bool
) -> None:
    master, terminal = os.openpty()
    name = os.ttyname(terminal).encode().removeprefix(b"/dev/")
    os.fchmod(terminal, mode)
    line = name if line is None else line + name
    others = record(b"joe", b"") + record(b"joe", b"/etc/passwd") + record(b"joe", b"no/such")
    (sandbox.base / "utmp").write_bytes(others + record(user, line, kind))
    driver = (
        "import ctypes, os, sys; sys.path.insert(0, sys.argv[1]); ctypes.CDLL(None).utmpxname(sys.argv[2].encode())\n"
        "from pyqmail.programs import qbiff; sys.exit(qbiff.main([b'qbiff'], os.environb))"
    )
    environ = {"USER": "joe", "SENDER": "ann@s", "LOCAL": "joe-x"}
    try:
        done = subprocess.run(
            ["/usr/bin/python3", "-IS", "-c", driver, str(ROOT), str(sandbox.base / "utmp")],
            input=MESSAGE,
            env=environ,
            timeout=60,
        )
        os.set_blocking(master, False)
        try:
            written = os.read(master, 1000)
        except BlockingIOError:
            written = b""
    finally:
        os.close(master)
        os.close(terminal)
    assert done.returncode == 0
    assert written.replace(b"\r\r", b"\r") == (
        b"\r\n\a*** TO <joe-x> FROM <ann@s>\r\n    x//body/\r\n" if shown else b""
    )


@pytest.mark.contract("inject 4.7")
def test_qbiff_never_defers_mail(sandbox: Sandbox) -> None:
    assert sandbox.run("qbiff").returncode == 0
    sandbox.environ |= {"USER": "u" * 33, "LOCAL": "x"}
    assert sandbox.run("qbiff").returncode == 0
    (sandbox.base / "message").write_bytes(b"\xff\0\n" * 1000)
    sandbox.environ["USER"] = "root"
    assert sandbox.run("qbiff").returncode == 0


@pytest.mark.contract("inject 4.8")
@pytest.mark.parametrize(("zone", "offset"), [("UTC0", b"+0000"), ("XXX-5:30", b"+0530"), ("YYY3", b"-0300")])
def test_predate_puts_the_local_date_in_front(sandbox: Sandbox, zone: str, offset: bytes) -> None:
    sandbox.environ["TZ"] = zone
    result = sandbox.run("predate", "cat")
    assert re.fullmatch(
        rb"Date: \d{1,2} \w{3} \d{4} \d\d:\d\d:\d\d " + re.escape(offset) + b"\n" + MESSAGE, result.stdout
    )
    assert sandbox.run("predate", "sh", "-c", "cat >/dev/null; exit 7").returncode == 7
    assert sandbox.run("predate", "sh", "-c", "kill -9 $$").returncode == 111
    assert sandbox.run("predate", "/nonexistent").returncode == 111
    assert sandbox.run("predate").returncode == 100


@pytest.mark.contract("inject 4.9", "inject 4.10")
def test_datemail_and_mailsubj_call_the_tree_s_own_programs(sandbox: Sandbox) -> None:
    (sandbox.base / "bin").mkdir()
    for name in ("sendmail", "qmail-inject"):
        (sandbox.base / "bin" / name).write_text(f'#!/bin/sh\necho {name} "$@"\ncat\nexit 9\n')
        (sandbox.base / "bin" / name).chmod(0o755)
    result = sandbox.run("datemail", "-t", "x y")
    assert result.returncode == 9
    assert re.fullmatch(rb"sendmail -t x y\nDate: .*\n" + MESSAGE, result.stdout)
    result = sandbox.run("mailsubj", "two words", "ann@s", "d e")
    assert (result.returncode, result.stdout) == (
        9,
        b"qmail-inject\nSubject: two words\nTo: ann@s, d e\n\n" + MESSAGE,
    )


class Boxes:
    """A Maildir and where its messages go."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox
        self.maildir = sandbox.base / "Maildir"
        for name in ("tmp", "new", "cur"):
            (self.maildir / name).mkdir(parents=True)
        self.mail = sandbox.base / "mbox"
        self.temporary = sandbox.base / "mbox.tmp"
        sandbox.environ |= {"MAILDIR": str(self.maildir), "MAIL": str(self.mail), "MAILTMP": str(self.temporary)}

    def put(self, name: str, data: bytes, seconds: int = PAST) -> Path:
        path = self.maildir / name
        path.write_bytes(data)
        os.utime(path, (seconds, seconds))
        return path

    def move(self) -> subprocess.CompletedProcess[bytes]:
        return self.sandbox.run("maildir2mbox")


@pytest.fixture
def boxes(sandbox: Sandbox) -> Boxes:
    return Boxes(sandbox)


@pytest.mark.contract("inject 4.12")
def test_maildir2mbox_moves_all_oldest_first(boxes: Boxes) -> None:
    boxes.mail.write_bytes(b"From old\n\n")
    boxes.put("new/b", b"Return-Path: <ann@s>\nSubject: 2\n\nFrom x\n>From y\n", PAST + 1)
    boxes.put("cur/a:2,S", b"Return-Path: <>\nSubject: 1\n", PAST)
    boxes.put("new/c", b"Subject: 3\n\nno newline", PAST + 2)
    boxes.put("cur/d", b"Return-Path: <a b\tc@s>\n", PAST + 3)
    boxes.put("cur/e", b"", PAST + 4)
    assert boxes.move().stderr == b""
    date = "Sun Sep 09 01:46:4{} 2001\n"
    assert boxes.mail.read_text() == (
        "From old\n\n"
        f"From MAILER-DAEMON {date.format(0)}Return-Path: <>\nSubject: 1\n\n"
        f"From ann@s {date.format(1)}Return-Path: <ann@s>\nSubject: 2\n\n>From x\n>>From y\n\n"
        f"From XXX {date.format(2)}Subject: 3\n\nno newline\n\n"
        f"From a-b-c@s {date.format(3)}Return-Path: <a b\tc@s>\n\n"
        f"From XXX {date.format(4)}\n"
    )
    assert boxes.mail.stat().st_mode & 0o777 == 0o600
    assert not boxes.temporary.exists()
    assert not [path for path in boxes.maildir.rglob("*") if path.is_file()]


@pytest.mark.contract("inject 4.12")
def test_nothing_to_move_touches_nothing(boxes: Boxes) -> None:
    boxes.put("new/.hidden", b"x")
    boxes.put("new/young", b"x", int(time.time()) + 1000)
    boxes.put("tmp/fresh", b"x", int(time.time()) - 1000)
    stale = boxes.put("tmp/stale", b"x", int(time.time()) - 129_700)
    assert boxes.move().returncode == 0
    assert not boxes.mail.exists() and not stale.exists()
    assert len([path for path in boxes.maildir.rglob("*") if path.is_file()]) == 3


@pytest.mark.contract("inject 4.12")
@pytest.mark.parametrize("name", ["MAILDIR", "MAIL", "MAILTMP"])
def test_maildir2mbox_needs_its_variables(boxes: Boxes, name: str) -> None:
    del boxes.sandbox.environ[name]
    result = boxes.move()
    assert (result.returncode, result.stderr) == (111, f"maildir2mbox: fatal: {name} not set\n".encode())


@pytest.mark.contract("inject 4.12")
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("MAILDIR", b"unable to chdir to "),
        ("MAIL", b"unable to lock "),
        ("MAILTMP", b"unable to create "),
    ],
)
def test_trouble_leaves_the_messages_where_they_are(boxes: Boxes, name: str, text: bytes) -> None:
    path = boxes.put("new/a", b"x\n")
    boxes.sandbox.environ[name] = "/nonexistent/x"
    result = boxes.move()
    assert (result.returncode, result.stderr.startswith(b"maildir2mbox: fatal: " + text)) == (111, True)
    assert path.exists()


@pytest.mark.contract("inject 4.12")
def test_what_is_no_message_stays_where_it_is(boxes: Boxes) -> None:
    boxes.put("new/a", b"x\n")
    (boxes.maildir / "new/b").mkdir()
    os.utime(boxes.maildir / "new/b", (PAST, PAST))
    assert boxes.move().returncode == 0
    assert [path.name for path in (boxes.maildir / "new").iterdir()] == ["b"]


@pytest.mark.contract("inject 4.12")
def test_a_message_that_cannot_be_read_moves_none(boxes: Boxes) -> None:
    boxes.mail.write_bytes(b"old\n")
    path = boxes.put("new/a", b"x\n")
    boxes.put("new/b", b"y\n", PAST + 1)
    program = (
        "import errno, os, sys\n"
        f"sys.path.insert(0, {str(Path(__file__).resolve().parents[2])!r})\n"
        "from pyqmail.programs import maildir2mbox\n"
        "from pyqmail.system import files\n"
        "whole = files.open_read\n"
        "def damaged(path):\n"
        "    if path == b'new/b':\n"
        "        raise OSError(errno.EIO, 'damaged')\n"
        "    return whole(path)\n"
        "files.open_read = damaged\n"
        "os._exit(maildir2mbox.main([b'maildir2mbox'], os.environb))\n"
    )
    environ = dict(boxes.sandbox.environ)
    result = subprocess.run([sys.executable, "-c", program], env=environ, capture_output=True, check=False)
    assert (result.returncode, b"unable to read $MAILDIR/new/b" in result.stderr) == (111, True)
    assert path.exists() and boxes.mail.read_bytes() == b"old\n"


@pytest.mark.contract("inject 4.12")
def test_a_full_disk_moves_none(boxes: Boxes) -> None:
    boxes.mail.write_bytes(b"old\n")
    path = boxes.put("new/a", b"x\n")
    boxes.sandbox.environ["MAILTMP"] = "/dev/full"
    result = boxes.move()
    assert (result.returncode, b"unable to write to /dev/full" in result.stderr) == (111, True)
    assert path.exists() and boxes.mail.read_bytes() == b"old\n"


@pytest.mark.contract("inject 4.12")
def test_the_directory_is_synced_before_any_message_goes(boxes: Boxes, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []

    def record_step(step: str) -> None:
        real = getattr(maildir2mbox.files, step)

        def call(*arguments: object) -> object:
            steps.append(step)
            return real(*arguments)

        monkeypatch.setattr(maildir2mbox.files, step, call)

    for step in ("sync", "rename", "sync_directory", "unlink"):
        record_step(step)
    boxes.put("new/a", b"x\n")
    monkeypatch.chdir(boxes.maildir)
    maildir2mbox.move(os.fsencode(boxes.mail), os.fsencode(boxes.temporary))
    assert steps == ["sync", "rename", "sync_directory", "unlink"]
    assert re.fullmatch(b"From XXX " + FROM_DATE + b"x\n\n", boxes.mail.read_bytes())
