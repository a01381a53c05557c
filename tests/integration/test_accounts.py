"""Accounts of a database, with Debian's PostgreSQL: compiled, delivered to, changed, and kept while it is away."""

import os
import pwd
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyqmail.admin.accounts import changes
from pyqmail.admin.accounts.watcher import PENDING_MAX, put_in_force
from pyqmail.control import Control
from pyqmail.incoming.own_sender import may_use
from pyqmail.login.accounts import look_up
from pyqmail.login.answer import Answer
from pyqmail.login.check_workers import CheckWorkers
from pyqmail.login.passwords import hash_password
from pyqmail.protocol.sasl import Credentials
from pyqmail.system.loop import Loop
from pyqmail.warm.supervised import HELPERS, answers
from tests.integration.mailhost import ROOT, MailHost, ensure_user, install, own_user
from tests.postgresql import PASSWORD, PostgreSQL, postgresql
from tests.public_directory import public_directory
from tests.waiting import wait_for

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="needs root: delivers as several users")
EXAMPLES = ROOT / "control-examples" / "cluster"
# The tree's own has the base group of the lock alone; psycopg is the tests'.
PROGRAM = f"import sys; sys.path.insert(0, {str(ROOT)!r})\nfrom pyqmail.launch import run\n"
PROGRAM += "run('pyqmail.programs.' + sys.argv.pop(1), crash_exit=111)\n"
ROWS = """
INSERT INTO mail_domains VALUES ('V.test'), ('w.test'), ('here.test'), ('not a domain'), ('other.test');
INSERT INTO mail_users (address, home, quota) VALUES
    ('Ann@V.test', NULL, '20000000S'), ('bob@v.test', 'deep/er/bob/', NULL), ('copy@v.test', NULL, NULL),
    ('moved@v.test', NULL, NULL), ('o''brien@w.test', NULL, NULL), ('stranger@nowhere.test', NULL, NULL),
    ('up@v.test', '../../up', NULL), ('out@v.test', '/etc', NULL), ('a:b@v.test', NULL, NULL),
    (E'line\\nend@v.test', NULL, NULL), ('a/b@v.test', NULL, NULL), ('big@v.test', NULL, 'much'),
    (E'esc\\x1b[2J@v.test', NULL, NULL), ('..@v.test', NULL, NULL);
INSERT INTO mail_aliases VALUES ('team@v.test', 'bob@v.test'), ('team@v.test', 'ann@v.test'),
    ('chain@w.test', 'team@v.test'), ('copy@v.test', 'copy@v.test, bob@v.test'), ('moved@v.test', 'bob@v.test'),
    ('@w.test', 'ann@v.test'), ('self@v.test', 'SELF@v.test'), ('pipe@v.test', '|rm -rf /'),
    ('ann@v.test', 'ann@v.test');
INSERT INTO mail_senders VALUES ('ann@v.test', 'sales@shop.test'), ('ann@v.test', '@w.test'), ('c:d', 'x@y.test');
"""
LEFT_OUT = (
    "not a domain", "here.test", "other.test", "stranger@nowhere.test", "up@v.test", "out@v.test", "a:b@v.test",
    "line?end@v.test", "a/b@v.test", "big@v.test", "esc\\x1b[2j@v.test", "..@v.test", "self@v.test", "pipe@v.test",
    "c:d",
)  # fmt: skip


