"""qmail-getpw (contract: users section 6), with a password file of its own."""

import ctypes
import errno
import os
import pwd
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from pyqmail.exits import SpawnExit
from pyqmail.local import passwd as password_file
from pyqmail.local.passwd import Account, find_account, find_alias, find_user
from pyqmail.programs import qmail_getpw

Found = tuple[bytes, bytes, bytes] | None


@pytest.fixture
def passwd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes], Found]:
    """joe, joe-x and others; a look-up gives user, dash and ext."""
    home, uid = os.fsencode(tmp_path), os.getuid() or 4711
    os.chown(tmp_path, uid if os.getuid() == 0 else -1, -1)
    accounts = {
        name: Account(name, uid, 100, home) for name in (b"joe", b"joe-x", b"UPPER", b"alias", b"a" * 31, b"b" * 32)
    }
    accounts[b"root"] = Account(b"root", 0, 0, b"/")
    accounts[b"other"] = Account(b"other", uid + 1, 100, home)
    accounts[b"gone"] = Account(b"gone", uid, 100, home + b"/gone")
    monkeypatch.setattr(password_file, "find_account", accounts.get)

    def find(local: bytes, break_char: bytes = b"-") -> Found:
        record = find_user(local, break_char)
        if record is None:
            return None
        assert record.endswith(b"\0")
        user, _, _, _, dash, ext, _ = record.split(b"\0")
        return user, dash, ext

    return find


@pytest.mark.parametrize(
    ("local", "found"),
    [
        (b"joe", (b"joe", b"", b"")),
        (b"JOE", (b"joe", b"", b"")),
        (b"joe-Foo-BAR", (b"joe", b"-", b"Foo-BAR")),
        (b"joe-x-y", (b"joe-x", b"-", b"y")),
        (b"joe-x", (b"joe-x", b"", b"")),
        (b"joe-", (b"joe", b"-", b"")),
        (b"-x", None),
        (b"", None),
        (b"root", None),
        (b"root-x", None),
        (b"nosuch", None),
        (b"joe+x", None),
        (b"UPPER", None),
        (b"other", None),
        (b"gone-x", None),
        (b"a" * 31 + b"-z", (b"a" * 31, b"-", b"z")),
        (b"b" * 32, None),
    ],
)
@pytest.mark.contract(
    *[f"users 6.{row}" for row in (1, 2, 3, 4, 5)], *[f"users 6.{row}" for row in range(12, 20)], "users 8.8"
)
def test_account_of_a_local_part(passwd: Callable[[bytes], Found], local: bytes, found: Found) -> None:
    assert passwd(local) == found


@pytest.mark.contract("users 8.11", "users 7.1")
def test_dash_is_a_hyphen_whatever_the_break_byte(passwd: Callable[..., Found]) -> None:
    assert passwd(b"joe+x-y", b"+") == (b"joe", b"-", b"x-y")
    assert passwd(b"joe-y", b"+") is None


@pytest.mark.contract("users 6.6")
def test_alias_takes_the_whole_local_part(passwd: Callable[..., Found]) -> None:
    assert find_alias(b"alias", b"No-Such").split(b"\0")[-3:] == [b"-", b"No-Such", b""]


@pytest.mark.contract("users 6.4", "users 6.9", "users 6.10")
def test_a_home_out_of_reach_is_115_and_a_missing_alias_116(
    passwd: Callable[..., Found], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(password_file.LookupTrouble) as missing:
        find_alias(b"nobody-here", b"x")
    assert missing.value.code == SpawnExit.NO_ALIAS

    def stale(path: bytes) -> os.stat_result:
        raise OSError(errno.ESTALE, "stale")

    monkeypatch.setattr(os, "stat", stale)
    with pytest.raises(password_file.LookupTrouble) as out_of_reach:
        find_user(b"joe", b"-")
    assert out_of_reach.value.code == SpawnExit.NO_HOME


@pytest.mark.contract("users 8.10")
def test_the_name_and_ids_are_those_of_the_password_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uid = os.getuid() or 4711
    os.chown(tmp_path, uid if os.getuid() == 0 else -1, -1)
    entry = Account(b"JoE", uid, 4712, os.fsencode(tmp_path))
    monkeypatch.setattr(password_file, "find_account", {b"joe": entry}.get)
    assert find_user(b"jOe-X", b"-") == b"JoE\x00%d\x004712\x00%b\x00-\x00X\x00" % (uid, os.fsencode(tmp_path))


@pytest.mark.skipif(os.getuid() != 0, reason="becomes qmailp")
@pytest.mark.contract("users 8.9")
def test_a_home_that_qmailp_cannot_reach_is_nobody_s(monkeypatch: pytest.MonkeyPatch) -> None:
    base = Path(tempfile.mkdtemp(prefix="getpw-"))
    home = base / "closed" / "joe"
    home.mkdir(parents=True)
    base.chmod(0o755)
    os.chown(home, 4711, -1)
    monkeypatch.setattr(password_file, "find_account", {b"joe": Account(b"joe", 4711, 1, os.fsencode(home))}.get)
    found = []
    for mode in (0o755, 0o700):
        (base / "closed").chmod(mode)
        pid = os.fork()
        if pid == 0:
            code = 2
            try:
                os.setresuid(*[pwd.getpwnam("qmailp").pw_uid] * 3)
                code = int(find_user(b"joe", b"-") is None)
            finally:
                os._exit(code)
        found.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    shutil.rmtree(base)
    assert found == [0, 1]


@pytest.mark.contract("users 6.8")
def test_no_argument_is_100() -> None:
    assert qmail_getpw.main([b"qmail-getpw"], {}) == 100


@pytest.mark.contract("users 6.11")
def test_a_look_up_that_fails_for_now_is_118(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "get_errno", lambda: errno.ETXTBSY)
    with pytest.raises(password_file.LookupTrouble) as trouble:
        find_account(b"no-such-account")
    assert trouble.value.code == SpawnExit.SYSTEM


def test_the_real_password_file_is_read() -> None:
    root = find_account(b"root")
    assert root is not None
    assert (root.name, root.uid, root.homedir) == (b"root", 0, os.fsencode(os.path.expanduser("~root")))
    assert find_account(b"no-such-account") is None
