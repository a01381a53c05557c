"""qmail-inject, sendmail, predate, datemail and mailsubj as processes, and the address table (contract inject)."""

import os
import pwd
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pyqmail.launch import launcher_text
from tests.programs.queue_program import write_queue_program

BIN = Path(__file__).parents[2] / "bin"


DSN_WORDS = {"-N": "never", "-R": "hdrs"}  # what such options take; not any word
# Options of sendmail 8, Postfix and Exim that take an argument, in their word or the next.
TAKE_AN_ARGUMENT = ("-A", "-B", "-C", "-D", "-e", "-F", "-h", "-L", "-M", "-N", "-O", "-o", "-p", "-R", "-V", "-X")


class Sandbox:
    """A home with control files and a queue that writes down what it gets."""

    def __init__(self, home: Path) -> None:
        self.home = home
        (home / "control").mkdir()
        (home / "control" / "me").write_text("mx.example.org\n")
        (home / "control" / "defaultdomain").write_text("example.org\n")
        (home / "control" / "plusdomain").write_text("plus.org\n")
        (home / "bin").mkdir()
        for name in ("qmail-inject", "sendmail"):
            module = "pyqmail.programs." + name.replace("-", "_")
            self.program(name, launcher_text(module, 111, sys.executable, str(BIN.parent)))
        write_queue_program(home / "queue")
        self.environ = {
            "PATH": "/usr/bin:/bin",
            "QMAIL_HOME": str(home),
            "QMAILQUEUE": str(home / "queue"),
            "OUT": str(home),
            "USER": "joe",
        }

    def program(self, name: str, text: str) -> None:
        (self.home / "bin" / name).write_text(text)
        (self.home / "bin" / name).chmod(0o755)

    def run(self, name: str, *argv: str, text: bytes = b"", **environ: str) -> subprocess.CompletedProcess[bytes]:
        command = [sys.executable, "-ISXutf8", str(BIN / name), *argv]
        return subprocess.run(
            command,
            input=text,
            capture_output=True,
            env={**self.environ, **environ},
            cwd=self.home,
            timeout=60,
            check=False,
        )

    def inject(self, *argv: str, text: bytes = b"To: a@b.c\n\nx\n", **environ: str) -> str:
        """The envelope of a message that must be queued."""
        result = self.run("qmail-inject", *argv, text=text, **environ)
        assert (result.returncode, result.stderr) == (0, b"")
        return (self.home / "envelope").read_text()

    def queued(self) -> bytes:
        return (self.home / "queued").read_bytes()


@pytest.fixture
def box(tmp_path: Path) -> Sandbox:
    return Sandbox(tmp_path)


@pytest.mark.contract("inject 1.8", "inject 1.18", "inject 1.19", "inject 1.20")
def test_generated_fields_come_first(box: Sandbox) -> None:
    assert (
        box.inject(text=b"Subject: s\nTo: fred\n\nbody", NAME='J "D"') == "Fjoe@mx.example.org|Tfred@mx.example.org||"
    )
    pattern = (
        rb"Date: \d+ \w{3} \d{4} \d\d:\d\d:\d\d -0000\n"
        rb"Message-ID: <\d{14}\.\d+\.qmail@mx\.example\.org>\n"
        rb'From: "J \\"D\\"" <joe@mx\.example\.org>\n'
        rb"Subject: s\nTo: fred@mx\.example\.org\n\nbody\n"
    )
    assert re.fullmatch(pattern, box.queued())


@pytest.mark.contract("inject 1.1", "inject 1.2", "inject 1.3", "inject 1.4")
@pytest.mark.parametrize(
    ("options", "recipients"),
    [
        (["-a"], "Tx@y.z|"),
        (["-h"], "Tb@b.b|Ta@a.a|Tc@c.c|"),
        (["-A"], "Tx@y.z|"),
        (["-H"], "Tx@y.z|Tb@b.b|Ta@a.a|Tc@c.c|"),
    ],
)
def test_recipient_options(box: Sandbox, options: list[str], recipients: str) -> None:
    text = b"To: a@a.a, b@b.b\nBcc: c@c.c\n\n"
    assert box.inject(*options, "--", "x@y.z", text=text) == f"Fjoe@mx.example.org|{recipients}|"
    assert b"Bcc" not in box.queued()


