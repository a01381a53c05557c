"""An evening with the qmail HOWTO on an installed tree: its sections 7, 15, 16 and 17, and .forward files.

Aliases for the system's own names; extensions; virtual domains; sendmail's alias file with lists, owners and programs.
"""

import email
import email.message
import os
import pwd
import signal
import smtplib
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.integration.mailhost import MailHost, ensure_user, install
from tests.public_directory import public_directory
from tests.waiting import wait_for

USER = "pqhowto"
PATIENCE_S = 60.0
DEFAULT = "|dot-forward .forward\n./Maildir/"


class Place:
    """The host, its user, and the directory where mail lands."""

    def __init__(self, host: MailHost, etc: Path) -> None:
        self.host = host
        self.etc = etc
        self.alias = host.home / "alias"
        self.account = pwd.getpwnam(USER)
        self.user_home = etc.parent / "person"
        self.maildir = self.user_home / "Maildir"

    def instructions(self, owner: str, extension: str, text: str) -> None:
        """A .qmail file of the user or of alias; or with ``.forward`` as the extension that one."""
        entry = pwd.getpwnam("alias") if owner == "alias" else self.account
        folder = self.alias if owner == "alias" else self.user_home
        path = folder / (extension if extension == ".forward" else f".qmail-{extension}")
        path.write_text(text)
        path.chmod(0o644)
        os.chown(path, entry.pw_uid, entry.pw_gid)

    def aliases(self, text: str) -> "subprocess.CompletedProcess[str]":
        """Write the alias file and run newaliases."""
        (self.etc / "aliases").write_text(text)
        return self.run("newaliases", str(self.etc / "aliases"))

    def run(self, *words: str, text: str = "") -> "subprocess.CompletedProcess[str]":
        """Run one of the tree's programs as root."""
        path = {"PATH": f"{self.host.home}/bin:/usr/bin:/bin"}
        return subprocess.run(words, input=text, env=path, capture_output=True, text=True, timeout=60, check=False)

    def send(self, recipient: str, subject: str, sender: str = "ann@elsewhere.test") -> None:
        """Queue a message through sendmail."""
        done = self.run("sendmail", "-f", sender, recipient, text=f"To: x@y\nSubject: {subject}\n\ntext\n")
        assert done.returncode == 0, done.stderr

    def arrived(self, subject: str, count: int = 1) -> list[email.message.Message]:
        """The messages with that subject in the Maildir, once there are ``count``."""

        def look() -> list[email.message.Message]:
            files = [self.maildir / "new" / name for name in os.listdir(self.maildir / "new")]
            messages = [email.message_from_bytes(path.read_bytes()) for path in files]
            return [message for message in messages if message["Subject"] == subject]

        wait_for(
            lambda: len(look()) >= count, f"{count} of {subject}; log: {self.host.log.read_text()[-800:]}", PATIENCE_S
        )
        found = look()
        assert len(found) == count
        return found

    def retried(self, condition: Callable[[], bool], what: str) -> None:
        """Have what is deferred tried again until ``condition`` holds; only a durable deferral can be hurried."""
        asked = 0.0

        def look() -> bool:
            nonlocal asked
            if time.monotonic() > asked + 0.5:
                asked = time.monotonic()
                self.host.started[0].send_signal(signal.SIGALRM)
            return condition()

        wait_for(look, what, PATIENCE_S)

    def settled(self) -> None:
        """Wait until the queue is empty."""
        wait_for(
            lambda: self.host.queued() == 0, f"an empty queue; log: {self.host.log.read_text()[-800:]}", PATIENCE_S
        )


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    if os.geteuid() != 0:
        pytest.skip("needs root: the tree has seven users")
    with public_directory() as base:
        home = base / "qmail"
        user, alias = ensure_user(USER), pwd.getpwnam("alias")
        install(home, me="mx.example.test\n", locals="example.test\nmx.example.test\n", defaulthost="example.test\n",
                defaultdomain="example.test\n", plusdomain="example.test\n",
                rcpthosts="example.test\nvirt.test\nlisted.test\n",
                virtualdomains=f"virt.test:{USER}-virt\nlisted.test:alias\n")  # fmt: skip
        person = base / "person"
        for folder in (person, *(person / "Maildir" / name for name in ("", "new", "cur", "tmp"))):
            folder.mkdir(mode=0o700)
            os.chown(folder, user.pw_uid, user.pw_gid)
        ids = f"{user.pw_uid}:{user.pw_gid}:{person}"
        lines = [f"={USER}:{USER}:{ids}:::", f"+{USER}-:{USER}:{ids}:-::"]
        for prefix in ("", "alias-"):  # ~alias of this tree, and of no other
            lines.append(f"+{prefix}:alias:{alias.pw_uid}:{alias.pw_gid}:{home}/alias:-::")
        (home / "users" / "assign").write_text("\n".join([*lines, ".", ""]))
        subprocess.run([home / "bin" / "qmail-newu"], check=True)
        (base / "etc").mkdir()
        host = MailHost(home)
        host.log.touch()
        host.start_delivery(DEFAULT)
        host.start_smtp()
        yield Place(host, base / "etc")
        host.stop()


