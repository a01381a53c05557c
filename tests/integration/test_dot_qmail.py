"""Deliveries as admins set them up: default deliveries, other people's programs, virtual domains.

One tree for all of it, with real users. It is mounted over /var/lib/qmail in a mount namespace of its own, because
Debian's dot-forward looks for qmail-queue there and nowhere else.
"""

import imaplib
import os
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.mailhost import MailHost, ensure_user, fresh_maildir, install, messages
from tests.integration.test_chain import read_with_mutt
from tests.public_directory import public_directory
from tests.waiting import wait_for

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="needs root: delivers as several users")
USER = "pqdot"  # of these tests alone: its home is emptied before each
VIRTUAL_UID = 39211  # nobody's
ADDRESSES = 1000  # of one virtual host
CONCURRENCY = 10  # the default of control/concurrencylocal
DOMAINS = f"""\
vhost.test:vhost
person.test:{USER}
prefix.test:{USER}-prefix
.wild.test:{USER}-wild
one.test:{USER}-many
two.test:{USER}-many
special@vhost.test:{USER}-special
not.wild.test:
"""


class Tree:
    """A running tree and a user whose .qmail files the tests write."""

    def __init__(self, host: MailHost, base: Path) -> None:
        self.host = host
        self.base = base
        self.entry = ensure_user(USER)
        self.home = Path(self.entry.pw_dir)
        self.maildir = self.home / "Maildir"

    def write(self, name: str, text: str, mode: int = 0o644) -> None:
        """A file of the user's."""
        path = self.home / name
        path.write_text(text)
        path.chmod(mode)
        os.chown(path, self.entry.pw_uid, self.entry.pw_gid)

    def send(self, *recipients: str, sender: str = "ann@client.test", body: str = "body") -> None:
        """Queue a message by the tree's own qmail-inject."""
        text = f"Subject: {body}\nTo: undisclosed:;\n\n{body}\n"
        command = [self.host.home / "bin" / "qmail-inject", "-f", sender, "--", *recipients]
        done = subprocess.run(command, input=text.encode(), env=self.host.environ(), capture_output=True, timeout=60)
        assert done.returncode == 0, done.stderr

    def arrived(self, count: int, box: Path | None = None) -> list[Path]:
        """The ``count`` files in new/ of ``box``, once the queue is empty."""
        new = (box or self.maildir) / "new"
        wait_for(lambda: len(os.listdir(new)) >= count and self.host.queued() == 0, f"{count} messages")
        found = sorted(new.iterdir())
        assert len(found) == count
        return found

    def logged(self, text: str) -> None:
        """Wait until the log has ``text``, written since the last ``clear``."""
        wait_for(lambda: text in self.host.log.read_text()[self.mark :], f"{text!r} in the log")

    def clear(self) -> None:
        """Nothing in the mailboxes, no .qmail files, and a new place in the log."""
        for path in self.home.iterdir():
            if path.name.startswith((".qmail", ".forward", ".procmailrc", ".mailfilter", "Mailbox", "box", "seen")):
                path.unlink()
        fresh_maildir(USER)
        self.mark = len(self.host.log.read_text())


@pytest.fixture(scope="module")
def running() -> Iterator[Tree]:
    with public_directory() as base:
        home = base / "qmail"
        install(
            home, me="mx.example.test\n", locals="example.test\n", rcpthosts="example.test\n", virtualdomains=DOMAINS
        )
        (home / "users").mkdir(exist_ok=True)
        virtual = base / "virtual"
        (home / "users" / "assign").write_text(f"+vhost-:vhost:{VIRTUAL_UID}:{VIRTUAL_UID}:{virtual}:-::\n.\n")
        subprocess.run([home / "bin" / "qmail-newu"], check=True)
        make_virtual_host(virtual)
        mount = 'mount --bind "$0" /var/lib/qmail && exec "$@"'
        host = MailHost(home, ("unshare", "-m", "sh", "-c", mount, str(home)))
        host.log.touch()
        host.start_delivery()
        made = Tree(host, base)
        yield made
        made.clear()
        host.stop()


def make_virtual_host(home: Path) -> None:
    """A home with a .qmail file for each of many addresses, all under one uid."""
    for name in ("Maildir/tmp", "Maildir/new", "Maildir/cur"):
        (home / name).mkdir(parents=True)
    for number in range(ADDRESSES):
        (home / f".qmail-user{number}").write_text("./Maildir/\n")
    (home / ".qmail-postmaster").write_text('|printf "%s|" "$EXT" "$USER" "$HOME" "$LOCAL" "$HOST" > seen\n')
    for path in [home, *home.rglob("*")]:
        os.chown(path, VIRTUAL_UID, VIRTUAL_UID)
    for path in (home / "Maildir", *(home / "Maildir").iterdir()):
        path.chmod(0o700)


