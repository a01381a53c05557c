"""0.1.0 with a thousand queued messages and mail coming in becomes this version by INSTALL 12, and goes back."""

import os
import re
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyqmail.admin import going_back, news
from pyqmail.admin.control_files import BY_NAME
from pyqmail.formats.facts import Facts, format_facts
from pyqmail.formats.netstring import format_netstring, format_netstrings
from tests.admin.machine import ROOT, Machine
from tests.admin.test_install_walk import blocks

FIRST = "529acde"  # the commit of 0.1.0
OLD = "/opt/pyqmail-0.1.0"
SERVICES = ("qmail-queued", "qmail-send", "qmail-smtpd")
QUEUED = 500  # for each of two users whose mail waits until they let it in
IN_GIT = (ROOT / ".git").exists()  # a source archive has no history, and so no 0.1.0 in it
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a scratch machine")

BATCH = """\
import smtplib, sys
with smtplib.SMTP("127.0.0.1", 25, timeout=60) as client:
    for number in range(int(sys.argv[2])):
        text = f"X-Number: queued-{number}\\r\\nSubject: x\\r\\n\\r\\nbody\\r\\n"
        client.sendmail("joe@client.test", [sys.argv[1]], text)
"""
LOAD = """\
import os, smtplib, sys
number = -1
while not os.path.exists("/tmp/enough"):
    number += 1
    text = f"X-Number: {sys.argv[1]}-{number}\\r\\nSubject: x\\r\\n\\r\\nbody\\r\\n"
    try:
        with smtplib.SMTP("127.0.0.1", 25, timeout=30) as client:
            client.sendmail("joe@client.test", ["bob@example.test"], text)
    except (smtplib.SMTPException, OSError):
        continue
    print(f"{sys.argv[1]}-{number}", flush=True)
"""
DIALOGUE = """\
import socket
lines = ["HELO client.test", "MAIL FROM:<joe@client.test>", "RCPT TO:<x@elsewhere.test>",
         "RCPT TO:<nobody-here@example.test>", "RCPT TO:<dan@example.test>", "VRFY dan",
         "NOOP", "BOGUS", "DATA",
         "Subject: dialogue\\r\\n\\r\\n..x\\r\\n.", "RSET", "MAIL FROM:<>", "RCPT TO:<dan@example.test>", "QUIT"]
with socket.create_connection(("127.0.0.1", 25), 30) as sock, sock.makefile("rwb") as wire:
    print(wire.readline())
    for line in lines:
        wire.write(line.encode() + b"\\r\\n")
        wire.flush()
        print(line.split("\\r")[0], wire.readline())
"""


KNOWN = """\
import socket, sys
with socket.create_connection(("127.0.0.1", 25), 30) as sock, sock.makefile("rwb") as wire:
    for line in ("HELO client.test", "MAIL FROM:<joe@client.test>", "RCPT TO:<nobody-here@example.test>"):
        wire.readline()
        wire.write(line.encode() + b"\\r\\n")
        wire.flush()
    sys.exit(not wire.readline().startswith(b"550 "))
"""


