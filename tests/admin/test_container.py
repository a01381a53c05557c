"""The container of control-examples/container: rootless, read-only but for its volumes, and nothing lost when it ends.

No registry and no engine are needed: the same root runs in namespaces of its own, below a user namespace in which root
is an ordinary number outside, as engines make it for an ordinary user. Its init is process 1.
"""

import os
import re
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.admin.machine import ENVIRON, ROOT, Machine
from tests.admin.test_debian_package import SUITES, apt, package, wheels  # noqa: F401  (fixtures)

RECIPE = ROOT / "control-examples" / "container"
FIRST_ID, IDS = 100_000, 65_536
SHIFT = """\
import os, sys
top = sys.argv[1]
device = os.lstat(top).st_dev
for folder, names, files in os.walk(top):
    names[:] = [name for name in names if os.lstat(os.path.join(folder, name)).st_dev == device]
    for path in (folder, *(os.path.join(folder, name) for name in names + files)):
        status = os.lstat(path)
        if status.st_uid < 100000:
            os.lchown(path, status.st_uid + 100000, status.st_gid + 100000)
            if not os.path.islink(path):
                os.chmod(path, status.st_mode & 0o7777)
"""
ENTER = """\
set -e
mount --rbind "$ROOT" "$ROOT"
mount -o remount,bind,ro "$ROOT"
mount -t proc proc "$ROOT/proc"
mount --rbind /dev "$ROOT/dev"
for place in /run /tmp /var/qmail/run; do mount -t tmpfs -o mode=755 tmpfs "$ROOT$place"; done
mount --bind "$VOLUMES/control" "$ROOT/var/qmail/control"
mount --bind "$VOLUMES/queue" "$ROOT/var/qmail/queue"
mount --bind "$VOLUMES/mail" "$ROOT/mail"
ip link set lo up
exec chroot "$ROOT" /usr/bin/env -i MAILNAME=mx.example.test /usr/bin/tini -- /usr/local/sbin/start
"""
LOAD = """\
import smtplib
number = 0
try:
    while True:
        with smtplib.SMTP("127.0.0.1", 25, timeout=30) as client:
            text = f"X-Number: {number}\\r\\nSubject: x\\r\\n\\r\\nx\\r\\n"
            client.sendmail("joe@client.test", ["postmaster@mx.example.test"], text)
        print(number, flush=True)
        number += 1
except (OSError, smtplib.SMTPException):
    pass
"""