@pytest.fixture
def tree(running: Tree) -> Tree:
    running.clear()
    return running


def test_a_maildir_line(tree: Tree) -> None:
    tree.write(".qmail", "./Maildir/\n")
    tree.send(f"{USER}@example.test")
    (path,) = tree.arrived(1)
    assert path.stat().st_uid == tree.entry.pw_uid and path.stat().st_mode & 0o777 == 0o600


def test_an_mbox_line(tree: Tree) -> None:
    tree.write(".qmail", "./Mailbox\n")
    tree.send(f"{USER}@example.test")
    tree.logged("did_1+0+0/")
    text = (tree.home / "Mailbox").read_text()
    assert text.startswith("From ann@client.test ") and text.endswith("\nbody\n\n")
    assert (tree.home / "Mailbox").stat().st_uid == tree.entry.pw_uid


def test_no_dot_qmail_takes_the_default_delivery(tree: Tree) -> None:
    (tree.home / ".qmail-default").unlink()
    tree.send(f"{USER}@example.test")
    tree.arrived(1)


def test_preline_procmail(tree: Tree) -> None:
    tree.write(".qmail", "|preline procmail\n./Maildir/\n")
    tree.write(".procmailrc", f"MAILDIR={tree.home}\n:0\n* ^Subject: body\nbox\n")
    tree.send(f"{USER}@example.test")
    tree.arrived(1)
    text = (tree.home / "box").read_text()
    assert re.match(
        rf"From ann@client.test .*\nReturn-Path: <ann@client.test>\nDelivered-To: {USER}@example.test\n", text
    )


@pytest.mark.contract("local 6.2", "local 6.3")
@pytest.mark.parametrize(("code", "letter"), [(99, "success"), (100, "failure"), (75, "deferral")])
def test_what_maildrop_exits_with_decides(tree: Tree, code: int, letter: str) -> None:
    tree.write(".qmail-x", "|preline maildrop\n./Maildir/\n")
    tree.write(".mailfilter", f'cc "|cat > {tree.home}/seen"\nEXITCODE={code}\nexit\n', 0o600)
    tree.send(f"{USER}-x@example.test", sender="")
    tree.logged(f" {letter}: ")
    assert "Subject: body" in (tree.home / "seen").read_text()
    assert not os.listdir(tree.maildir / "new")
    if letter == "deferral":
        tree.write(".qmail-x", "#\n")
        wait_for(lambda: try_now(tree.host) == 0, "the message to go at once")


def try_now(host: MailHost) -> int:
    """Ask qmail-send to try all again; how many messages there still are."""
    os.kill(host.started[0].pid, signal.SIGALRM)
    return host.queued()


@pytest.mark.parametrize("directory", ["/usr/bin", "bin"], ids=["Debian's", "ours"])
def test_dot_forward_and_another_line(tree: Tree, directory: str) -> None:
    program = tree.host.home / directory / "dot-forward"
    tree.write(".qmail", f"|{program} .forward\n./Maildir/\n")
    tree.send(f"{USER}@example.test", body="stays")
    assert b"stays" in tree.arrived(1)[0].read_bytes()  # without a .forward the next line counts
    tree.clear()
    tree.write(".qmail", f"|{program} .forward\n./Maildir/\n")
    tree.write(".forward", f"{USER}-other@example.test\n")
    tree.write(".qmail-other", "./Mailbox\n")
    tree.send(f"{USER}@example.test", body="goes")
    tree.logged("did_1+0+0/")
    text = (tree.home / "Mailbox").read_text()
    assert f"Delivered-To: {USER}-other@example.test\n" in text
    assert f"Delivered-To: {USER}@example.test\n" in text  # put in by dot-forward, so that loops are seen
    assert not os.listdir(tree.maildir / "new")


def test_one_line_of_each_kind(tree: Tree) -> None:
    tree.write(".qmail", f"# all of it\n./Maildir/\n./Mailbox\n|cat > seen\n&{USER}-copy@example.test\n")
    tree.write(".qmail-copy", "./Maildir/\n")
    tree.send(f"{USER}@example.test")
    tree.arrived(2)
    tree.logged("did_2+1+1/qp_")
    assert (tree.home / "seen").read_text().startswith("Received: (qmail ")
    assert "Delivered-To" not in (tree.home / "seen").read_text()