@pytest.mark.contract("inject 1.6", "inject 1.9", "inject 1.11")
@pytest.mark.parametrize(
    ("options", "environ", "sender"),
    [
        (["-f", "me@there"], {}, "me@there.example.org"),
        (["-f", ""], {"QMAILINJECT": "r"}, ""),
        ([], {"QMAILSUSER": "s", "QMAILSHOST": "h.h"}, "s@h.h"),
        ([], {"QMAILINJECT": "r", "QMAILHOST": "host"}, "joe-@host.example.org-@[]"),
        ([], {"QMAILUSER": "q", "MAILHOST": "m+"}, "q@m.plus.org"),
    ],
)
def test_senders(box: Sandbox, options: list[str], environ: dict[str, str], sender: str) -> None:
    assert box.inject(*options, text=b"To: a@b.c\n\n", **environ) == f"F{sender}|Ta@b.c||"


def test_return_path_sets_the_sender(box: Sandbox) -> None:
    text = b"Return-Path: <x@y.y>, <z@w.w>\nTo: a@b.c\n\n"
    assert box.inject(text=text) == "Fz@w.w|Ta@b.c||"
    assert b"Return-Path" not in box.queued()
    assert box.inject(text=text, QMAILINJECT="s") == "Fjoe@mx.example.org|Ta@b.c||"


@pytest.mark.parametrize("name", ["qmail-inject", "sendmail"])
def test_arguments_are_lists(box: Sandbox, name: str) -> None:
    words = ["y y@z.z", '"q r"@w.w, <s@w.w>', "(c)@x.x", "", "<>", "Ann Poe <ann@x.x>,", "bob@y.y (Bob)"]
    assert box.run(name, *words, text=b"\nx\n").returncode == 0
    recipients = "Ty y@z.z|Tq r@w.w|Ts@w.w|T(c)@x.x|Tann@x.x|Tbob@y.y||"
    assert (box.home / "envelope").read_text() == "Fjoe@mx.example.org|" + recipients


@pytest.mark.parametrize("name", ["qmail-inject", "sendmail"])
@pytest.mark.parametrize(
    ("option", "sender"), [("Joe <joe@x.x>", "joe@x.x"), ("<>", ""), ("<s@x.x>", "s@x.x"), ("s@x.x (S)", "s@x.x")]
)
def test_a_sender_on_the_command_line_may_be_in_brackets(box: Sandbox, name: str, option: str, sender: str) -> None:
    assert box.run(name, "-f", option, "a@b.c", text=b"\nx\n").returncode == 0
    assert (box.home / "envelope").read_text() == f"F{sender}|Ta@b.c||"
    assert b"\nFrom: " + (sender or "joe@mx.example.org").encode() + b"\n" in box.queued() or name == "qmail-inject"


@pytest.mark.parametrize(
    ("program", "argv", "text"),
    [
        ("qmail-inject", [], b"Subject: x\n\nTo: bob@y.y\n"),
        ("qmail-inject", ["-a"], b"To: bob@y.y\n\nx\n"),
        ("qmail-inject", ["<>"], b"To: bob@y.y\n\nx\n"),
        ("sendmail", ["-t"], b"\nTo: bob@y.y\n\nx\n"),
        ("sendmail", ["-t"], b"To: undisclosed-recipients:;\n\nx\n"),
        ("sendmail", [], b"To: bob@y.y\n\nx\n"),
        ("sendmail", ["--", ""], b"To: bob@y.y\n\nx\n"),
        ("mailsubj", ["subject"], b"x\n"),
        ("datemail", [], b"To: bob@y.y\n\nx\n"),
        ("predate", [str(BIN / "qmail-inject")], b"Subject: x\n\nx\n"),
    ],
)
def test_nobody_to_send_to_is_an_error(box: Sandbox, program: str, argv: list[str], text: bytes) -> None:
    result = box.run(program, *argv, text=text)
    assert (result.returncode, result.stderr) == (100, b"qmail-inject: fatal: nobody to send to: no recipients\n")
    assert not (box.home / "queued").exists()


def test_a_byte_order_mark_is_no_part_of_the_first_field(box: Sandbox) -> None:
    assert box.inject("-h", text=b"\xef\xbb\xbfTo: bob@y.y\n\nx\n") == "Fjoe@mx.example.org|Tbob@y.y||"