class Node:
    """A host whose accounts are in a database."""

    def __init__(self, host: MailHost, server: PostgreSQL, base: Path, owner: str) -> None:
        self.host = host
        self.home = host.home
        self.server = server
        self.homes = base / "mail"
        self.said = ""  # by the first sync
        self.accountsd = 0  # the process of a qmail-accountsd
        self.owner = owner

    def configure(self, *more: str, mode: int = 0o600) -> None:
        """control/accounts as the example has it, for this server."""
        text = (EXAMPLES / "accounts.postgresql").read_text()
        text = re.sub("(?m)^connection:.*", f"connection: {self.connection}", text)
        text = re.sub("(?m)^owner:.*", f"owner: {self.owner}", text)
        text = re.sub("(?m)^homes:.*", f"homes: {self.homes}", text)
        path = self.home / "control" / "accounts"
        path.write_text(text + "".join(line + "\n" for line in more))
        path.chmod(mode)

    @property
    def connection(self) -> str:
        """With a password, as over a network."""
        return f"host=127.0.0.1 port={self.server.port} dbname=postgres user=pyqmail password='{PASSWORD}'"

    def sync(self, *words: str) -> "subprocess.CompletedProcess[str]":
        """qmail-accounts sync."""
        return subprocess.run(
            [sys.executable, "-IXutf8", "-c", PROGRAM, "qmail_accounts", "sync", *words],
            env={"QMAIL_HOME": str(self.home)},
            capture_output=True,
            text=True,
            timeout=60,
        )

    def rcpt(self, *recipients: str, send: bool = True) -> list[bytes]:
        """The replies to the recipients of a stranger's message, which is sent where one is taken."""
        with socket.create_connection(("127.0.0.1", self.host.port), 60) as sock:
            stream = sock.makefile("rwb")

            def say(line: str) -> bytes:
                stream.write(line.encode() + b"\r\n")
                stream.flush()
                return stream.readline()

            stream.readline()
            say("HELO peer.test")
            say("MAIL FROM:<x@peer.test>")
            replies = [say(f"RCPT TO:<{recipient}>") for recipient in recipients]
            if send and any(reply.startswith(b"250") for reply in replies):
                say("DATA")
                assert say(f"Subject: {' '.join(recipients)}\r\n\r\nx\r\n.").startswith(b"250")
            return replies

    def has(self, home: str, subject: str) -> bool:
        """Whether a mailbox has that message."""
        folder = self.homes / home / "Maildir" / "new"
        return any(f"Subject: {subject}\n".encode() in path.read_bytes() for path in folder.glob("*"))

    def wait(self, home: str, subject: str) -> None:
        """Until a mailbox has that message."""
        wait_for(lambda: self.has(home, subject), f"{subject} in {home}", 60)

    def control(self, name: str) -> list[str]:
        """The lines of a control file."""
        return (self.home / "control" / name).read_text().splitlines()


@pytest.fixture(scope="module")
def server() -> Iterator[PostgreSQL]:
    with postgresql() as made:
        made.run((EXAMPLES / "accounts.sql").read_text())
        made.run(ROWS)
        yield made


@pytest.fixture(scope="module")
def node(server: PostgreSQL) -> Iterator[Node]:
    owner = own_user("vm")
    ensure_user(owner)
    with public_directory() as base:
        home = base / "qmail"
        install(home, me="here.test\n", locals="here.test\n", rcpthosts="here.test\n", maildirquota="0S\n")
        (home / "control" / "virtualdomains").write_text("other.test:alias-other\n")
        host = MailHost(home)
        made = Node(host, server, base, owner)
        made.configure()
        host.start_delivery()
        host.start_smtp()
        try:
            done = made.sync()
            assert done.returncode == 0, done.stderr
            made.said = done.stdout + done.stderr
            wait_for(lambda: made.rcpt("nobody-ever@v.test")[0].startswith(b"550"), "qmail-rcptd with the new maps")
            yield made
        finally:
            host.stop()


def test_rows_that_cannot_be_are_left_out_with_a_line_and_change_nothing_else(node: Node) -> None:
    assert "2 domains, 5 users, 7 targets of aliases, 2 senders\n" in node.said
    for start in LEFT_OUT:
        assert f"qmail-accounts: {start}: " in node.said
    assert node.said.count("left out") == len(LEFT_OUT)
    assert not (node.homes / "../../up").exists() and not list(node.homes.glob("**/a"))


def test_qmail_start_keeps_qmail_accountsd(node: Node) -> None:
    helper = next(each for each in HELPERS if each.name == b"qmail-accountsd")
    wait_for(lambda: answers(str(node.home), helper), "qmail-accountsd")


def test_control_files_keep_the_admins_own_lines(node: Node) -> None:
    assert node.control("rcpthosts") == ["here.test", "v.test", "w.test"]
    assert node.control("virtualdomains") == ["other.test:alias-other", "v.test:v.test", "w.test:w.test"]


