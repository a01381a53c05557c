"""A queue of the real shape in a temporary directory, and ways to run qmail-queue and qmail-queued on it."""

import os
import pwd
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from pyqmail.spool.draft import Draft
from pyqmail.spool.enqueue import Spool
from pyqmail.spool.layout import DRAFTS
from tests.waiting import wait_for

REPO = Path(__file__).resolve().parents[2]
PYTHON = [sys.executable, "-ISXutf8"]
DEADLINE_SECONDS = 20.0
ORDINARY_UID = 40321


class Tree:
    """A home below /tmp that ordinary users can reach, as root would install it or for a single user."""

    def __init__(self, *, single_user: bool) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="pyqmail-queue-"))
        self.home.chmod(0o755)
        self.queue = self.home / "queue"
        self.services: list[subprocess.Popen[bytes]] = []
        single = os.getuid() or ORDINARY_UID
        names = ["pid", "intd", "todo", "lock", "bounce", "pyqmail"]
        for part in ("mess", "info", "local", "remote", "pyqmail/facts"):
            names += [part] + [f"{part}/{n}" for n in range(23)]
        names += ["pyqmail/drafts"] + [f"pyqmail/drafts/{n}" for n in range(DRAFTS)]
        for folder in (self.queue, *(self.queue / name for name in names), self.home / "control", self.home / "run"):
            folder.mkdir(mode=0o755)
        os.mkfifo(self.queue / "lock/trigger", 0o622)
        self.owner, group = single, single
        if single_user:
            (self.home / "control/conf-users").write_text(f"{single}\n" * 8)
            (self.home / "control/conf-groups").write_text(f"{single}\n" * 2)
        else:
            self.owner, group = pwd.getpwnam("qmailq").pw_uid, pwd.getpwnam("qmailq").pw_gid
        if os.getuid() == 0:
            for path in (self.queue, *self.queue.rglob("*"), self.home / "run"):
                os.chown(path, self.owner, group)
            self.queue.chmod(0o750)

    def environ(self, **more: str) -> dict[str, str]:
        """The environment of a program of this tree."""
        return {"QMAIL_HOME": str(self.home), "PATH": "/usr/bin:/bin", **more}

    def start_service(self) -> subprocess.Popen[bytes]:
        """A running qmail-queued that accepts."""
        service = subprocess.Popen(
            [*PYTHON, str(REPO / "bin/qmail-queued")], env=self.environ(), stderr=subprocess.PIPE
        )
        self.services.append(service)
        wait_for(self.accepts, "the service")
        return service

    def accepts(self) -> bool:
        """Whether the service socket takes connections."""
        try:
            self.connect().close()
        except OSError:
            return False
        return True

    def connect(self) -> socket.socket:
        """A connection to the service. Raises OSError."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sock.settimeout(DEADLINE_SECONDS)
        try:
            sock.connect(str(self.home / "run/qmail-queued.sock"))
        except OSError:
            sock.close()
            raise
        return sock

    def todo(self) -> list[int]:
        """The numbers in todo/."""
        return sorted(int(name) for name in os.listdir(self.queue / "todo"))

    def messages(self) -> list[Path]:
        """The message files."""
        return sorted(self.queue.glob("mess/*/*"))

    def leftovers(self) -> list[str]:
        """What lies in pid/ and intd/."""
        return os.listdir(self.queue / "pid") + os.listdir(self.queue / "intd")

    def read(self, number: int) -> tuple[bytes, bytes]:
        """Message and envelope of ``number``."""
        message = (self.queue / f"mess/{number % 23}/{number}").read_bytes()
        return message, (self.queue / f"todo/{number}").read_bytes()

    def close(self) -> None:
        """End the services and remove the tree."""
        for service in self.services:
            service.terminate()
            service.communicate(timeout=DEADLINE_SECONDS)
        shutil.rmtree(self.home)


def commit(spool: Spool, drafts: list[Draft]) -> None:
    """Put ``drafts`` into the queue and close their files, as a worker does once their clients have their answer."""
    spool.commit(drafts)
    for draft in drafts:
        spool.close(draft)


def act_as(uid: int) -> Callable[[], None]:
    """What a child does to become ``uid`` (when the tests run as root)."""

    def change() -> None:
        if os.getuid() == 0 and uid:
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)

    return change


def qmail_queue(tree: Tree, message: bytes, envelope: bytes, *, uid: int = ORDINARY_UID) -> tuple[int, int]:
    """Run bin/qmail-queue as ``uid``; its exit code and pid."""
    child, message_pipe, envelope_pipe = start_qmail_queue(tree, uid=uid)
    for fd, data in ((message_pipe, message), (envelope_pipe, envelope)):
        try:
            os.write(fd, data)
        except BrokenPipeError:
            pass
        os.close(fd)
    return child.wait(DEADLINE_SECONDS), child.pid


def start_qmail_queue(tree: Tree, *, uid: int = ORDINARY_UID) -> tuple["subprocess.Popen[bytes]", int, int]:
    """bin/qmail-queue running as ``uid``, with the write ends for message and envelope."""
    message, message_pipe = os.pipe()
    envelope, envelope_pipe = os.pipe()
    child = run_with(tree, message, envelope, uid=uid)
    os.close(message)
    os.close(envelope)
    return child, message_pipe, envelope_pipe


def run_with(tree: Tree, message: int, envelope: int, *, uid: int = ORDINARY_UID) -> "subprocess.Popen[bytes]":
    """bin/qmail-queue as ``uid`` on these descriptors."""
    return subprocess.Popen(
        [*PYTHON, str(REPO / "bin/qmail-queue")],
        stdin=message,
        stdout=envelope,
        env=tree.environ(),
        preexec_fn=act_as(uid),
    )