def test_forward_condredirect_and_except_in_the_real_chain(tree: Tree) -> None:
    tree.write(".qmail-a", f"|forward {USER}-f@example.test\n")
    tree.write(".qmail-b", f"|condredirect {USER}-f@example.test grep -q ^body\n./Mailbox\n")
    tree.write(".qmail-c", f"|except grep -q nonsense\n|bouncesaying 'no way' false\n&{USER}-f@example.test\n")
    tree.write(".qmail-f", "./Maildir/\n")
    for letter in "abc":
        tree.send(f"{USER}-{letter}@example.test")
    returned = sorted(re.findall(r"Return-Path: <(.*)>", "".join(path.read_text() for path in tree.arrived(3))))
    assert returned == ["ann@client.test"] * 3
    assert not (tree.home / "Mailbox").exists()


@pytest.mark.contract("local 2.6", "local 3")
def test_addresses_that_forward_to_each_other_bounce_once_and_stop(tree: Tree) -> None:
    tree.write(".qmail-ping", f"&{USER}-pong@example.test\n&{USER}-pong@example.test\n")
    tree.write(".qmail-pong", f"&{USER}-ping@example.test\n")
    tree.write(".qmail-back", "./Maildir/\n")
    tree.send(f"{USER}-ping@example.test", sender=f"{USER}-back@example.test")
    found = tree.arrived(2)  # ping was asked to send two copies
    assert all("This message is looping" in path.read_text() for path in found)


@pytest.mark.contract("local 9.9")
def test_a_list_with_verp_names_each_subscriber_and_gets_the_bounces(tree: Tree) -> None:
    tree.write(".qmail-list", f"+list\n&{USER}-in@example.test\n&{USER}-nobody-here@example.test\n")
    tree.write(".qmail-in", "./Maildir/\n")
    tree.write(".qmail-nobody-here", "|bouncesaying gone\n")
    tree.write(".qmail-list-owner", "#\n")
    tree.write(".qmail-list-owner-default", '|echo "$SENDER|$DEFAULT|$RECIPIENT" > seen\n')
    tree.send(f"{USER}-list@example.test")
    (path,) = tree.arrived(1)
    assert f"Return-Path: <{USER}-list-owner-{USER}-in=example.test@example.test>" in path.read_text()
    expected = f"||{USER}-list-owner-@example.test\n"  # one for all local failures of a message
    seen = tree.home / "seen"
    wait_for(lambda: seen.exists() and seen.read_text() == expected, "the bounce")


@pytest.mark.parametrize(
    ("address", "names", "shown"),
    [
        pytest.param("info@person.test", ".qmail-info", f"{USER}-info info", id="a domain of a user"),
        pytest.param("info@prefix.test", ".qmail-prefix-info", f"{USER}-prefix-info prefix-info", id="with a prefix"),
        pytest.param("Me@deep.wild.test", ".qmail-wild-me", f"{USER}-wild-Me wild-Me", id="all below a domain"),
        pytest.param("a@one.test", ".qmail-many-default", f"{USER}-many-a many-a", id="one of many under a user"),
        pytest.param("b@two.test", ".qmail-many-default", f"{USER}-many-b many-b", id="another of them"),
        pytest.param(
            "special@vhost.test", ".qmail-special-default", f"{USER}-special-special special-special", id="one address"
        ),
    ],
)
def test_virtual_domains(tree: Tree, address: str, names: str, shown: str) -> None:
    tree.write(names, '|echo "$LOCAL $EXT $HOST" > seen\n')
    tree.send(address)
    tree.logged("did_0+0+1/")
    assert (tree.home / "seen").read_text() == f"{shown} {address.partition('@')[2]}\n"


def test_an_exception_below_a_virtual_domain_is_remote(tree: Tree) -> None:
    tree.send("x@not.wild.test", sender="")
    tree.logged("to remote x@not.wild.test")


def test_a_virtual_host_of_many_addresses_is_served_without_a_fork_per_message(tree: Tree) -> None:
    box = tree.base / "virtual" / "Maildir"
    tree.send(*[f"user{number}@vhost.test" for number in range(ADDRESSES)], "postmaster@vhost.test")
    found = tree.arrived(ADDRESSES, box)
    assert len({line for path in found for line in re.findall("Delivered-To: .*", path.read_text())}) == ADDRESSES
    assert {path.stat().st_uid for path in found} == {VIRTUAL_UID}
    # The name of each message has the number of the process that wrote it
    processes = {re.search(r"P(\d+)Q", path.name).group(1) for path in found}  # type: ignore[union-attr]
    assert len(processes) <= 2 * CONCURRENCY
    seen = (tree.base / "virtual" / "seen").read_text()
    assert seen == f"postmaster|vhost|{tree.base}/virtual|vhost-postmaster|vhost.test|"


