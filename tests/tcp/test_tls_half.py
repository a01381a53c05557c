"""Whom the half of a connection becomes, and who has looked it up."""

import os
import socket
from pathlib import Path

import pytest

from pyqmail.tcp import tls_half
from pyqmail.tcp.tls_half import HalfUser, know_user

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