def test_mail_for_root_postmaster_and_mailer_daemon_reaches_a_person(place: Place) -> None:
    place.instructions("alias", "root", f"&{USER}\n")
    place.instructions("alias", "postmaster", "&root\n")
    place.instructions("alias", "mailer-daemon", "&postmaster\n")
    for name in ("root", "Postmaster", "MAILER-DAEMON"):
        place.send(f"{name}@example.test", f"for {name}")
        (message,) = place.arrived(f"for {name}")
        assert message.get_all("Delivered-To", [])[0] == f"{USER}@mx.example.test"  # a name alone is at me
    place.settled()


def test_extensions_belong_to_the_user(place: Place) -> None:
    place.instructions(USER, "list", "./Maildir/\n")
    place.instructions(USER, "sub-default", '|echo "$DEFAULT of $EXT for $RECIPIENT" > seen\n./Maildir/\n')
    place.send(f"{USER}-list@example.test", "exact")
    place.send(f"{USER}-Sub-One-Two@example.test", "default")
    assert place.arrived("exact")[0]["Delivered-To"] == f"{USER}-list@example.test"
    place.arrived("default")
    seen = (place.user_home / "seen").read_text()
    assert seen == f"One-Two of Sub-One-Two for {USER}-Sub-One-Two@example.test\n"
    place.settled()


def test_a_virtual_domain_is_a_users(place: Place) -> None:
    place.instructions(USER, "virt-info", "./Maildir/\n")
    place.instructions(USER, "virt-default", f"&{USER}-list\n")
    with smtplib.SMTP("127.0.0.1", place.host.port, timeout=60) as client:
        for recipient in ("info@virt.test", "anyone@Virt.Test"):
            text = f"Subject: to {recipient}\r\n\r\ntext\r\n"
            client.sendmail("ann@elsewhere.test", [recipient], text)
    assert place.arrived("to info@virt.test")[0]["Delivered-To"] == f"{USER}-virt-info@virt.test"
    delivered = place.arrived("to anyone@Virt.Test")[0].get_all("Delivered-To", [])
    assert delivered == [f"{USER}-list@mx.example.test", f"{USER}-virt-anyone@Virt.Test"]
    place.settled()


ALIASES = """\
# This file is read by newaliases; .qmail files of alias come first.
boss: {user} (the person in charge)
Sales: boss, {user}-list
staff: :include:{etc}/staff
owner-staff: {user}-owner
everybody: staff, boss
log: "|cat > {etc}/log; exit 0"
refuse: "|echo not today; exit 100"
info@listed.test: {user}-list
@listed.test: boss
loop-a@example.test: loop-b@example.test
loop-b@example.test: loop-a@example.test, {user}-list
gone: :include:{etc}/nobody-made-this
"""


@pytest.fixture(scope="module")
def listed(place: Place) -> Place:
    """/etc/aliases in force by way of ~alias/.qmail-default."""
    etc = place.etc
    alias = pwd.getpwnam("alias")
    os.chown(etc, alias.pw_uid, alias.pw_gid)
    place.instructions(USER, "list", "./Maildir/\n")
    place.instructions("alias", "default", f"| fastforward -d {etc}/aliases.cdb\n")
    (etc / "staff").write_text(f"{USER}-list (one), {USER}-list@example.test\n# nobody\nOther Name <{USER}>\n")
    assert place.run("newinclude", str(etc / "staff")).returncode == 0
    done = place.aliases(ALIASES.format(user=USER, etc=etc))
    assert done.returncode == 0 and done.stderr.count("\n") == 1 and "gone: unable to read " in done.stderr
    return place


@pytest.mark.contract("aliases 2.1", "aliases 2.5")
def test_entries_of_the_alias_file(listed: Place) -> None:
    for name, count in (("BOSS", 1), ("sales", 2)):
        listed.send(f"{name}@example.test", f"entry {name}")
        listed.arrived(f"entry {name}", count)
    listed.settled()


@pytest.mark.contract("aliases 1.2", "aliases 4.11", "aliases 5.1")
def test_a_list_is_expanded_and_its_bounces_go_to_its_owner(listed: Place) -> None:
    listed.send("staff@example.test", "to staff")
    messages = listed.arrived("to staff", 2)
    assert {message["Return-Path"] for message in messages} == {"<owner-staff@example.test>"}
    assert all("staff@example.test" in message.get_all("Delivered-To", []) for message in messages)
    listed.settled()


@pytest.mark.contract("aliases 7.2")
def test_a_list_within_a_list_is_mailed_to(listed: Place) -> None:
    listed.send("everybody@example.test", "to everybody")
    senders = sorted(str(message["Return-Path"]) for message in listed.arrived("to everybody", 3))
    assert senders == ["<ann@elsewhere.test>", "<owner-staff@example.test>", "<owner-staff@example.test>"]
    listed.settled()


