"""Programs that call sendmail, each in its own way: what arrives is what they sent."""

import email
import email.message
import email.policy
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.conftest import USER
from tests.integration.mailhost import MailHost, fresh_maildir
from tests.waiting import wait_for

ADDRESS = f"{USER}@example.test"
TEXT = "First line\n.\n..two dots\nFrom here on\n\tGrüße, 世界 \n\nlast\n"


class Desk:
    """An ordinary user on a host, with a place for files."""

    def __init__(self, host: MailHost, maildir: Path, place: Path) -> None:
        self.maildir = maildir
        self.place = place
        self.sendmail = str(host.home / "bin" / "sendmail")
        self.account = pwd.getpwnam(USER)
        self.environ = {"HOME": str(place), "USER": USER, "LOGNAME": USER, "LANG": "C.UTF-8"}
        self.environ["PATH"] = "/usr/local/bin:/usr/bin:/bin"

    def write(self, name: str, text: str) -> str:
        """The path of a file of the user's."""
        path = self.place / name
        path.write_text(text)
        os.chown(path, self.account.pw_uid, self.account.pw_gid)
        return str(path)

    def run(self, *words: str, text: str = "", **environ: str) -> None:
        """Run a program as the user; it must succeed."""
        done = subprocess.run(
            words,
            input=text.encode(),
            capture_output=True,
            env=self.environ | environ,
            cwd=self.place,
            user=self.account.pw_uid,
            group=self.account.pw_gid,
            extra_groups=[],
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def arrived(self, subject: str) -> email.message.EmailMessage:
        """The message with that subject, once it is there."""
        found: list[email.message.EmailMessage] = []

        def look() -> bool:
            for name in os.listdir(self.maildir / "new"):
                text = (self.maildir / "new" / name).read_bytes()
                message = email.message_from_bytes(text, policy=email.policy.default)
                assert isinstance(message, email.message.EmailMessage)
                if message["Subject"] == subject:
                    found.append(message)
            return bool(found)

        wait_for(look, f"a message about {subject}")
        assert len(found) == 1
        return found[0]


@pytest.fixture(scope="module")
def desk(installed_home: Path) -> Iterator[Desk]:
    """One host for all callers."""
    maildir = fresh_maildir(USER)
    host = MailHost(installed_home)
    host.log.write_bytes(b"")
    place = Path(tempfile.mkdtemp(prefix="pyqmail-desk-"))
    os.chown(place, pwd.getpwnam(USER).pw_uid, pwd.getpwnam(USER).pw_gid)
    host.start_delivery()
    yield Desk(host, maildir, place)
    host.stop()
    shutil.rmtree(place)


def body(message: email.message.EmailMessage) -> str:
    """The text of ``message``, decoded if its fields say how, else as UTF-8."""
    payload = message.get_payload(decode=True)
    assert isinstance(payload, bytes)
    return payload.decode()


def test_bsd_mailx(desk: Desk) -> None:
    rc = desk.write("mailrc", f"set sendmail={desk.sendmail}\n")
    desk.run("bsd-mailx", "-s", "by bsd-mailx", "-c", "nobody-here@example.test", ADDRESS, text=TEXT, MAILRC=rc)
    message = desk.arrived("by bsd-mailx")
    assert body(message) == TEXT
    assert message["To"] == ADDRESS and message["Cc"] == "nobody-here@example.test"
    assert message["From"].startswith(USER) or f"<{USER}@" in message["From"]


def test_s_nail(desk: Desk) -> None:
    words = ["s-nail", "-n", "-S", f"mta={desk.sendmail}", "-S", "ttycharset=utf-8", "-s", "by s-nail ä", ADDRESS]
    desk.run(*words, text=TEXT)
    assert body(desk.arrived("by s-nail ä")) == TEXT


def test_mutt_in_batch_mode(desk: Desk) -> None:
    attached = desk.write("data.bin", "".join(chr(number) for number in range(256)) * 40)
    words = ["mutt", "-n", "-F", "/dev/null", "-e", f'set sendmail="{desk.sendmail} -oem -oi"', "-e", "set copy=no"]
    desk.run(*words, "-s", "by mutt é", "-a", attached, "--", f"Päul <{ADDRESS}>", text=TEXT)
    message = desk.arrived("by mutt é")
    text, attachment = message.iter_parts()
    assert isinstance(text, email.message.EmailMessage) and isinstance(attachment, email.message.EmailMessage)
    assert body(text) == TEXT
    assert attachment.get_payload(decode=True) == Path(attached).read_bytes()
    assert message["To"] == f"Päul <{ADDRESS}>"


def test_mailsubj_gives_a_date_and_an_id(desk: Desk) -> None:
    desk.run(str(Path(desk.sendmail).with_name("mailsubj")), "by mailsubj", ADDRESS, text=TEXT)
    message = desk.arrived("by mailsubj")
    assert message["Date"] and message["Message-ID"]


def test_git_send_email(desk: Desk) -> None:
    patch = (
        "From 0123456789012345678901234567890123456789 Mon Sep 17 00:00:00 2001\n"
        "From: Änn Author <ann@example.test>\nDate: Mon, 2 Jan 2023 03:04:05 +0100\n"
        "Subject: [PATCH] by git\nMIME-Version: 1.0\nContent-Type: text/plain; charset=UTF-8\n"
        "Content-Transfer-Encoding: 8bit\n\nWhy: ünicode\n---\n f | 1 +\n\n"
        "diff --git a/f b/f\n--- a/f\n+++ b/f\n@@ -0,0 +1 @@\n+.\n-- \n2.39\n"
    )
    path = desk.write("0001-by-git.patch", patch)
    words = ["git", "send-email", f"--smtp-server={desk.sendmail}", f"--to={ADDRESS}", "--confirm=never", "--quiet"]
    me = {"GIT_COMMITTER_NAME": "Sam", "GIT_COMMITTER_EMAIL": "sam@example.test"}
    me |= {"GIT_AUTHOR_NAME": "Sam", "GIT_AUTHOR_EMAIL": "sam@example.test"}
    desk.run(*words, "--from=Sam Sender <sam@example.test>", "--envelope-sender=bounces@example.test", path, **me)
    message = desk.arrived("[PATCH] by git")
    assert body(message).endswith("diff --git a/f b/f\n--- a/f\n+++ b/f\n@@ -0,0 +1 @@\n+.\n-- \n2.39\n")
    assert "Why: ünicode\n" in body(message)
    assert message["From"] == "Sam Sender <sam@example.test>"
    assert message["Return-Path"] == "<bounces@example.test>"
    assert message["Message-ID"] and len(message.get_all("Date") or ()) == 1


@pytest.mark.parametrize("options", ["-t -i", "-i -t -fweb@example.test"])
@pytest.mark.parametrize("line_ends", ["LF", "CRLF"])
def test_php_mail(desk: Desk, options: str, line_ends: str) -> None:
    subject = f"by php {len(options)} {line_ends}"
    program = (
        "$headers = ['From' => 'Web <web@example.test>', 'Content-Type' => 'text/plain; charset=utf-8'];"
        "exit(mail($argv[1], $argv[2], $argv[3], $headers) ? 0 : 1);"
    )
    setting = f"mail.mixed_lf_and_crlf={'On' if line_ends == 'LF' else 'Off'}"
    words = ["php", "-d", f"sendmail_path={desk.sendmail} {options}", "-d", setting, "-r", program]
    desk.run(*words, ADDRESS, subject, TEXT)
    wait_for(lambda: len(desk_files(desk, subject.encode())) == 1, "the message")
    (text,) = desk_files(desk, subject.encode())
    assert b"\nFrom: Web <web@example.test>\n" in text
    sender = "web" if "-f" in options else USER
    assert text.startswith(f"Return-Path: <{sender}@example.test>\n".encode())
    assert text.endswith(b"charset=utf-8\n\n" + TEXT.encode() + b"\n")  # whatever the line ends of the header were


def test_a_perl_pipe(desk: Desk) -> None:
    program = (
        'open(my $mail, "|-", $ARGV[0], "-t", "-oi", "-oem", "-f", "$ARGV[1]") or die; '
        'print $mail "To: $ARGV[1]\\nCc: \\"a, b\\" <$ARGV[1]>\\nBcc: nobody-here\\@example.test\\n'
        'Subject: by perl\\n\\n"; print $mail $ARGV[2]; close($mail) or exit 1;'
    )
    desk.run("perl", "-e", program, desk.sendmail, ADDRESS, TEXT)
    wait_for(lambda: len(desk_files(desk, b"Subject: by perl\n")) == 2, "a message for each recipient")
    for text in desk_files(desk, b"Subject: by perl\n"):
        message = email.message_from_bytes(text, policy=email.policy.default)
        assert text.endswith(b"\n\n" + TEXT.encode())
        assert message["Cc"] == f'"a, b" <{ADDRESS}>' and message["Bcc"] is None


def desk_files(desk: Desk, line: bytes) -> list[bytes]:
    """The texts of all messages that have ``line`` in their headers; a bounce has it further down."""
    texts = [(desk.maildir / "new" / name).read_bytes() for name in os.listdir(desk.maildir / "new")]
    return [text for text in texts if line in text.partition(b"\n\n")[0] + b"\n"]


def test_python_subprocess(desk: Desk) -> None:
    program = (
        "import subprocess, sys; from email.message import EmailMessage\n"
        "m = EmailMessage(); m['To'] = sys.argv[2]; m['Subject'] = 'by python ß'; m['From'] = 'Pÿ <py@example.test>'\n"
        "m.set_content(sys.argv[3])\n"
        "subprocess.run([sys.argv[1], '-t', '-oi'], input=m.as_bytes(), check=True)\n"
    )
    desk.run("/usr/bin/python3", "-c", program, desk.sendmail, ADDRESS, TEXT)
    message = desk.arrived("by python ß")
    assert message.get_content() == TEXT
    assert message["From"] == "Pÿ <py@example.test>"


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("cron", ["-i", "-FCronDaemon", "-B8BITMIME", "-oem"]),
        ("at", ["-i"]),
        ("logwatch", ["-t"]),
        ("smartd", ["-oi", "-oem", "-odb"]),
        ("mdadm", ["-t", "-oi"]),
        ("ruby", ["-i", "-t"]),
        ("nodemailer", ["-i", "-f", f"{USER}@example.test"]),
    ],
)
def test_the_command_lines_of_other_callers(desk: Desk, name: str, options: list[str]) -> None:
    subject = f"as by {name}"
    to = [] if "-t" in options else [ADDRESS]
    text = f"From: root (Daemon)\nTo: {ADDRESS}\nSubject: {subject}\nAuto-Submitted: auto-generated\n\n{TEXT}"
    desk.run(desk.sendmail, *options, *to, text=text)
    message = desk.arrived(subject)
    assert body(message) == TEXT
    assert b"\nFrom: root@example.test (Daemon)\nTo:" in desk_files(desk, subject.encode())[0]


def test_sendmail_bs_speaks_smtp(desk: Desk) -> None:
    lines = ["EHLO here", f"MAIL FROM:<{ADDRESS}>", f"RCPT TO:<{ADDRESS}>", "DATA", "Subject: by smtp", "", "x", "."]
    desk.run(desk.sendmail, "-bs", text="".join(line + "\r\n" for line in [*lines, "QUIT"]))
    message = desk.arrived("by smtp")
    assert body(message) == "x\n"
    assert "sendmail-bs@" in " ".join(message.get_all("Received") or ())
