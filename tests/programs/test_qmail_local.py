"""qmail-local as a process: order of work, lines, programs, forwards (contract local).

Row numbers count through all tables of a section.
"""

import errno
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from pyqmail.failure import MailFailure, PermanentFailure, TemporaryFailure
from pyqmail.local import delivery, instructions
from pyqmail.mailbox.message import Message
from pyqmail.programs import qmail_local
from pyqmail.system import files
from tests.programs.queue_program import write_queue_program

LOCAL = Path(__file__).parents[2] / "bin" / "qmail-local"


class Owner:
    """A user with a home, a message and a queue that writes down what it gets."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.home = base / "home"
        self.home.mkdir(mode=0o755)
        (base / "control").mkdir()
        self.queue = base / "queue-program"
        write_queue_program(self.queue)
        self.message = b"Subject: hello\n\nbody\n"
        self.environ: dict[str, str] = {}

    def qmail(self, name: str, text: str, mode: int = 0o644) -> None:
        path = self.home / f".qmail{name}"
        path.write_text(text)
        path.chmod(mode)

    def maildir(self) -> Path:
        for name in ("tmp", "new", "cur"):
            (self.home / "M" / name).mkdir(parents=True)
        return self.home / "M"

    def run(self, *, dash: str = "", ext: str = "", sender: str = "ann@s.example", default: str = "./mbox",
            options: tuple[str, ...] = ("--",), domain: str = "a.b.example",
            stdin: int | None = None) -> subprocess.CompletedProcess[bytes]:  # fmt: skip
        argv = [*options, "joe", str(self.home), "joe" + dash + ext, dash, ext, domain, sender, default]
        source = self.base / "message"
        source.write_bytes(self.message)
        environ: Mapping[str, str] = {
            "PATH": "/usr/bin:/bin",
            "QMAIL_HOME": str(self.base),
            "QMAILQUEUE": str(self.queue),
            "OUT": str(self.base),
            **self.environ,
        }
        with source.open("rb") as message:
            return subprocess.run(
                [sys.executable, "-ISXutf8", LOCAL, *argv],
                stdin=message if stdin is None else stdin,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=environ,
                timeout=60,
                check=False,
            )

    def envelope(self) -> str | None:
        path = self.base / "envelope"
        return path.read_text() if path.exists() else None


@pytest.fixture
def owner(tmp_path: Path) -> Owner:
    return Owner(tmp_path)


def test_the_default_delivery_writes_an_mbox(owner: Owner) -> None:
    result = owner.run()
    assert (result.returncode, result.stdout) == (0, b"did 1+0+0\n")
    lines = (owner.home / "mbox").read_bytes().split(b"\n", 3)
    assert lines[0].startswith(b"From ann@s.example ")
    assert lines[1:] == [b"Return-Path: <ann@s.example>", b"Delivered-To: joe@a.b.example", owner.message + b"\n"]


def test_a_maildir_holds_the_message_verbatim(owner: Owner) -> None:
    box = owner.maildir()
    owner.message = b"From me\n\nno newline"
    assert owner.run(default="./M/\n./M/").stdout == b"did 2+0+0\n"
    head = b"Return-Path: <ann@s.example>\nDelivered-To: joe@a.b.example\n"
    assert [path.read_bytes() for path in (box / "new").iterdir()] == [head + owner.message] * 2


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(["-x", "joe", "/", "joe", "", "", "d", "s", "m"], id="an unknown option"),
        pytest.param(["joe", "/", "joe", "", "", "d", "s"], id="too few"),
        pytest.param(["--", "joe", "/", "joe", "", "", "d", "s", "m", "x"], id="too many"),
        pytest.param(["--", "joe", "home", "joe", "", "", "d", "s", "m"], id="a relative home"),
    ],
)
@pytest.mark.contract("local 1.2", "local 1.4")
def test_wrong_usage_is_permanent(arguments: list[str]) -> None:
    result = subprocess.run(
        [sys.executable, "-ISXutf8", LOCAL, *arguments], stdin=subprocess.DEVNULL, capture_output=True, check=False
    )
    assert (result.returncode, b"usage" in result.stderr) == (100, True)


@pytest.mark.contract("local 2.1")
def test_a_full_maildir_bounces_and_what_comes_is_counted(owner: Owner) -> None:
    maildir = owner.maildir()
    assert owner.run(default="./M/").returncode == 0
    assert not (maildir / "maildirsize").exists()
    (owner.base / "control" / "maildirquota").write_text("1000S,2C\n")
    assert owner.run(default="./M/").returncode == 0
    (second,) = (path for path in (maildir / "new").iterdir() if b",S=" in os.fsencode(path))
    assert second.name.endswith(f",S={second.stat().st_size}")
    first, *lines = (maildir / "maildirsize").read_text().splitlines()
    assert first == "1000S,2C" and len(lines) == 2 and sum(int(line.split()[1]) for line in lines) == 2
    result = owner.run(default="./M/")
    assert result.returncode == 100 and b"The mailbox is full. (#5.2.2)" in result.stdout
    assert len(list((maildir / "new").iterdir())) == 2 and os.listdir(maildir / "tmp") == []


def test_a_missing_home_is_temporary(owner: Owner) -> None:
    owner.home.rmdir()
    result = owner.run()
    assert (result.returncode, b"(#4.3.0)" in result.stdout) == (111, True)


@pytest.mark.contract("local 2.3", "local 2.4")
@pytest.mark.parametrize(("mode", "code"), [(0o757, b"(#4.7.0)"), (0o1755, b"(#4.2.1)")])
def test_a_home_that_is_open_or_being_edited_defers(owner: Owner, mode: int, code: bytes) -> None:
    owner.home.chmod(mode)
    result = owner.run()
    assert (result.returncode, code in result.stdout) == (111, True)


@pytest.mark.contract("local 2.4")
def test_a_sticky_home_is_only_a_warning_when_describing(owner: Owner) -> None:
    owner.home.chmod(0o1755)
    result = owner.run(options=("-n", "--"))
    assert result.returncode == 0
    assert result.stdout.endswith(b"mbox ./mbox\ndid 1+0+0\n")


def test_group_writable_is_accepted(owner: Owner) -> None:
    owner.home.chmod(0o775)
    owner.qmail("", "#\n", 0o664)
    assert owner.run().stdout == b"did 0+0+0\n"


@pytest.mark.contract("local 2.6", "local 9.13")
def test_a_loop_bounces_before_the_file_is_read(owner: Owner) -> None:
    owner.message = b"Delivered-To: joe@a.b.example\n" + owner.message
    owner.qmail("", "# comment only\n")
    result = owner.run()
    assert (result.returncode, b"(#5.4.6)" in result.stdout) == (100, True)
    assert owner.run(options=("-n",)).returncode == 0


@pytest.mark.contract("local 1.6", "local 2.6")
def test_a_pipe_for_a_message_is_temporary(owner: Owner) -> None:
    reading, writing = os.pipe()
    os.close(writing)
    try:
        result = owner.run(stdin=reading)
    finally:
        os.close(reading)
    assert (result.returncode, b"(#4.3.0)" in result.stdout) == (111, True)


@pytest.mark.contract("local 2.9")
def test_no_mailbox_by_that_name(owner: Owner) -> None:
    result = owner.run(dash="-", ext="list")
    assert result.returncode == 100
    assert b"no mailbox here by that name" in result.stdout and b"(#5.1.1)" in result.stdout


@pytest.mark.contract("local 4.10", "local 9.3")
def test_a_directory_by_the_name_is_skipped(owner: Owner) -> None:
    (owner.home / ".qmail-x").mkdir()
    os.mkfifo(owner.home / ".qmail-x-default")
    owner.qmail("-default", "|echo $DEFAULT")
    assert owner.run(dash="-", ext="X").stdout == b"X\ndid 0+0+1\n"


@pytest.mark.contract("local 4.9")
def test_a_file_that_others_may_write_defers(owner: Owner) -> None:
    owner.qmail("", "#\n", 0o646)
    result = owner.run()
    assert (result.returncode, b"(#4.7.0)" in result.stdout) == (111, True)


@pytest.mark.contract("users 7.3")
def test_conf_break_changes_no_file_name_and_no_variable(owner: Owner) -> None:
    (owner.base / "control" / "conf-break").write_text("+\n")
    owner.qmail("-a-default", '|echo "$DEFAULT $EXT2"; exit 99\n')
    owner.qmail("-a-b+c-owner", "")
    owner.qmail("-a+default", "#\n")
    assert owner.run(dash="-", ext="a-b+c").stdout == b"b+c b+c\ndid 0+0+1\n"


def test_conf_patrn_can_forbid_group_writing(owner: Owner) -> None:
    (owner.base / "control" / "conf-patrn").write_text("022\n")
    owner.qmail("", "#\n", 0o664)
    assert owner.run().returncode == 111


@pytest.mark.contract("local 9.4")
def test_a_blank_first_line_defers_and_comments_discard(owner: Owner) -> None:
    owner.qmail("", " \t\n./mbox\n")
    result = owner.run()
    assert (result.returncode, b"(#4.2.1)" in result.stdout) == (111, True)
    owner.qmail("", "# nothing\n")
    assert owner.run().stdout == b"did 0+0+0\n"
    assert not (owner.home / "mbox").exists()


@pytest.mark.contract("local 2.11", "local 5")
def test_an_empty_default_delivery_defers(owner: Owner) -> None:
    assert owner.run(default="").returncode == 111


@pytest.mark.contract("local 9.10")
def test_forward_only_is_checked_line_by_line(owner: Owner) -> None:
    owner.qmail("", "./one\n+list\nbob@x\n./two\n")
    result = owner.run()
    assert (result.returncode, b"(#4.7.0)" in result.stdout) == (111, True)
    assert (owner.home / "one").exists() and not (owner.home / "two").exists()
    assert owner.envelope() is None


@pytest.mark.contract("local 2.11")
def test_the_owner_execute_bit_is_forward_only_but_not_when_empty(owner: Owner) -> None:
    owner.qmail("", "./one\n", 0o744)
    assert owner.run().returncode == 111
    owner.qmail("", "./one\n", 0o655)
    assert owner.run().returncode == 0
    owner.qmail("", "", 0o744)
    assert owner.run().stdout == b"did 1+0+0\n"
    assert (owner.home / "mbox").exists()


@pytest.mark.contract("local 1.3", "local 5")
def test_describing_does_nothing(owner: Owner) -> None:
    owner.qmail("", "./M/\n./mbox\n|  prog x\n&bob@x\n")
    result = owner.run(options=("-Nn",))
    expected = b"maildir ./M/\nmbox ./mbox\nprogram   prog x\nforward bob@x\ndid 2+1+1\n"
    assert (result.returncode, result.stdout) == (0, expected)
    assert owner.envelope() is None and not (owner.home / "mbox").exists()


@pytest.mark.contract("local 6.1", "local 6.2", "local 6.3", "local 6.4", "local 6.5", "local 9.5", "local 9.6")
@pytest.mark.parametrize(
    ("command", "code", "later", "forwarded"),
    [
        ("true", 0, True, True),
        ("exit 99", 0, False, True),
        *((f"exit {status}", 100, False, False) for status in (64, 65, 70, 76, 77, 78, 100, 112)),
        *((f"exit {status}", 111, False, False) for status in (1, 2, 71, 75, 111, 126)),
        ("/nonexistent", 111, False, False),
        ("kill -9 $$", 111, False, False),
    ],
)
def test_what_a_program_says(owner: Owner, command: str, code: int, later: bool, forwarded: bool) -> None:
    owner.qmail("", f"&bob@x\n|{command}\n./later\n")
    assert owner.run().returncode == code
    assert (owner.home / "later").exists() is later
    assert (owner.envelope() is not None) is forwarded


@pytest.mark.contract("local 1.7", "local 1.9")
def test_a_program_s_own_words_are_the_whole_report(owner: Owner) -> None:
    assert owner.run(default="|echo no; exit 100").stdout == b"no\n"


@pytest.mark.contract("local 1.6", "local 1.7", "local 2.12")
def test_each_program_gets_the_message_from_the_start(owner: Owner) -> None:
    result = owner.run(default="|cat\n|head -c 3\n|cat")
    assert result.stdout == owner.message + owner.message[:3] + owner.message + b"did 0+0+3\n"


@pytest.mark.contract("local 1.8", "local 9.15")
def test_a_program_gets_no_descriptors_and_no_ignored_signals(owner: Owner) -> None:
    result = owner.run(default="|ls /proc/self/fd | tr '\\n' ' '; grep SigIgn /proc/self/status; umask; pwd")
    descriptors, ignored = result.stdout.split(b"\n")[0].split(b"SigIgn:\t")
    assert descriptors.split() == [b"0", b"1", b"2", b"3"]  # 3 is ls reading the directory
    assert int(ignored, 16) & (1 << 12 | 1 << 24) == 0  # SIGPIPE and SIGXFSZ
    assert result.stdout.split(b"\n")[1:3] == [b"0077", os.fsencode(owner.home)]


@pytest.mark.contract(*(f"local 7.{row}" for row in range(1, 10)), "local 9.8", "local 1.5", "local 2.5", "local 2.7")
def test_the_environment_of_programs(owner: Owner) -> None:
    owner.qmail("-default", "|env -0")
    words = owner.run(dash="-", ext="A-b-c", domain="x.y", sender="a b@c").stdout.split(b"\0")
    found = dict(word.split(b"=", 1) for word in words if b"=" in word)
    assert found[b"UFLINE"].startswith(b"From a-b@c ") and found[b"UFLINE"].endswith(b"\n")
    expected = {
        "HOST": "x.y", "HOST2": "x", "HOST3": "x", "HOST4": "x", "HOME": str(owner.home), "USER": "joe",
        "LOCAL": "joe-A-b-c", "SENDER": "a b@c", "RECIPIENT": "joe-A-b-c@x.y", "EXT": "A-b-c", "EXT2": "b-c",
        "EXT3": "c", "EXT4": "", "DEFAULT": "A-b-c", "DTLINE": "Delivered-To: joe-A-b-c@x.y\n",
        "RPLINE": 'Return-Path: <"a b"@c>\n', "NEWSENDER": "a b@c",
    }  # fmt: skip
    assert {name: found[name.encode()].decode() for name in expected} == expected
    assert b"LC_CTYPE" not in found


@pytest.mark.contract("local 9.9")
@pytest.mark.parametrize(
    ("existing", "sender", "expected"),
    [
        ((), "ann@s", "ann@s"),
        (("-l-owner",), "ann@s", "joe-l-owner@a.b.example"),
        (("-l-owner", "-l-owner-default"), "ann@s", "joe-l-owner-@a.b.example-@[]"),
        (("-l-owner-default",), "ann@s", "ann@s"),
        (("-l-owner",), "", ""),
        (("-l-owner",), "#@[]", "#@[]"),
    ],
)
def test_new_sender(owner: Owner, existing: tuple[str, ...], sender: str, expected: str) -> None:
    for name in existing:
        owner.qmail(name, "")
    owner.qmail("-default", '|printf %s "$NEWSENDER"; exit 99\n')
    assert owner.run(dash="-", ext="l", sender=sender).stdout == expected.encode() + b"did 0+0+1\n"


@pytest.mark.contract("local 2.13", "local 2.14", "local 8", "local 9.12")
def test_one_forward_carries_all_addresses(owner: Owner) -> None:
    owner.qmail("", "&bob@x\n./mbox\n& eve@y, Fred <fred@z>\ncarl\ncarl\n")
    result = owner.run()
    first, second, _end = result.stdout.split(b"\n")
    assert (result.returncode, first) == (0, b"did 1+5+0")
    assert second.startswith(b"qp ") and second[3:].isdigit()
    assert owner.envelope() == "Fann@s.example|Tbob@x|Teve@y|Tfred@z|Tcarl|Tcarl||"
    assert (owner.base / "queued").read_bytes() == b"Delivered-To: joe@a.b.example\n" + owner.message


@pytest.mark.contract("local 5.6", "local 9.12")
def test_a_line_that_names_nobody_defers(owner: Owner) -> None:
    """Forwarded to the empty address it would be gone, and called a success."""
    for line in ("&", "& <>", ":include:/list", ":blackhole:"):
        owner.qmail("", f"./mbox\n{line}\n")
        result = owner.run()
        assert result.returncode == 111 and line.encode() in result.stdout and b"(#4.2.1)" in result.stdout
        assert owner.envelope() is None


def test_the_null_device_discards_and_says_so(owner: Owner) -> None:
    owner.qmail("", "/dev/null\n")
    result = owner.run()
    assert (result.returncode, result.stdout) == (0, b"did 0+0+0\nthrown away: /dev/null\n")
    assert owner.run(options=("-n",)).stdout == b"discard /dev/null\ndid 0+0+0\nthrown away: /dev/null\n"
    owner.qmail("", "+list\n/dev/null\n&bob@x\n./mbox # kept\n")
    assert owner.run().returncode == 111  # by the last line
    owner.qmail("", "\ufeff./mbox # kept\r\n/dev/null\r\n")
    assert owner.run().stdout == b"did 1+0+0\nthrown away: /dev/null\n"
    assert (owner.home / "mbox").read_bytes().endswith(owner.message + b"\n")


def test_a_new_mbox_within_a_maildir_defers(owner: Owner) -> None:
    """./M/; is a slip of the pen; what is delivered there would never be read."""
    maildir = owner.maildir()
    for line in ("./M/;", "./M/new", f"{maildir}/.."):
        owner.qmail("", line + "\n")
        result = owner.run()
        assert (result.returncode, b"(#4.2.1)" in result.stdout) == (111, True), line
    assert sorted(path.name for path in maildir.iterdir()) == ["cur", "new", "tmp"]
    (maildir / "old").write_bytes(b"")
    owner.qmail("", "./M/old\n")
    assert owner.run().returncode == 0  # somebody has made it


@pytest.mark.parametrize(("status", "code"), [("31", 100), ("53", 111), ("120", 111), ("11", 100)])
@pytest.mark.contract("local 8")
def test_a_refused_forward(owner: Owner, status: str, code: int) -> None:
    owner.environ["QUEUE_EXIT"] = status
    result = owner.run(default="&bob@x")
    assert result.returncode == code
    assert result.stdout.endswith(b").\n") and b"did" not in result.stdout


@pytest.mark.contract(
    "local 2.8", "local 4.3", "local 4.4", "local 4.5", "local 4.6", "local 4.7", "local 4.8", "local 7.5"
)
@pytest.mark.parametrize(
    ("dash", "ext", "expected"),
    [
        ("", "", [(".qmail", None), (".qmaildefault", "")]),
        ("-", "", [(".qmail-", None), (".qmail-default", "")]),
        ("-", "a", [(".qmail-a", None), (".qmail-default", "a")]),
        ("-", "A.b-C", [(".qmail-a:b-c", None), (".qmail-a:b-default", "C"), (".qmail-default", "A.b-C")]),
        ("-", "a-b-", [(".qmail-a-b-", None), (".qmail-a-b-default", ""), (".qmail-a-default", "b-"),
                       (".qmail-default", "a-b-")]),
        ("-/", "x", [(".qmail-/x", None), (".qmail-/default", "x")]),
        ("-", "X-DeFault", [(".qmail-x-default", "DeFault"), (".qmail-default", "X-DeFault")]),
    ],
)  # fmt: skip
def test_each_file_in_its_turn(owner: Owner, dash: str, ext: str, expected: list[tuple[str, str | None]]) -> None:
    if dash == "-/":
        (owner.home / ".qmail-").mkdir()
    for name, _default in expected:
        (owner.home / name).write_text(f"|echo '{name}' [${{DEFAULT-unset}}]\n")
    for name, default in expected:
        shown = "unset" if default is None else default
        assert owner.run(dash=dash, ext=ext).stdout.decode() == f"{name} [{shown}]\ndid 0+0+1\n"
        (owner.home / name).unlink()
    assert owner.run(dash=dash, ext=ext).returncode == (100 if dash else 0)


@pytest.mark.contract("local 9.7")
def test_lines_of_only_tabs(owner: Owner) -> None:
    owner.qmail("", "#\n\t\t\t\n\t\n./one\t\t\n")
    assert owner.run().stdout == b"did 1+0+0\n"
    assert (owner.home / "one").exists()
    owner.qmail("", "\t\t\n./one\n")
    assert b"(#4.2.1)" in owner.run().stdout


@pytest.mark.contract("local 2.12", "local 5")
def test_a_failure_stops_at_once(owner: Owner) -> None:
    owner.qmail("", "bob@x\n./one\n./none/\n./two\n|touch three\n")
    result = owner.run()
    assert (result.returncode, b"(#4.2.1)" in result.stdout, b"did" in result.stdout) == (111, True, False)
    assert [(owner.home / name).exists() for name in ("one", "two", "three")] == [True, False, False]
    assert owner.envelope() is None


@pytest.mark.contract("local 3")
@pytest.mark.parametrize(
    ("header", "loops"),
    [
        (b"junk\nDelivered-To: joe@a.b.example\n", True),
        (b"\nDelivered-To: joe@a.b.example\n", False),
        (b"delivered-to: joe@a.b.example\n", False),
        (b"Delivered-To: joe@a.b.example", False),
        (b"Delivered-To: JOE@a.b.example\n", False),
        (b"Delivered-To: joe@a.b.example \n", False),
    ],
)
def test_only_the_very_same_header_line_is_a_loop(owner: Owner, header: bytes, loops: bool) -> None:
    owner.message = header
    assert owner.run().returncode == (100 if loops else 0)


@pytest.mark.contract("local 3")
def test_newlines_in_the_address_are_compared_as_they_are_written(owner: Owner) -> None:
    owner.message = b"Delivered-To: joe@x_y\n\n"
    assert owner.run(domain="x\ny").returncode == 100


def refusing(code: int) -> Callable[..., object]:
    """A system call that fails with ``code``."""

    def call(*_arguments: object, **_options: object) -> object:
        raise OSError(code, os.strerror(code))

    return call


@pytest.mark.contract("local 2.2", "local 2.10")
def test_a_home_and_an_owner_file_that_cannot_be_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = qmail_local.parse_arguments([b"joe", b"/", b"joe-x", b"-", b"x", b"d", b"s", b"./mbox"])
    for code in (errno.EIO, errno.ESTALE):
        monkeypatch.setattr(os, "stat", refusing(code))
        with pytest.raises(TemporaryFailure, match=r"#4\.3\.0"):
            instructions.check_home(False, 0o002)
        with pytest.raises(TemporaryFailure, match=r"#4\.3\.0"):
            instructions.new_sender(arguments)
    for code in (errno.ENOENT, errno.EACCES, errno.ENAMETOOLONG):
        monkeypatch.setattr(os, "stat", refusing(code))
        assert instructions.new_sender(arguments) == b"s"


@pytest.mark.contract("local 2.11")
def test_a_file_that_cannot_be_read_to_its_end_defers(owner: Owner, monkeypatch: pytest.MonkeyPatch) -> None:
    owner.qmail("", "#\n")
    monkeypatch.chdir(owner.home)

    def broken(_fd: int, _size: int) -> bytes:
        raise OSError(errno.EIO, "bad sector")

    arguments = qmail_local.parse_arguments([b"joe", b"/", b"joe", b"", b"", b"d", b"s", b"./mbox"])
    monkeypatch.setattr(os, "read", broken)
    with pytest.raises(TemporaryFailure, match=r"#4\.3\.0"):
        instructions.read_instructions(arguments, 0o002)


@pytest.mark.contract("local 6.4", "local 9.6")
def test_a_fork_that_fails_defers(owner: Owner, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: object, **_options: object) -> int:
        raise BlockingIOError(errno.EAGAIN, "too many processes")

    (owner.base / "message").write_bytes(b"x")
    fd = os.open(owner.base / "message", os.O_RDONLY)
    monkeypatch.setattr(os, "posix_spawn", refuse)
    job = delivery.Delivery(Message(fd), {}, describe=False, home="/")
    try:
        with pytest.raises(TemporaryFailure, match=r"#4\.3\.0"):
            job.run([(b"program", b"true")], forward_only=False)
    finally:
        os.close(fd)


def test_a_bug_is_temporary_and_says_so(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    def broken(*_arguments: object) -> bytes:
        raise MemoryError

    monkeypatch.setattr(qmail_local, "deliver", broken)
    monkeypatch.setattr(signal, "signal", lambda *_arguments: None)
    argv = [b"x", b"--", b"joe", b"/", b"joe", b"", b"", b"d", b"s", b"m"]
    umask = os.umask(0o022)
    try:
        assert qmail_local.main(argv, {}) == 111
    finally:
        os.umask(umask)
    assert "MemoryError" in capfd.readouterr().err


def test_launcher_is_executable() -> None:
    assert stat.S_IMODE(LOCAL.stat().st_mode) & 0o100


@pytest.mark.contract("local 4.11", "local 4.12", "local 9.3")
@pytest.mark.parametrize(
    ("code", "deferred"),
    [
        *((code, True) for code in (errno.EACCES, errno.EPERM, errno.EIO, errno.ENOMEM, errno.EMFILE, errno.ESTALE)),
        *((code, True) for code in (errno.EDQUOT, errno.ETIMEDOUT)),
        *((code, False) for code in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP)),
    ],
)
def test_a_file_that_cannot_be_opened(monkeypatch: pytest.MonkeyPatch, code: int, deferred: bool) -> None:
    def refuse(_path: bytes) -> int:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(files, "open_read", refuse)
    words = [b"joe", b"/", b"joe-x", b"-", b"x", b"d", b"s", b"./mbox"]
    expected: type[MailFailure] = TemporaryFailure if deferred else PermanentFailure
    with pytest.raises(expected, match=r"#4\.3\.0" if deferred else r"#5\.1\.1"):
        instructions.read_instructions(qmail_local.parse_arguments(words), 0o002)
