"""What qmail-rcptd remembers of accounts from one question to the next: never what would refuse."""

import os
from pathlib import Path

import pytest

from pyqmail.local import existence, passwd, recent_accounts
from pyqmail.local.existence import Lookup
from pyqmail.policy.accounts import Accounts
from pyqmail.policy.classify import Routing

ROUTING = Routing(b"here.test", frozenset((b"here.test",)), frozenset(), {})


class Found:
    """The password file, which has joe; ``asked`` are the names that were looked for."""

    def __init__(self, home: Path) -> None:
        self.home = os.fsencode(home)
        self.asked: list[bytes] = []
        self.names = {b"joe"}

    def find(self, name: bytes) -> passwd.Account | None:
        """As passwd.find_account."""
        self.asked.append(name)
        return passwd.Account(name, os.getuid(), os.getgid(), self.home) if name in self.names else None


@pytest.fixture
def found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Found:
    made = Found(tmp_path)
    (tmp_path / "passwd").write_text("joe\n")
    monkeypatch.setattr(recent_accounts, "ACCOUNTS_FILE", str(tmp_path / "passwd"))
    monkeypatch.setattr(passwd, "find_account", made.find)
    monkeypatch.setattr(passwd, "is_mail_user", lambda account: True)
    monkeypatch.setattr(existence, "are_ours", lambda home: True)
    return made


@pytest.fixture
def lookup(tmp_path: Path, found: Found, monkeypatch: pytest.MonkeyPatch) -> Lookup:
    for name in ("control", "users", "bin"):
        (tmp_path / name).mkdir()
    return Lookup(str(tmp_path), Accounts(list(range(1, 9)), [1, 2], b"alias"), ROUTING)


def test_a_user_is_looked_up_once_a_second_and_after_each_change_of_the_file(
    tmp_path: Path, found: Found, lookup: Lookup, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(3):
        assert not lookup.nobody(b"joe@here.test")
    assert found.asked == [b"joe"]
    (tmp_path / "passwd").write_text("joe and more\n")
    assert not lookup.nobody(b"joe@here.test")
    assert found.asked == [b"joe"] * 2
    monkeypatch.setattr(recent_accounts, "RECENT_S", 0.0)
    assert not lookup.nobody(b"joe@here.test")
    assert found.asked == [b"joe"] * 3


def test_what_is_no_account_or_only_begins_like_one_is_looked_up_each_time(found: Found, lookup: Lookup) -> None:
    for _ in range(2):
        lookup.nobody(b"joe-list@here.test")
        lookup.nobody(b"ann@here.test")
    assert found.asked == [b"joe-list", b"joe", b"ann", b"alias"] * 2
    found.names.add(b"joe-list")  # by a directory server: no file has changed
    assert not lookup.nobody(b"joe-list@here.test")
    assert found.asked[-1] == b"joe-list"