class Upgraded:
    """A machine that began with 0.1.0 under daemontools."""

    def __init__(self) -> None:
        self.machine = machine = Machine()
        machine.run("rm -rf /etc/service /etc/tcp.smtp*; mkdir -p /etc/service")
        machine.path(OLD).mkdir(parents=True)
        self._unpack()
        machine.run(f"cp -a {ROOT}/.deps {OLD}/.deps; {OLD}/bin/qmail-setup")
        for user in ("ann", "bob", "carl", "dan"):
            machine.run(f"id {user} >/dev/null 2>&1 || useradd -m -d /home/{user} -s /bin/sh {user}")
            machine.run(f"su {user} -c '/var/qmail/bin/maildirmake /home/{user}/Maildir'")
        for name, text in (("me", "mx.example.test"), ("locals", "example.test"), ("rcpthosts", "example.test")):
            machine.path(f"/var/qmail/control/{name}").write_text(f"{text}\n")
        machine.run("for name in postmaster mailer-daemon root; do echo '&dan' >/var/qmail/alias/.qmail-$name; done")
        machine.run("echo :allow >/etc/tcp.smtp; /var/qmail/bin/qmailctl cdb")
        machine.run(
            f"cp -r {OLD}/control-examples/service /var/qmail/service\n"
            "for name in qmail-queued qmail-send qmail-smtpd; do\n"
            "  mkdir -p /var/log/$name && chown qmaill /var/log/$name && ln -s /var/qmail/service/$name /etc/service/\n"
            "done"
        )
        machine.background("exec svscan /etc/service")
        self.wait_for_smtp()

    def _unpack(self) -> None:
        """The sources of 0.1.0, out of the history."""
        words = ["git", "-c", f"safe.directory={ROOT}", "-C", str(ROOT), "archive", FIRST]
        archive = subprocess.run(words, capture_output=True, check=False)
        assert archive.returncode == 0, f"0.1.0 is not in the history: git fetch --unshallow\n{archive.stderr.decode()}"
        subprocess.run(["tar", "-x", "-C", str(self.machine.path(OLD))], input=archive.stdout, check=True)

    def wait_for_smtp(self) -> None:
        """Until the port answers."""
        self.machine.run(
            'timeout 60 sh -c \'until python3 -c "import socket; socket.create_connection((\\"127.0.0.1\\", 25))" '
            "2>/dev/null; do sleep 0.2; done'"
        )

    def queue(self, user: str) -> None:
        """Five hundred messages for ``user``, none of which is delivered before ``let_in``."""
        self.machine.run(f"chmod +t /home/{user}")
        self.script("/tmp/batch.py", BATCH)
        self.machine.run(f"python3 /tmp/batch.py {user}@example.test {QUEUED}")

    def let_in(self, user: str) -> None:
        """Deliver what waits for ``user``: all of it."""
        self.machine.run(f"chmod -t /home/{user}; svc -a /etc/service/qmail-send")
        self.machine.wait_for(lambda: len(self.numbers(user)) >= QUEUED, f"the mail of {user}", 120)

    def script(self, path: str, text: str) -> None:
        """Put a program into the machine."""
        self.machine.path(path).write_text(text)

    def numbers(self, user: str) -> list[str]:
        """The X-Number of each message that ``user`` has, as often as it is there."""
        found = []
        for path in self.machine.path(f"/home/{user}/Maildir/new").iterdir():
            match = re.search(rb"^X-Number: (\S+)", path.read_bytes(), re.M)
            found.append(match.group(1).decode() if match else path.name)
        return found

    def change(self, checkout: str | Path, tag: str) -> tuple[str, set[str]]:
        """Install ``checkout`` over the tree by INSTALL 12, mail coming in: what it printed, what was accepted."""
        steps = blocks("sh", "")
        (install,) = (step for step in steps if step == "bin/qmail-setup\nbin/qmail-setup --check\n")
        (restart,) = (step for step in steps if "svc -t /etc/service/$name" in step)
        self.script("/tmp/load.py", LOAD)
        load = self.machine.spawn(f"rm -f /tmp/enough; exec python3 /tmp/load.py {tag}")
        assert load.stdout is not None
        accepted = {load.stdout.readline().strip()}
        printed = self.machine.run(f"cd {checkout}\n{install}").stdout
        self.machine.run("\n".join(restart.splitlines()[:1]))
        accepted |= {load.stdout.readline().strip() for _ in range(3)}  # the new one takes mail
        self.machine.path("/tmp/enough").touch()
        accepted |= set(load.stdout.read().split())
        assert load.wait(60) == 0
        self.machine.wait_for(lambda: accepted <= set(self.numbers("bob")), "the mail that came in meanwhile", 120)
        return printed, accepted

    def behaviour(self) -> tuple[str, list[str], set[str]]:
        """Replies to a dialogue, the lines of a delivered message, the shapes of the log lines; numbers taken out."""
        self.script("/tmp/known.py", KNOWN)  # a door that cannot ask qmail-rcptd yet takes everybody
        self.machine.wait_for(lambda: self.machine.run("python3 /tmp/known.py", check=False).returncode == 0, "rcptd")
        self.script("/tmp/dialogue.py", DIALOGUE)
        self.machine.run("rm -f /home/dan/Maildir/new/*")
        marks = {name: len(self.log(name)) for name in SERVICES}
        replies = self.machine.run("python3 /tmp/dialogue.py").stdout

        def said(name: str) -> list[str]:
            return [line for line in self.log(name)[marks[name] :] if not line.startswith(("status: ", "tcpserver: "))]

        # each log has a process of its own; what waits for others may be tried meanwhile
        self.machine.wait_for(lambda: any(line.startswith("end msg") for line in of_dan(said("qmail-send"))), "its end")
        accepted = "qmail-smtpd: accepted"
        self.machine.wait_for(lambda: any(line.startswith(accepted) for line in said("qmail-smtpd")), "the dialogue")
        (path,) = self.machine.path("/home/dan/Maildir/new").iterdir()
        lines = {plain(line) for name in SERVICES if name != "qmail-send" for line in said(name)}
        lines |= {plain(line) for line in of_dan(said("qmail-send"))}
        return plain(replies), plain(path.read_text()).splitlines(), lines

    def log(self, name: str) -> list[str]:
        """The lines of a log, without their times."""
        text = self.machine.path(f"/var/log/{name}/current").read_text()
        return [line.partition(" ")[2] for line in text.splitlines()]

    def left(self) -> list[str]:
        """The messages that are still queued."""
        return self.machine.run("find /var/qmail/queue/mess /var/qmail/queue/todo -type f").stdout.split()