@pytest.mark.parametrize("name", ["qmail-inject", "sendmail"])
def test_without_a_variable_the_sender_is_the_account(box: Sandbox, name: str) -> None:
    del box.environ["USER"]
    account = pwd.getpwuid(os.getuid()).pw_name
    assert box.run(name, "a@b.c", text=b"\nx\n").returncode == 0
    assert (box.home / "envelope").read_text() == f"F{account}@mx.example.org|Ta@b.c||"
    assert f"\nFrom: {account}@mx.example.org\n".encode() in box.queued()


@pytest.mark.parametrize(
    ("text", "queued"),
    [
        (b"To: a@b.c\r\nX: y\r\n\r\nx\r\ny\r\n", b"To: a@b.c\nX: y\n\nx\ny\n"),
        (b"To: a@b.c\r\nX: y\n\nx\ny\r\n", b"To: a@b.c\nX: y\n\nx\ny\n"),  # PHP
        (b"To: a@b.c\nX: y\rBcc: z@z.z\n\nx\ry\r", b"To: a@b.c\nX: y Bcc: z@z.z\n\nx\ny\n"),
        (b"To: a@b.c\r\r\n\r\r\nx\r\r\n", b"To: a@b.c\n\nx\n"),
        (b"To: a@b.c\n\n" + b"x" * 65524 + b"\r\ny\r", b"To: a@b.c\n\n" + b"x" * 65524 + b"\ny\n"),
    ],
)
def test_no_carriage_return_comes_in(box: Sandbox, text: bytes, queued: bytes) -> None:
    assert box.inject("-h", text=text) == "Fjoe@mx.example.org|Ta@b.c||"
    assert box.queued().endswith(b"\n" + queued)


def test_another_qmail_inject_is_given_addresses_rather_than_lists(box: Sandbox) -> None:
    box.program("qmail-inject", '#!/bin/sh\nprintf "%s|" "$@"\n')
    result = box.run("sendmail", "-f", "Joe <j@x.x>", "a@b.c, Bob <b@b.c>", "<>")
    assert result.stdout == b"-a|-f|j@x.x|--|a@b.c|b@b.c|"


def test_resent(box: Sandbox) -> None:
    text = b"To: a@a.a\nFrom: f@f.f\nResent-To: r@r.r\nResent-Bcc: s@s.s\n\n"
    assert box.inject(text=text) == "Fjoe@mx.example.org|Tr@r.r|Ts@s.s||"
    lines = [line.partition(b":")[0] for line in box.queued().split(b"\n")]
    assert lines[:6] == [b"Resent-Date", b"Resent-Message-ID", b"Resent-From", b"To", b"From", b"Resent-To"]


@pytest.mark.contract("inject 1.7", "inject 1.10")
def test_letters_drop_and_make_fields(box: Sandbox) -> None:
    text = b"From: other@x.x\nMessage-ID: <old>\nBcc: a@b.c\n\n"
    box.inject(text=text, QMAILINJECT="cfi", QMAILNAME="J D")
    queued = box.queued()
    assert b"From: joe@mx.example.org (J D)\n" in queued
    assert b"Cc: recipient list not shown: ;\n" in queued
    assert b"other" not in queued and b"<old>" not in queued


@pytest.mark.contract("inject 1.12", "inject 1.21")
def test_followup(box: Sandbox) -> None:
    (box.home / "lists").write_text("List@b.c\n")
    box.inject(text=b"To: list@b.c\nCc: x@y.z\n\n", QMAILMFTFILE="lists")
    assert b"Mail-Followup-To: x@y.z,\n  list@b.c\n" in box.queued()


@pytest.mark.parametrize(
    ("text", "end"),
    [
        (b"To: a@b.c\nnot a field\nx\n", b"To: a@b.c\n\nnot a field\nx\n"),
        (b"From me now\nTo: a@b.c", b"MBOX-Line: From me now\nTo: a@b.c\n"),
        (b"X-A:  b\n\tc\nTO : a@b.c\n\n", b"X-A:  b\n\tc\nTO: a@b.c\n\n"),
    ],
)
def test_where_the_header_ends(box: Sandbox, text: bytes, end: bytes) -> None:
    box.inject(text=text)
    assert box.queued().endswith(end)