VARIABLES = (
    "PATH SENDER NEWSENDER RECIPIENT USER HOME LOCAL HOST HOST2 HOST3 HOST4 EXT EXT2 EXT3 EXT4 DTLINE RPLINE UFLINE"
)


@pytest.mark.contract("local 7.1", "local 7.5")
def test_a_program_sees_what_qmail_start_was_given_and_its_variables_and_nothing_else(tree: Tree) -> None:
    tree.write(".qmail", "|env -0 > seen\n")
    tree.send(f"{USER}@example.test")
    tree.logged("did_0+0+1/")
    names = {entry.partition("=")[0] for entry in (tree.home / "seen").read_text().split("\0")[:-1]}
    assert names - {"PWD"} == set(VARIABLES.split())  # PWD is the shell's own


def test_a_program_cannot_look_into_the_worker_that_serves_it(tree: Tree) -> None:
    tree.write(
        ".qmail",
        "|for file in environ mem maps fd/0; do cat /proc/$PPID/$file >/dev/null 2>&1 && echo $file; done > seen; :\n"
        "|ls /proc/$PPID/fd >> seen 2>/dev/null; exit 0\n",
    )
    tree.send(f"{USER}@example.test")
    tree.logged("did_0+0+2/")
    assert (tree.home / "seen").read_text() == ""


def test_mutt_and_dovecot_read_what_we_delivered(tree: Tree) -> None:
    tree.write(".qmail", "./Maildir/\n")
    for number in range(3):
        tree.send(f"{USER}@example.test", body=f"number {number}")
    tree.arrived(3)
    assert {message["Subject"] for message in messages(tree.maildir)} == {f"number {n}" for n in range(3)}
    command = f"{dovecot(tree, 'doveadm')} fetch {'' if old_dovecot() else '--no-userdb-lookup'} hdr.subject all"
    listed = subprocess.run(["su", USER, "-c", command], capture_output=True, text=True, timeout=60, check=True)
    assert sorted(re.findall("number [0-9]", listed.stdout)) == ["number 0", "number 1", "number 2"]
    assert re.search("\nSubject: number [0-9]\n", read_with_mutt(tree.maildir, USER))


def test_dovecot_s_imap_moves_flags_and_deletes_while_we_deliver(tree: Tree) -> None:
    tree.write(".qmail", "./Maildir/\n")
    tree.send(f"{USER}@example.test", body="first")
    tree.arrived(1)
    client = imap(tree)
    try:
        assert client.select()[1] == [b"1"]
        tree.send(f"{USER}@example.test", body="second")
        wait_for(lambda: client.noop()[0] == "OK" and client.select()[1] == [b"2"], "the second message")
        text = client.fetch("2", "(BODY[HEADER.FIELDS (SUBJECT)])")[1][0]
        assert isinstance(text, tuple) and text[1] == b"Subject: second\r\n\r\n"
        client.store("1", "+FLAGS", r"(\Deleted)")
        client.expunge()
    finally:
        client.logout()
    (left,) = messages(tree.maildir)
    assert left["Subject"] == "second"
    assert not os.listdir(tree.maildir / "tmp")


def old_dovecot() -> bool:
    """Whether it is one before 2.4, whose settings have other names."""
    said = subprocess.run(["dovecot", "--version"], capture_output=True, text=True, timeout=60, check=True).stdout
    return tuple(map(int, said.split(".")[:2])) < (2, 4)


def dovecot(tree: Tree, program: str) -> str:
    """How the user begins a command of Dovecot's on the Maildir, without its daemons."""
    if old_dovecot():
        return f"{program} -o mail_location=maildir:{tree.maildir}"
    place = f"-o mail_path={tree.maildir} -o mail_inbox_path={tree.maildir} -o mail_privileged_group="
    return f"env USER={USER} DOVECOT_PRESERVE_ENVS=USER {program} -o mail_driver=maildir {place}"


def imap(tree: Tree) -> imaplib.IMAP4:
    """A session with Dovecot's imap as the user: no login, on a socket pair made into a port."""
    listener = socket.create_server(("127.0.0.1", 0))
    program = dovecot(tree, "/usr/lib/dovecot/imap")
    pid = os.fork()
    if pid == 0:
        try:
            connection, _ = listener.accept()
            for fd in (0, 1):
                os.dup2(connection.fileno(), fd)
            os.execvp("su", ["su", USER, "-c", program])
        finally:
            os._exit(1)
    client = imaplib.IMAP4("127.0.0.1", listener.getsockname()[1], timeout=60)
    listener.close()
    assert client.state in ("NONAUTH", "AUTH")
    client.state = "AUTH"
    return client