def of_dan(lines: list[str]) -> list[str]:
    """The lines of qmail-send about the message to dan alone."""
    found = [
        match for line in lines if (match := re.fullmatch(r"starting delivery (\d+): msg (\d+) to local dan@.*", line))
    ]
    if not found:
        return []
    delivery, number = found[-1].groups()
    begin = max(at for at, line in enumerate(lines) if line == f"new msg {number}")
    about = re.compile(rf"delivery {delivery}: |(.* )?msg {number}\b")
    return [line for line in lines[begin:] if about.match(line)]


def plain(text: str) -> str:
    """``text`` with its numbers, times and dates taken out."""
    return re.sub(r"\d+ [A-Z][a-z]{2} \d{4}", "DATE", re.sub(r"[0-9a-f]*\d[0-9a-f.:]*", "N", text))


@pytest.fixture
def upgraded() -> Iterator[Upgraded]:
    """The machine, with 0.1.0 at work."""
    made = Upgraded()
    try:
        yield made
    finally:
        made.machine.close()


if IN_GIT:

    @needs_root
    def test_a_thousand_messages_and_those_that_come_in_survive_the_way_there_and_back(upgraded: Upgraded) -> None:
        machine, before = upgraded.machine, upgraded.behaviour()
        for user in ("ann", "carl"):
            upgraded.queue(user)
        assert len(upgraded.left()) >= 2 * QUEUED
        printed, accepted = upgraded.change(ROOT, "there")
        assert upgraded.numbers("ann") == upgraded.numbers("carl") == []
        known = news.known_names(machine.path(f"{OLD}/pyqmail/admin/control_files.py").read_text())
        for name in BY_NAME.keys() - known:
            assert f"new and off: control/{name} (" in printed
        assert upgraded.behaviour() == before
        upgraded.let_in("ann")
        assert "note:" not in machine.run(f"{ROOT}/bin/qmail-setup --check").stdout
        assert "note:" not in machine.run("/var/qmail/bin/qmail-showctl --check", check=False).stdout
        printed, more = upgraded.change(OLD, "back")
        assert upgraded.behaviour() == before
        upgraded.let_in("carl")
        machine.wait_for(lambda: upgraded.left() == [], "the end of the queue")
        wanted = Counter(f"queued-{number}" for number in range(QUEUED))
        assert Counter(upgraded.numbers("ann")) == Counter(upgraded.numbers("carl")) == wanted
        arrived = Counter(upgraded.numbers("bob"))
        assert set(arrived.values()) == {1} and accepted | more <= set(arrived)
        assert len(set(arrived) - accepted - more) < 10  # taken, and the connection broken off before that was said
        assert "bounce msg" not in machine.run("cat /var/log/qmail-send/*").stdout


def test_what_the_version_before_knew_is_read_from_its_library(tmp_path: Path) -> None:
    library = tmp_path / "lib/pyqmail-0123456789abcdef"
    (library / "pyqmail/admin").mkdir(parents=True)
    (library / "pyqmail/admin/control_files.py").write_text('T = (_line("me", "My name is "), ControlFile("locals"))\n')
    assert list(news.news(news.installed_library(tmp_path), tmp_path)) == []  # no launcher: nothing to upgrade from
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/qmail-send").write_text(f"    sys.path.insert(0, '/var/qmail/lib/{library.name}')\n")
    (tmp_path / "control").mkdir()
    (tmp_path / "control/databytes").touch()
    lines = list(news.news(news.installed_library(tmp_path), tmp_path))
    assert "new and off: control/queuelifetime (Message lifetime in the queue; qmail-send)" in lines
    assert not [line for line in lines if re.search(r"control/(me|locals|databytes) ", line)]
    assert len(lines) == len(BY_NAME) - 3


def test_a_message_that_an_older_version_would_treat_otherwise_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    need = going_back.Need("0.9.0", lambda home: iter([(7, f"forgets {home}")]))
    monkeypatch.setattr(going_back, "NEEDS", (need,))
    assert list(going_back.needs_of_queue("/x")) == ["message 7 needs 0.9.0 or later: an older version forgets /x"]


def test_messages_whose_facts_an_older_version_would_forget_are_named(tmp_path: Path) -> None:
    for part in ("mess", "info", "local", "remote", "pyqmail/facts"):
        for remainder in range(23):
            (tmp_path / f"queue/{part}/{remainder}").mkdir(parents=True)
    (tmp_path / "queue/mess/7/7").write_bytes(b"Received: x\n\n")
    facts = format_facts(Facts(envid=b"x", smtputf8=True), b"ann@a")
    words = [b"facts 1", b"t", b"Received: x", b"13", facts]
    for number in (7, 8):  # the other one has no message
        path = tmp_path / f"queue/pyqmail/facts/{number}/{number}"
        path.write_bytes(format_netstring(format_netstrings(words)))
    (line,) = going_back.needs_of_queue(str(tmp_path))
    assert line == (
        "message 7 needs 0.2.0 or later: an older version forgets what notices its sender wants (DSN) and that its "
        "sender asked for SMTPUTF8"
    )