def test_mail_reaches_mailboxes_aliases_and_everybody_else(node: Node) -> None:
    sent = ["Ann@v.test", "chain@w.test", "copy@v.test", "moved@v.test", "O'Brien@w.test", "any@w.test"]
    for recipient in sent:
        assert node.rcpt(recipient) == [b"250 ok\r\n"]
    for home, subject in (
        ("v.test/ann", "Ann@v.test"), ("v.test/ann", "chain@w.test"), ("deep/er/bob", "chain@w.test"),
        ("v.test/copy", "copy@v.test"), ("deep/er/bob", "copy@v.test"), ("deep/er/bob", "moved@v.test"),
        ("w.test/o'brien", "O'Brien@w.test"), ("v.test/ann", "any@w.test"),
    ):  # fmt: skip
        node.wait(home, subject)
    assert not node.has("v.test/moved", "moved@v.test")
    box = node.homes / "v.test/ann/Maildir"
    assert box.stat().st_uid == pwd.getpwnam(node.owner).pw_uid and box.stat().st_mode & 0o077 == 0
    assert (box / "maildirsize").read_bytes().startswith(b"20000000S\n")
    wait_for(lambda: node.host.queued() == 0, "an empty queue")


def test_nobody_is_refused_at_smtp(node: Node) -> None:
    replies = node.rcpt("up@v.test", "xann@v.test", "ann-x@v.test", "*ann@v.test", "ann@nowhere.test", send=False)
    assert [reply[:3] for reply in replies] == [b"550", b"550", b"550", b"550", b"553"]


def test_users_may_send_as_the_database_says(node: Node) -> None:
    control = Control(str(node.home))
    assert may_use(control, b"Ann@v.test", b"Sales@shop.test") and may_use(control, b"ann@v.test", b"any@w.test")
    assert not may_use(control, b"bob@v.test", b"sales@shop.test") and not may_use(control, b"ann@v.test", b"")


def test_passwords_are_asked_for_at_once(node: Node) -> None:
    for name in ("ann", "bob"):
        node.server.run(f"UPDATE mail_users SET password = '{hash_password(name.encode()).decode()}' "
                        f"WHERE lower(address) = '{name}@v.test'")  # fmt: skip

    def check(user: str, password: bytes) -> Answer:
        """By a process of its own, as qmail-authd has it."""
        loop, heard = Loop(), list[Answer]()
        workers = CheckWorkers(loop, str(node.home), single_user=False)
        workers.ask(Credentials(b"plain", user.encode(), password), b"", heard.append)
        while not heard:
            loop.run_once()
        loop.close()
        return heard[0]

    (node.home / "control" / "authd").write_text("")
    assert check("Ann@v.test", b"ann") is Answer.YES and check("bob@V.test", b"bob") is Answer.YES
    for user in ("ann@v.test", "copy@v.test", "nobody@v.test", "' OR ''='@v.test", "%(address)s@v.test"):
        assert check(user, b"x") is Answer.NO
    assert look_up(str(node.home), b"Ann@v.test").home == os.fsencode(node.homes / "v.test/ann")
    (node.home / "control" / "authd").write_text("virtual\nsystem\n")
    assert check("ann@v.test", b"ann") is Answer.NO
    (node.home / "control" / "authd").write_text("accounts\n")
    assert check("ann@v.test", b"ann") is Answer.YES
    node.server.run("UPDATE mail_users SET password = 'not hashed' WHERE lower(address) = 'bob@v.test'")
    assert check("bob@v.test", b"not hashed") is Answer.LATER
    node.server.stop()
    try:
        assert check("ann@v.test", b"ann") is Answer.LATER
    finally:
        node.server.start()