@pytest.mark.contract("inject 1.16", "inject 1.17")
def test_unparsable_fields(box: Sandbox) -> None:
    fields = b"To: a@b.c>\nCc: (x\nFrom: (x y\nSender: a:b\nReply-To: )\nErrors-To: <\n"
    result = box.run("qmail-inject", text=fields + b"Return-Path: <a@b.c\n\n")
    assert (result.returncode, result.stderr) == (0, b"qmail-inject: warning: no address in: (x\n")
    assert (box.home / "envelope").read_text() == "Fa@b.c|Ta@b.c||"
    assert box.queued().endswith(fields + b"\n")


@pytest.mark.contract("inject 1.5")
def test_printing(box: Sandbox) -> None:
    result = box.run("qmail-inject", "-n", "-f", "", text=b"To: a\n\nbody\n")
    assert result.stdout.startswith(b"Return-Path: <>\nDate: ")
    assert result.stdout.endswith(b"To: a@mx.example.org\n\nbody\n")
    assert not (box.home / "queued").exists()


@pytest.mark.contract("inject 1.14")
@pytest.mark.parametrize(("queue", "code"), [("31", 100), ("53", 111), ("81", 111)])
def test_queue_failures(box: Sandbox, queue: str, code: int) -> None:
    result = box.run("qmail-inject", text=b"To: a\n\n", QUEUE_EXIT=queue)
    assert result.returncode == code
    assert re.fullmatch(rb"qmail-inject: fatal: .* \(#[45]\.3\.0\)\n", result.stderr)


def test_a_large_body_is_not_changed(box: Sandbox) -> None:
    body = b"\n".join(b"%d" % number for number in range(100000)) + b"\n.\n"
    box.inject(text=b"To: a@b.c\n\n" + body)
    assert box.queued().endswith(b"\n\n" + body)


@pytest.mark.contract("inject 3.1", "inject 3.2", "inject 3.3", "inject 3.5", "inject 3.8")
def test_sendmail(box: Sandbox) -> None:
    text = b"To: t@t.t\n\nx\n"
    for argv, envelope, author in (
        (["a@b.c"], "Fjoe@mx.example.org|Ta@b.c||", b'"N" <joe@mx.example.org>'),
        (["-t", "-oi", "a@b.c"], "Fjoe@mx.example.org|Ta@b.c|Tt@t.t||", b'"N" <joe@mx.example.org>'),
        (["-F", "Full", "-i", "a@b.c"], "Fjoe@mx.example.org|Ta@b.c||", b'"Full" <joe@mx.example.org>'),
        (["-Ffull", "-fs@h.h", "a@b.c"], "Fs@h.h|Ta@b.c||", b"s@h.h"),
    ):
        assert box.run("sendmail", *argv, text=text, NAME="N").returncode == 0
        assert (box.home / "envelope").read_text() == envelope
        assert b"From: " + author + b"\n" in box.queued()


@pytest.mark.contract("inject 3.6", "inject 3.7", "inject 3.8")
@pytest.mark.parametrize(
    ("argv", "code"),
    [
        *((["-v", "-im", "-x", "-Efoo", "-J", "-E", "-B8BITMIME", "-p", "x", "-em", "-o", "Q", "a@b.c"], 0),),
        *(([option, DSN_WORDS.get(option, "x"), "a@b.c"], 0) for option in TAKE_AN_ARGUMENT),
        *(
            ([option + DSN_WORDS.get(option, "x"), "a@b.c"], 0)
            for option in (*TAKE_AN_ARGUMENT, "-d", "-E", "-q", "-Q")
        ),
        *(([option, "a@b.c"], 0) for option in ("-c", "-d", "-G", "-i", "-m", "-n", "-Q", "-s", "-U", "-v", "-x")),
        *(([*words, "a@b.c"], 0) for words in (["-d0-1.1"], ["-q30m"], ["-oi", "-oem"], ["-Nfailure", "-Rhdrs"])),
        *(([option, "x", "a@b.c"], 100) for option in DSN_WORDS),
        *(([option, "a@b.c"], 100) for option in ("-z", "-b", "-bx", "-bh", "-ba", "-bd", "-bD", "-bl")),
        *(([option], 100) for option in ("-b", "-o", "-f", "-N", "-O")),
    ],
)
def test_sendmail_flags(box: Sandbox, argv: list[str], code: int) -> None:
    result = box.run("sendmail", *argv, text=b"\nx\n")
    assert result.returncode == code
    if not code:
        assert (box.home / "envelope").read_text().endswith("|Ta@b.c||")
    elif argv[0] in DSN_WORDS and len(argv) > 1:
        assert result.stderr.startswith(f"sendmail: {argv[0]} takes ".encode())
    elif argv[0] in ("-bd", "-bD"):
        assert result.stderr.startswith(b"sendmail: fatal: no daemon is started here")
    else:
        assert result.stderr.endswith(
            b"sendmail: usage: sendmail [ -t ] [ -fsender ] [ -Fname ] [ -bp ] [ -bs ] [ arg ... ]\n"
        )


