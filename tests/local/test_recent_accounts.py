"""How long qmail-lspawn believes qmail-getpw."""

from pathlib import Path

import pytest

from pyqmail.local import recent_accounts
from pyqmail.local.recent_accounts import RECENT_MAX, RECENT_S, RecentAccounts

RECORD = b"joe\x001000\x00100\x00/home/joe\x00\x00\x00"


@pytest.fixture
def passwd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "passwd"
    path.write_text("joe:x:1000:100::/home/joe:/bin/sh\n")
    monkeypatch.setattr(recent_accounts, "ACCOUNTS_FILE", str(path))
    return path


@pytest.mark.usefixtures("passwd")
def test_an_answer_stands_for_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    recent = RecentAccounts()
    recent.put(b"joe", RECORD)
    now[0] += RECENT_S / 2
    assert recent.get(b"joe") == RECORD
    assert recent.get(b"ann") is None
    now[0] += RECENT_S / 2
    assert recent.get(b"joe") is None


def test_a_new_account_ends_every_answer_at_once(passwd: Path) -> None:
    recent = RecentAccounts()
    recent.put(b"ann", b"alias\x00...")
    passwd.write_text(passwd.read_text() + "ann:x:1001:100::/home/ann:/bin/sh\n")
    assert recent.get(b"ann") is None


@pytest.mark.usefixtures("passwd")
def test_it_remembers_no_more_than_its_limit() -> None:
    recent = RecentAccounts()
    for number in range(RECENT_MAX + 1):
        recent.put(b"%d" % number, RECORD)
    assert recent.get(b"0") is None and recent.get(b"%d" % RECENT_MAX) == RECORD