def test_what_is_no_state_of_accounts_changes_nothing(node: Node) -> None:
    watched = ["users/cdb", "users/accounts/assign", "control/rcpthosts", "control/virtualdomains"]
    before = [(node.home / name).read_bytes() for name in watched]
    node.server.run("BEGIN; CREATE TABLE kept AS SELECT * FROM mail_users; DELETE FROM mail_users; COMMIT")
    done = node.sync()
    assert done.returncode == 111 and "only 0 users after 5: the last state stays" in done.stderr
    node.server.run("INSERT INTO mail_users SELECT * FROM kept; DROP TABLE kept")
    node.configure("owner2: x")
    assert "'owner2' means nothing" in node.sync().stderr
    node.configure(mode=0o604)
    assert "others may read it" in node.sync().stderr
    node.configure()
    path = node.home / "control/accounts"
    path.write_text(path.read_text().replace(PASSWORD, "wrong secret"))
    done = node.sync()
    assert done.returncode == 111 and "PostgreSQL: " in done.stderr and "wrong" not in done.stderr
    path.write_text(re.sub("(?m)^connection:.*", "connection: wrong secret", path.read_text()))
    done = node.sync()
    assert done.returncode == 111 and "no connection string" in done.stderr and "wrong" not in done.stderr
    node.configure()
    assert [(node.home / name).read_bytes() for name in watched] == before


def test_mail_flows_while_the_database_is_away(node: Node) -> None:
    node.server.stop()
    try:
        assert node.sync().returncode == 111
        assert node.rcpt("copy@v.test", "team@v.test") == [b"250 ok\r\n"] * 2
        node.wait("deep/er/bob", "copy@v.test team@v.test")
    finally:
        node.server.start()


def test_qmail_newu_keeps_the_accounts(node: Node) -> None:
    before = (node.home / "users/cdb").read_bytes()
    assign = node.home / "users/assign"
    assert not assign.exists()
    subprocess.run([node.home / "bin/qmail-newu"], check=True)
    assert (node.home / "users/cdb").read_bytes() == before
    assign.write_text("+sales-:joe:507:100:/home/joe:-::\n.\n")
    subprocess.run([node.home / "bin/qmail-newu"], check=True)
    data = (node.home / "users/cdb").read_bytes()
    assert b"!sales-joe\x00507" in data and b"!v.test-ann\0" in data and len(data) > len(before)
    assign.unlink()


def test_a_domain_that_goes_is_ours_no_more(node: Node) -> None:
    node.server.run("DELETE FROM mail_domains WHERE domain = 'w.test'")
    done = node.sync()
    assert done.returncode == 0, done.stderr
    assert node.control("rcpthosts") == ["here.test", "v.test"]
    assert node.control("virtualdomains") == ["other.test:alias-other", "v.test:v.test"]
    assert node.rcpt("o'brien@w.test")[0].startswith(b"553")
    assert (node.homes / "w.test/o'brien/Maildir").is_dir()
    node.server.run("INSERT INTO mail_domains VALUES ('w.test')")
    assert node.sync().returncode == 0
    assert node.rcpt("o'brien@w.test", send=False) == [b"250 ok\r\n"]


@pytest.fixture
def watched(node: Node) -> Iterator[Node]:
    """With qmail-accountsd, which has done all that there was to be done."""
    assert node.sync().returncode == 0
    log = node.home / "accountsd.log"
    old = (node.home / "users/cdb").stat().st_ino
    with log.open("wb") as file:
        words = [sys.executable, "-IXutf8", "-c", PROGRAM, "qmail_accountsd"]
        daemon = subprocess.Popen(words, env={"QMAIL_HOME": str(node.home)}, stderr=file)
    listening = "SELECT 1 FROM pg_stat_activity WHERE query = 'LISTEN qmail_accounts'"
    try:
        wait_for(lambda: node.server.run(listening) == ["1"], "qmail-accountsd to listen")
        wait_for(lambda: (node.home / "users/cdb").stat().st_ino != old, "the sync at its start")
        node.accountsd = daemon.pid
        yield node
    finally:
        daemon.terminate()
        assert daemon.wait(30) == 0


