"""A machine that misbehaves under its mail: clocks jump, the password file hangs, nobody logs, daemons are stopped.

In each trouble mail comes in by SMTP without pause. Afterwards each acknowledged message has come to ann exactly once.
"""

import glob
import os
import re
import shlex
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.admin.machine import ENVIRON, Machine

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a scratch machine")
DAEMONS = ("qmail-send", "qmail-lspawn", "qmail-rspawn", "qmail-clean", "qmail-queued", "qmail-rcptd", "tcpserver")
PATH = "PATH=/var/qmail/bin:/usr/bin:/bin"
SMTPD = "tcpserver -H -R -l 0 -u $(id -u qmaild) -g $(id -g qmaild) 127.0.0.1 25 qmail-smtpd"
LOAD = """\
import os, smtplib, sys, time
number = 0
while not os.path.exists(f"/tmp/enough-{sys.argv[1]}"):
    number += 1
    name = f"{sys.argv[1]}-{number}"
    try:
        with smtplib.SMTP("127.0.0.1", 25, timeout=20) as client:
            client.sendmail("joe@client.test", [sys.argv[2]], f"X-Number: {name}\\r\\nSubject: x\\r\\n\\r\\nbody\\r\\n")
    except (smtplib.SMTPException, OSError):
        continue
    print(name, flush=True)
    time.sleep(0.05)
"""
ASK = """\
import smtplib, sys
with smtplib.SMTP("127.0.0.1", 25, timeout=20) as client:
    client.helo()
    client.mail("joe@client.test")
    print(client.rcpt(sys.argv[1])[0])
"""


