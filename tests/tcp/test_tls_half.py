"""Whom the half of a connection becomes, who has looked it up, and how long it lasts."""

import contextlib
import os
import socket
from pathlib import Path

import pytest

from pyqmail.stream.stream import StreamEnded
from pyqmail.tcp import tls_half
from pyqmail.tcp.tls_half import Half, HalfUser, know_user
from tests.waiting import wait_for

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="a half of root's becomes somebody")
UIDS = ["alias", "qmaild", "qmaill", "root", "qmailp", "qmailq", "qmailr", "qmails"]


def tree(base: Path, daemon: int, nofiles: int) -> str:
    """A home whose qmaild and nofiles have these numbers."""
    (base / "control").mkdir(parents=True, exist_ok=True)
    (base / "control/conf-users").write_text("".join(f"{daemon if role == 'qmaild' else 0}\n" for role in UIDS))
    (base / "control/conf-groups").write_text(f"0\n{nofiles}\n")
    return str(base)


def identity(home: str) -> str:
    """Who a half of ``home`` is."""
    reader, writer = os.pipe()
    one, other = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        try:
            os.dup2(writer, 1)
            tls_half._become_half(home, one, other)
            os.write(1, repr((os.getresuid(), os.getresgid(), os.getgroups())).encode())
        finally:
            os._exit(0)
    for fd in (writer, one.detach(), other.detach()):
        os.close(fd)
    os.waitpid(pid, 0)
    with open(reader, "rb") as file:
        return file.read().decode()


class Copying:
    """A half that copies in clear, in a process of its own, between a client and a program."""

    def __init__(self, session_s: float = 3600.0) -> None:
        self.client, outside = socket.socketpair()
        outside.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        self.program, inside = socket.socketpair()
        self.control, asked = socket.socketpair()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                self.close()
                os.dup2(outside.fileno(), 0)
                os.dup2(outside.fileno(), 1)
                Half(inside, asked, lambda stream, ready: None, b"").run(implicit=False, session_s=session_s)
            except StreamEnded:
                pass
            finally:
                os._exit(0)
        for each in (outside, inside, asked):
            each.close()

    def close(self) -> None:
        """All ends that are ours."""
        for each in (self.client, self.program, self.control):
            each.close()

    def ended(self) -> bool:
        return os.waitpid(self.pid, os.WNOHANG)[0] == self.pid


def test_a_session_has_an_end_whatever_is_said() -> None:
    half = Copying(session_s=0.5)
    half.client.sendall(b"NOOP\r\n")
    assert half.program.recv(100) == b"NOOP\r\n"

    def ended() -> bool:
        with contextlib.suppress(OSError):
            half.client.send(b"NOOP\r\n", socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
            half.program.recv(100, socket.MSG_DONTWAIT)
        return half.ended()

    wait_for(ended, "the end of a session")
    half.close()


def test_who_says_nothing_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tls_half, "IDLE_S", 0.2)
    half = Copying()
    wait_for(half.ended, "the end of a silent session")
    half.close()


@pytest.mark.parametrize("size", [60_000, 200_000], ids=["what is read at once", "more than is read at once"])
def test_who_does_not_take_the_last_words_is_left(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr(tls_half, "LAST_S", 0.2)
    half = Copying()
    half.program.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * size)
    half.program.sendall(bytes(size))
    half.program.close()
    half.control.close()
    wait_for(half.ended, "the end of a session that nobody reads")
    half.close()


def who(uid: int, gid: int) -> str:
    return repr(((uid,) * 3, (gid,) * 3, [gid]))


def test_the_parent_has_looked_up_whom_a_half_becomes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HalfUser, "inherited", None)
    home = tree(tmp_path / "one", 40001, 40002)
    assert identity(home) == who(40001, 40002)
    know_user(home)
    tree(tmp_path / "one", 40003, 40004)
    assert identity(home) == who(40001, 40002)
    assert identity(tree(tmp_path / "other", 40005, 40006)) == who(40005, 40006)


def test_whom_cannot_be_known_is_said_by_each_half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HalfUser, "inherited", None)
    home = tree(tmp_path, 40001, 40002)
    (tmp_path / "control/conf-users").write_text("qmaild\n")
    know_user(home)
    assert HalfUser.inherited is None
    assert identity(home) == ""