def test_a_change_is_live_at_once(watched: Node) -> None:
    node = watched

    def becomes(recipient: str, code: bytes, sql: str) -> float:
        began = time.monotonic()
        node.server.run(sql)
        wait_for(lambda: node.rcpt(recipient, send=False)[0].startswith(code), f"{code!r} for {recipient}")
        return time.monotonic() - began

    took = [becomes("new@v.test", b"250", "INSERT INTO mail_users VALUES ('New@v.test')")]
    took += [becomes("list@v.test", b"250", "INSERT INTO mail_aliases VALUES ('list@v.test', 'new@v.test')")]
    took += [becomes("list@v.test", b"550", "DELETE FROM mail_aliases WHERE address = 'list@v.test'")]
    took += [becomes("copy@v.test", b"550", "DELETE FROM mail_users WHERE address = 'copy@v.test';"
                     "DELETE FROM mail_aliases WHERE address = 'copy@v.test'")]  # fmt: skip
    node.server.run("INSERT INTO mail_aliases VALUES ('ann@v.test', 'new@v.test'), ('%s@v.test', 'ann@v.test')")
    took += [becomes("%s@v.test", b"250", "SELECT 1")]
    print("seconds:", took)
    for recipient in ("%s@v.test", "new@v.test", "Bob@v.test"):
        assert node.rcpt(recipient) == [b"250 ok\r\n"]
    for home, subject in (("v.test/new", "%s@v.test"), ("v.test/ann", "%s@v.test"), ("v.test/new", "new@v.test"),
                          ("deep/er/bob", "Bob@v.test")):  # fmt: skip
        node.wait(home, subject)
    took += [becomes("any@x.test", b"250", "INSERT INTO mail_domains VALUES ('x.test');"
                     "INSERT INTO mail_aliases VALUES ('@x.test', 'bob@v.test')")]  # fmt: skip
    assert "x.test:x.test" in node.control("virtualdomains")
    took += [becomes("copy@v.test", b"250", "INSERT INTO mail_users VALUES ('copy@v.test')")]
    children = Path(f"/proc/{node.accountsd}/task/{node.accountsd}/children")
    wait_for(lambda: len(children.read_text().split()) == 1, "only the process that listens")
    node.server.stop()
    node.server.start()
    took += [becomes("later@v.test", b"250", "INSERT INTO mail_users VALUES ('later@v.test')")]
    assert node.sync().returncode == 0
    assert not (node.home / "users/accounts/changes.cdb").exists()
    assert node.rcpt("later@v.test", "new@v.test", send=False) == [b"250 ok\r\n"] * 2
    log = (node.home / "accountsd.log").read_text()
    warnings = [line for line in log.splitlines() if "warning" in line]
    assert warnings and PASSWORD not in log
    for number, line in enumerate(warnings):  # how many there are is up to the server's start
        assert "PostgreSQL: " in line and line.endswith(
            f"; the last state stays, and is asked for again in {2**number} s"
        )


def test_many_changes_at_once_become_a_sync(watched: Node) -> None:
    many, kept = PENDING_MAX + 500, watched.home / "users/accounts/changes.cdb"
    old = (watched.home / "users/cdb").stat().st_ino
    rows = f"SELECT 'many' || n || '@v.test' FROM generate_series(1, {many}) AS n"
    watched.server.run(f"INSERT INTO mail_users (address) {rows}")
    last = f"many{many}@v.test"
    wait_for(lambda: watched.rcpt(last, send=False) == [b"250 ok\r\n"], "the last of them", 60)
    wait_for(lambda: not kept.exists() and (watched.home / "users/cdb").stat().st_ino != old, "a sync", 60)
    watched.server.run("DELETE FROM mail_users WHERE address LIKE 'many%'")
    assert watched.sync("--force").returncode == 0


def test_more_changes_than_are_kept_become_a_sync(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    assert node.sync().returncode == 0
    monkeypatch.chdir("/")  # where qmail-accountsd is, and is again afterwards: what it calls goes elsewhere
    kept = node.home / "users/accounts/changes.cdb"
    said = list[str]()
    for most, stays in ((changes.CHANGES_MAX, True), (1, False)):
        monkeypatch.setattr(changes, "CHANGES_MAX", most)
        assert put_in_force(str(node.home), False, [b"one@v.test", b"two@v.test"], said.append) == 0, said
        assert kept.exists() is stays