class Container:
    """A root with the package, arranged by the recipe, and three empty volumes."""

    def __init__(self, deb: Path) -> None:
        self.machine = machine = Machine(SUITES[0])
        self.root = f"{machine.base}/root"
        self.volumes = f"{machine.base}/volumes"
        machine.path("/tmp/pyqmail.deb").write_bytes(deb.read_bytes())
        apt(machine, "install -q -y --no-install-recommends tini")
        machine.run(f"dpkg -i /tmp/pyqmail.deb; {RECIPE}/arrange ''")
        self.outside(["python3", "-c", SHIFT, self.root])
        for name in ("control", "queue", "mail"):
            self.outside(["install", "-d", "-o", str(FIRST_ID), "-g", str(FIRST_ID), f"{self.volumes}/{name}"])
        self.users = subprocess.Popen(["unshare", "--user", "sleep", "infinity"])
        own = os.readlink("/proc/self/ns/user")
        machine.wait_for(lambda: os.readlink(f"/proc/{self.users.pid}/ns/user") != own, "the user namespace")
        for kind in ("uid", "gid"):
            Path(f"/proc/{self.users.pid}/{kind}_map").write_text(f"0 {FIRST_ID} {IDS}\n")
        self.process: subprocess.Popen[bytes] | None = None
        self.log = Path(f"{machine.base}.log")

    def outside(self, words: list[str]) -> None:
        """Run a command where the root and the volumes are directories."""
        subprocess.run(["nsenter", f"--target={self.machine.init}", "--mount", *words], check=True, env=ENVIRON)

    def start(self) -> None:
        """Run it until it says that it is at work."""
        words = [
            "nsenter",
            f"--target={self.machine.init}",
            "--mount",
            "nsenter",
            f"--target={self.users.pid}",
            "--user",
        ]
        words += ["unshare", "--mount", "--net", "--pid", "--ipc", "--uts", "--fork", "--kill-child", "sh", "-c", ENTER]
        environ = {**ENVIRON, "ROOT": self.root, "VOLUMES": self.volumes}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(words, env=environ, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        self.machine.wait_for(self.started, "the container")

    def started(self) -> bool:
        """Whether the log says so; fails when it has ended instead."""
        assert self.process is not None and self.process.poll() is None, self.log.read_text()
        return "container: started\n" in self.log.read_text()

    @property
    def init(self) -> int:
        """The pid of its init, as seen from here."""
        assert self.process is not None
        return int(Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()[0])

    def words(self, words: list[str]) -> list[str]:
        """A command that runs ``words`` inside, as its root."""
        enter = ["--user", "--mount", "--net", "--pid", "--root", "--wd"]
        return ["nsenter", f"--target={self.init}", *enter, *words]

    def run(self, script: str) -> subprocess.CompletedProcess[str]:
        """Run a shell script inside."""
        return subprocess.run(self.words(["sh", "-c", script]), env=ENVIRON, capture_output=True, text=True, timeout=60)

    def end(self, number: int = signal.SIGTERM) -> int:
        """Signal its init, as an engine does; the exit code of the container."""
        assert self.process is not None
        os.kill(self.init, number)
        return self.process.wait(90)

    def delivered(self) -> Counter[str]:
        """The X-Number of each message that arrived, as often as it is there."""
        done = subprocess.run(
            ["nsenter", f"--target={self.machine.init}", "--mount", "sh", "-c",
             f"cat {self.volumes}/mail/alias/Maildir/new/* 2>/dev/null || :"], capture_output=True, check=True,
        )  # fmt: skip
        return Counter(found.decode() for found in re.findall(rb"^X-Number: (\S+)", done.stdout, re.M))

    def close(self) -> None:
        """End it and all that it was made of."""
        for process in (self.process, self.users):
            if process is not None:
                process.kill()
                process.wait()
        self.machine.close()
        self.log.unlink(missing_ok=True)


@pytest.fixture(scope="module")
def container(package: Path) -> Iterator[Container]:  # noqa: F811
    """One that is not running; its volumes are as the test before has left them."""
    made = Container(package)
    try:
        yield made
    finally:
        made.close()


def test_it_works_read_only_as_nobody_outside_and_ends_without_loss(container: Container) -> None:
    container.start()
    container.machine.wait_for(lambda: container.run("/usr/local/sbin/health").returncode == 0, "health")
    outside = Path(f"/proc/{container.init}/status").read_text()
    assert f"Uid:\t{FIRST_ID}\t" in outside and Path(f"/proc/{container.init}/comm").read_text() == "tini\n"
    for place in ("/etc", "/usr", "/var/qmail", "/var/qmail/bin"):
        assert "Read-only file system" in container.run(f"touch {place}/x").stderr
    load = subprocess.Popen(container.words(["python3", "-c", LOAD]), stdout=subprocess.PIPE, text=True, env=ENVIRON)
    assert load.stdout is not None
    accepted = {load.stdout.readline().strip() for _ in range(30)}
    assert container.end() == 0
    accepted |= set(load.stdout.read().split())
    load.wait(60)
    log = container.log.read_text()
    assert "container: stopped\n" in log and "tcpserver: " in log and "new msg " in log  # a session may end after that
    container.start()  # the volumes are what there is of it
    container.machine.wait_for(lambda: accepted <= set(container.delivered()), "every message that was accepted")
    found = container.delivered()
    assert set(found.values()) == {1} and len(set(found) - accepted) <= 1  # one may have lost its answer
    assert container.end() == 0


def test_what_is_to_hand_its_queue_over_takes_no_more_in_and_works_on(container: Container) -> None:
    container.start()
    container.machine.wait_for(lambda: container.run("/usr/local/sbin/health").returncode == 0, "health")
    for _ in range(2):  # the second changes nothing
        assert container.run("kill -USR1 1").returncode == 0
        container.machine.wait_for(
            lambda: container.run("/usr/local/sbin/health qmail-smtpd").returncode == 1, "no SMTP"
        )
    assert container.run("/usr/local/sbin/health room qmail-queued qmail-send").returncode == 0
    assert container.run("cd /var/qmail/run; stat -c '%U %a' send incoming").stdout == "qmails 700\nqmaild 700\n"
    before = container.delivered()
    container.run("printf 'X-Number: last\\n\\n' | /var/qmail/bin/qmail-inject postmaster@mx.example.test")
    container.machine.wait_for(lambda: "last" in container.delivered() - before, "a delivery")
    assert container.run("/var/qmail/bin/qmail-q xfer").stderr == "qmail-q: control/xferpeers has no other node\n"
    assert container.end() == 0 and "container: takes no more mail in\n" in container.log.read_text()


def test_when_a_service_ends_the_container_does_and_says_so(container: Container) -> None:
    container.start()
    container.run(
        "kill -9 $(for p in /proc/[0-9]*; do read -r n <$p/comm; [ $n = qmail-queued ] && echo ${p#/proc/}; done)"
    )
    assert container.process is not None and container.process.wait(90) == 111
    assert "container: a service has ended by itself\n" in container.log.read_text()