@pytest.mark.contract("inject 1.13", "inject 1.15")
def test_controls_their_defaults_and_variables(box: Sandbox) -> None:
    text = b"To: a, b@c, d@e+\n\n"
    assert box.inject(text=text) == "Fjoe@mx.example.org|Td@e.plus.org|Tb@c.example.org|Ta@mx.example.org||"
    variables = {"QMAILDEFAULTHOST": "h+", "QMAILDEFAULTDOMAIN": "dom", "QMAILPLUSDOMAIN": "p", "QMAILIDHOST": "id"}
    assert box.inject(text=text, **variables) == "Fjoe@h.p|Td@e.p|Tb@c.dom|Ta@h.p||"
    assert b".qmail@id>\n" in box.queued()
    for name in ("me", "defaultdomain", "plusdomain"):
        (box.home / "control" / name).unlink()
    names = "Td@e.plusdomain|Tb@c.defaultdomain|Ta@defaulthost.defaultdomain||"
    assert box.inject(text=text) == "Fjoe@defaulthost.defaultdomain|" + names
    (box.home / "control" / "me").mkdir()
    result = box.run("qmail-inject", text=text)
    assert (result.returncode, result.stderr) == (111, b"qmail-inject: fatal: read error\n")


def test_a_nul_in_a_header_address_forges_no_envelope_record(box: Sandbox) -> None:
    assert box.inject(text=b"To: a@b.c\0Tvictim@x.y\n\n") == "Fjoe@mx.example.org|Ta@b.c||"


def test_what_starts_once_per_message_imports_little() -> None:
    code = f"import sys; before = set(sys.modules); sys.path.insert(0, {str(BIN.parent)!r})\n"
    code += "import pyqmail.programs.sendmail, pyqmail.programs.qmail_inject, pyqmail.intake.inject, pyqmail.launch\n"
    code += "print(*sorted({name.partition('.')[0] for name in set(sys.modules) - before}))"
    loaded = subprocess.run([sys.executable, "-ISXutf8", "-c", code], capture_output=True, check=True).stdout.split()
    allowed = b"_abc _collections_abc _socket _stat abc errno genericpath os posixpath pyqmail stat".split()
    assert set(loaded) <= set(allowed)


@pytest.mark.contract("inject 3.4")
def test_sendmail_by_other_names(box: Sandbox) -> None:
    for name in ("qmail-qread", "qmail-qstat", "newaliases"):
        box.program(name, f"#!/bin/sh\necho {name} $#\n")
    box.program("qmail-q", '#!/bin/sh\necho qmail-q "$@"\n')
    for option, output in (("-bP", "qmail-qstat 0"), ("-bi", "newaliases 0"), ("-I", "newaliases 0")):
        assert box.run("sendmail", option).stdout == output.encode() + b"\n"
    for option in ("-q", "-q30m", "-qf"):
        assert box.run("sendmail", option).stdout == b"qmail-q retry all\n"
    for name in ("qmail-qread", "qmail-smtpd"):
        box.program(name, f'#!/bin/sh\necho {name} "$TCPREMOTEINFO" "${{RELAYCLIENT-unset}}"\n')
    assert box.run("sendmail", "-bp").stdout == b"qmail-qread  unset\n"
    assert box.run("sendmail", "-bs").stdout == b"qmail-smtpd sendmail-bs \n"
    assert box.run("sendmail", "-bs", PROTO="TCP").stdout == b"qmail-smtpd  unset\n"
    code = "import sys; sys.path.insert(0, sys.argv[1]); from pyqmail.launch import run; sys.argv = [sys.argv[2]]; "
    code += "run('pyqmail.programs.sendmail')"
    for name, status, output in (("/x/mailq", 0, b"qmail-qread  unset\n"), ("newaliases", 0, b"newaliases 0\n")):
        command = [sys.executable, "-ISXutf8", "-c", code, str(BIN.parent), name]
        result = subprocess.run(command, capture_output=True, env=box.environ, timeout=60, check=False)
        assert (result.returncode, result.stdout) == (status, output)