class Host:
    """qmail-send and qmail-smtpd in a scratch machine, started by shell commands and stopped by their pids."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.log = machine.path("/tmp/send.log")

    def start(self, environ: str = "", logger: str = "") -> None:
        """Both services, with ``environ`` in front of their environment."""
        self.log.write_bytes(b"")
        self.machine.background(f"exec env - {PATH} {environ} qmail-start ./Maildir/ {logger} >/tmp/send.log 2>&1")
        self.machine.background(f"exec env {PATH} {environ} {SMTPD} >/tmp/smtpd.log 2>&1")
        self.machine.wait_for(lambda: "status: local" in self.log.read_text() or bool(logger), "the start")

    def stop(self) -> None:
        """As a supervisor does: TERM, and wait."""
        script = "pkill -TERM -x 'qmail-send|tcpserver' || :; while pgrep -x 'qmail-send|tcpserver'; do sleep 0.1; done"
        self.machine.run(script)

    @contextmanager
    def load(self, tag: str, recipient: str = "ann@example.test") -> Iterator[None]:
        """Mail comes in meanwhile; at the end each message that was acknowledged comes to ann, once."""
        # neither site (-S) nor a shell that is python3 in another $PATH may look up an account
        words = self.machine.words(["/usr/bin/python3", "-IS", "-c", LOAD, tag, recipient])
        with tempfile.TemporaryFile() as acknowledged:
            sender = subprocess.Popen(words, stdout=acknowledged, env=ENVIRON)

            def names() -> list[str]:
                return os.pread(acknowledged.fileno(), 1 << 20, 0).decode().split()

            try:
                self.machine.wait_for(lambda: len(names()) >= 2, f"mail of {tag} under way")
                yield
            finally:
                self.machine.run(f"touch /tmp/enough-{tag}")
                sender.wait(60)
            # one that was deferred is tried again after 100 s
            self.machine.wait_for(lambda: set(names()) <= self.numbers().keys(), f"all of {tag}: {names()}", 150)
        assert {name: count for name, count in self.numbers().items() if count > 1} == {}

    def numbers(self) -> Counter[str]:
        """How often each message has come to ann."""
        found: Counter[str] = Counter()
        for path in self.machine.path("/home/ann/Maildir/new").iterdir():
            found.update(re.findall(r"^X-Number: (\S+)", path.read_text(), re.M))
        return found

    def code_for_nobody(self) -> str:
        """How RCPT is answered for a recipient whom the password file does not know."""
        asked = f"/usr/bin/python3 -IS -c {shlex.quote(ASK)} nobody-at-all@example.test"
        return self.machine.run(asked, check=False).stdout.strip()

    def settle(self) -> None:
        """Return when each delivery that is under way has ended."""
        begun = set(re.findall(r"^starting delivery (\d+):", self.log.read_text(), re.M))
        ended = re.compile(r"^delivery (\d+):", re.M)
        self.machine.wait_for(lambda: begun <= set(ended.findall(self.log.read_text())), "the end of deliveries")

    def more(self, count: int = 3) -> None:
        """Return when so many more messages have come."""
        before = self.numbers().total()
        self.machine.wait_for(lambda: self.numbers().total() >= before + count, "more mail")


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    """A tree, ann, and bob who is assigned: qmail-lspawn needs no password file for him."""
    made = Machine()
    try:
        made.install(me="mx.example.test\n", locals="example.test\n", rcpthosts="example.test\n")
        made.run("echo '|test -e /tmp/open || exit 111\n./Maildir/' >/home/ann/.qmail-later")
        ids = made.run("id -u ann; id -g ann").stdout.split()
        assign = f"=bob:ann:{ids[0]}:{ids[1]}:/home/ann:::\n.\n"
        made.path("/var/qmail/users/assign").write_text(assign)
        made.run("/var/qmail/bin/qmail-newu")
        yield made
    finally:
        made.close()


@pytest.fixture
def host(machine: Machine) -> Iterator[Host]:
    """Not started yet; stopped at the end."""
    made = Host(machine)
    yield made
    made.stop()


def test_the_clock_jumps(host: Host) -> None:
    (library,) = glob.glob("/usr/lib/*/faketime/libfaketime.so.1")
    clock = host.machine.path("/tmp/clock")
    clock.write_text("+0")
    host.start(f"LD_PRELOAD={library} FAKETIME_TIMESTAMP_FILE=/tmp/clock FAKETIME_NO_CACHE=1 DONT_FAKE_MONOTONIC=1")
    with host.load("clock"):
        for jump in ("+3d", "-400d", "+0"):
            clock.write_text(jump)
            host.more()
        clock.write_text("+6d")
        with host.load("waiting", "ann-later@example.test"):
            host.machine.wait_for(lambda: "deferral" in host.log.read_text(), "a deferral")
            host.machine.run("touch /tmp/open")
            host.settle()  # what began before and is deferred after the jump would wait for its 100 s
            clock.write_text("+0")
            host.more()
    assert re.search(r"warning: the clock went back by \d+ seconds: what waits is tried now", host.log.read_text())
    assert "failure" not in host.log.read_text() and "bug" not in host.log.read_text()


def test_the_password_file_hangs(host: Host) -> None:
    host.start()
    host.machine.wait_for(lambda: host.code_for_nobody() == "550", "a refusal")
    with host.load("hangs"):
        host.machine.run("mv /etc/passwd /etc/passwd.kept && mkfifo /etc/passwd && chmod 644 /etc/passwd")
        try:
            assert [host.code_for_nobody() for _ in range(2)] == ["250", "250"]  # both workers of qmail-rcptd hang now
            with host.load("assigned", "bob@example.test"):
                host.more()
        finally:
            host.machine.run("mv /etc/passwd.kept /etc/passwd")
            host.machine.run("pkill -KILL -x qmail-getpw || :")  # their 30 seconds
            host.settle()
            host.machine.run("pkill -ALRM -x qmail-send")
        host.machine.wait_for(
            lambda: host.code_for_nobody() == "550", "a refusal by workers of qmail-rcptd in place of them"
        )


def test_nobody_takes_the_log(host: Host) -> None:
    host.machine.run("test ! -e /dev/log")
    host.start(logger="splogger qmail")
    with host.load("unlogged"):
        host.more(10)


def test_each_daemon_is_stopped_for_a_while(host: Host) -> None:
    host.start()
    with host.load("stopped"):
        for name in DAEMONS:
            host.machine.run(f"pkill -STOP -x {name}; sleep 0.7; pkill -CONT -x {name}")
            host.more()


def test_both_services_are_restarted_by_term(host: Host) -> None:
    """Of an upgrade this is what mail notices; tests/admin/test_upgrade.py has the whole."""
    host.start()
    with host.load("restarted"):
        for _ in range(2):
            host.more()
            host.stop()
            host.start()