@pytest.mark.contract("aliases 4.6", "aliases 2.13")
def test_programs_of_the_alias_file(listed: Place) -> None:
    listed.send("log@example.test", "logged")
    log = listed.etc / "log"
    wait_for(lambda: log.exists() and "Subject: logged" in log.read_text(), "the program", PATIENCE_S)
    listed.settled()
    lines = (listed.etc / "log").read_text().splitlines()
    assert lines[0].startswith("From ann@elsewhere.test ")
    assert lines[1:3] == ["Return-Path: <ann@elsewhere.test>", "Delivered-To: log@example.test"]
    listed.send("refuse@example.test", "refused", sender=f"{USER}@example.test")
    (bounce,) = listed.arrived("failure notice")
    assert "not today" in str(bounce.get_payload())
    listed.settled()


@pytest.mark.contract("aliases 2.3", "aliases 4.4")
def test_entries_for_a_virtual_domain(listed: Place) -> None:
    for name, ends_at in (("info", f"{USER}-list@example.test"), ("Whoever", f"{USER}@example.test")):
        listed.send(f"{name}@listed.test", f"virtual {name}")
        assert listed.arrived(f"virtual {name}")[0]["Delivered-To"] == ends_at
    listed.settled()


@pytest.mark.contract("aliases 2.11")
def test_a_loop_ends_and_reaches_whom_it_names(listed: Place) -> None:
    listed.send("loop-a@example.test", "around")
    listed.arrived("around")
    listed.settled()


@pytest.mark.contract("aliases 2.4")
def test_an_unknown_name_bounces(listed: Place) -> None:
    listed.send("nosuchname@example.test", "lost", sender=f"{USER}-list@example.test")
    wait_for(lambda: any("nosuchname" in text for text in bodies(listed)), "the bounce", PATIENCE_S)
    text = next(text for text in bodies(listed) if "nosuchname" in text)
    assert "Sorry, no mailbox here by that name. (#5.1.1)" in text
    listed.settled()


def bodies(place: Place) -> list[str]:
    """The texts of all messages in the Maildir."""
    return [path.read_bytes().decode(errors="replace") for path in (place.maildir / "new").iterdir()]


@pytest.mark.contract("aliases 2.12", "aliases 7.7")
def test_a_list_that_is_missing_or_private_is_tried_again(listed: Place) -> None:
    log = listed.host.log
    listed.send("gone@example.test", "waiting")
    wait_for(lambda: "deferral: fastforward:_fatal:_unable_to_read" in log.read_text(), "the deferral", PATIENCE_S)
    private = listed.etc / "nobody-made-this.bin"
    private.write_bytes(f"&{USER}-list@example.test\0".encode())
    private.chmod(0o640)
    os.chown(private, pwd.getpwnam("alias").pw_uid, -1)
    listed.retried(lambda: "is_not_world-readable" in log.read_text(), "the second deferral")
    private.chmod(0o644)
    listed.retried(lambda: listed.host.queued() == 0, "its delivery")
    listed.arrived("waiting")
    listed.settled()


@pytest.mark.contract("aliases 4", "aliases 4.12")
def test_a_mistake_in_the_alias_file_leaves_the_others_alone(listed: Place) -> None:
    good = ALIASES.format(user=USER, etc=listed.etc)
    done = listed.aliases(good + "broken: (unfinished\n")
    assert done.returncode == 111
    assert "unable to parse this line: broken: (unfinished" in done.stderr
    assert f"aliases: line {good.count(chr(10)) + 1}: " in done.stderr
    listed.send("boss@example.test", "still there")
    listed.arrived("still there")
    listed.settled()


@pytest.mark.contract("aliases 6", "aliases 6.3", "aliases 6.4", "aliases 6.5")
def test_a_forward_file_decides_before_the_mailbox(listed: Place) -> None:
    address = f"{USER}@example.test"
    listed.instructions(USER, ".forward", f"{USER}-list\n")
    listed.send(address, "forwarded")  # exit 99: the Maildir line is skipped
    assert listed.arrived("forwarded")[0]["Delivered-To"] == f"{USER}-list@example.test"
    listed.instructions(USER, ".forward", f'\\{USER}, "|cat > seen"\n')
    listed.send(address, "kept")  # exit 0: the program has run, and the mailbox gets its copy
    assert listed.arrived("kept")[0].get_all("Delivered-To") == [address]
    assert "Subject: kept" in (listed.user_home / "seen").read_text()
    listed.instructions(USER, ".forward", ":fail: not yet\n")
    listed.send(address, "refused for now")
    text = "deferral: dot-forward:_fatal:_.forward:_line_1:_:fail:_is_not_supported"
    wait_for(lambda: text in listed.host.log.read_text(), "the deferral", PATIENCE_S)
    (listed.user_home / ".forward").unlink()
    listed.retried(lambda: listed.host.queued() == 0, "its delivery")
    listed.arrived("refused for now")
    listed.settled()