@pytest.mark.contract("inject 4.8", "inject 4.9", "inject 4.10")
def test_small_senders(box: Sandbox) -> None:
    result = box.run("predate", "cat", text=b"x\n", TZ="UTC")
    assert re.fullmatch(rb"Date: \d+ \w{3} \d{4} \d\d:\d\d:\d\d \+0000\nx\n", result.stdout)
    assert box.run("predate").returncode == 100
    assert box.run("predate", "/nonexistent").returncode == 111
    assert box.run("predate", "sh", "-c", "exit 7").returncode == 7
    assert box.run("datemail", "a@b.c", text=b"\nx\n", TZ="UTC").returncode == 0
    assert box.queued().count(b"Date: ") == 1
    assert box.run("mailsubj", "a\nsubject", "d, e", "f@g.h", text=b"x\n").returncode == 0
    envelope = (box.home / "envelope").read_text()
    assert envelope == "Fjoe@mx.example.org|Tf@g.h|Te@mx.example.org|Td@mx.example.org||"
    assert b"Subject: a subject\n" in box.queued()


def test_sendmail_explains_addresses(box: Sandbox) -> None:
    box.program("qmail-explain", '#!/bin/sh\necho "$1"; [ "$1" = a@b.c ] || exit 100\n')
    result = box.run("sendmail", "-bv", "a@b.c, Bob <b@b.c>")
    assert (result.returncode, result.stdout) == (100, b"a@b.c\nb@b.c\n")
    result = box.run("sendmail", "-bt", text=b"a@b.c\n3,0 a@b.c\n\n")
    assert (result.returncode, result.stdout) == (0, b"a@b.c\na@b.c\n")


@pytest.mark.parametrize("options", [["-r", "s@h.h"], ["-rs@h.h"], ["-f", "x", "-rs@h.h"], ["-ti", "-r", "<s@h.h>"]])
def test_sendmail_r_is_f(box: Sandbox, options: list[str]) -> None:
    assert box.run("sendmail", *options, "a@b.c", text=b"To: a@b.c\n\nx\n").returncode == 0
    assert (box.home / "envelope").read_text().startswith("Fs@h.h|Ta@b.c|")
    assert b"From: s@h.h\n" in box.queued()


@pytest.mark.parametrize(
    ("field", "envelope", "warning"),
    [
        (b'To: "a@x.example"', "a@x.example", b""),
        (b'To: Ann <"a@x.example">', "a@x.example", b""),
        (b"To: @relay.example:a@x.example", "a@x.example", b""),
        (b"To: Ann a@x.example", "a@x.example", b"more than an address in: Ann a@x.example"),
        (b"To: [SPAM] a@x.example", "a@x.example", b"more than an address in: [SPAM] a@x.example"),
        (b"To: @x.example, a@y.example", "a@y.example", b"no address in: @x.example"),
        (b"From: @x.example\nTo: a@y.example", "a@y.example", b""),
    ],
)
def test_what_is_no_address_stays_as_it_was_written(box: Sandbox, field: bytes, envelope: str, warning: bytes) -> None:
    result = box.run("qmail-inject", text=field + b"\n\nx\n")
    assert (result.returncode, result.stderr) == (0, warning and b"qmail-inject: warning: " + warning + b"\n")
    assert (box.home / "envelope").read_text().endswith(f"|T{envelope}||")
    assert box.queued().endswith(b"\n" + field + b"\n\nx\n")


def test_what_names_nobody_is_said(box: Sandbox) -> None:
    text = b"To: Bob Roe at work,\n a@b.c, undisclosed-recipients:\n\nx\n"
    result = box.run("sendmail", "-t", text=text)
    assert (result.returncode, result.stderr) == (0, b"qmail-inject: warning: no address in: Bob Roe at work\n")
    assert (box.home / "envelope").read_text() == "Fjoe@mx.example.org|Ta@b.c||"
    assert box.run("sendmail", "d@e.f", text=text).stderr == b""
