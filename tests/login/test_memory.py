"""Who is remembered as right: for how long, by which files, and what a yes is never remembered of."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pyqmail.login import memory
from pyqmail.login.memory import Memory
from pyqmail.protocol.sasl import Credentials

ANN = Credentials(b"plain", b"ann@v.example", b"right horse")
JOE = Credentials(b"login", b"joe", b"a battery")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("control", "users"):
        (tmp_path / name).mkdir()
    for path, text in (("control/authd", ""), ("users/virtual.cdb", "x"), ("pop3", "y"), ("shadow", "joe:hash:1::\n")):
        old(tmp_path / path, text)
    monkeypatch.setattr(memory, "SHADOW", str(tmp_path / "shadow"))
    monkeypatch.setattr(memory, "deciding_files", lambda service: (f"{tmp_path}/{service}", f"{tmp_path}/shadow"))
    return tmp_path


def old(path: Path, text: str) -> None:
    """Such a file, from long ago as its times have it, but for the one that nobody can set."""
    path.write_text(text)
    os.utime(path, ns=(1_000_000_001, 1_000_000_001))


def settle(home: Path) -> None:
    """Wait until a further change of any file would be seen."""
    newest = max(path.stat().st_ctime for path in [*home.iterdir(), *(home / "users").iterdir()])
    while time.time() - newest < 0.15:
        time.sleep(0.01)


def after_yes(home: Path, credentials: Credentials = ANN, *, single_user: bool = False) -> Memory:
    """A memory that has been told that they are right."""
    settle(home)
    made = Memory(str(home), single_user=single_user)
    assert not made.knows(credentials)
    seen = made.look(credentials)
    if seen is not None:
        made.remember(credentials, seen)
    return made


@pytest.mark.parametrize("credentials", [ANN, JOE])
def test_the_same_is_right_again_and_nothing_else(home: Path, credentials: Credentials) -> None:
    known = after_yes(home, credentials)
    assert known.knows(credentials)
    assert known.knows(Credentials(b"other", credentials.user, credentials.secret))
    assert not known.knows(Credentials(b"plain", credentials.user, credentials.secret + b"x"))
    assert not known.knows(Credentials(b"plain", credentials.user[1:], credentials.secret))
    assert not known.knows(Credentials(b"cram-md5", credentials.user, credentials.secret, b"<1@host>"))


CHANGES: dict[str, Callable[[Path], object]] = {
    "virtual users": lambda home: old(home / "users/virtual.cdb", "xx"),
    "replaced": lambda home: (old(home / "users/new", "x"), (home / "users/new").rename(home / "users/virtual.cdb")),
    "gone": lambda home: (home / "users/virtual.cdb").unlink(),
    "who is asked": lambda home: old(home / "control/authd", "system"),
    "a database": lambda home: old(home / "control/accounts", "ldap"),
    "the time": lambda home: old(home / "control/authcachettl", "0"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_of_a_file_ends_it(home: Path, change: str) -> None:
    known = after_yes(home)
    assert known.knows(ANN)
    CHANGES[change](home)
    assert not known.knows(ANN)


@pytest.mark.parametrize("name", ["shadow", "pop3"])
def test_a_change_of_what_pam_reads_ends_it(home: Path, name: str) -> None:
    known = after_yes(home, JOE)
    old(home / name, "joe:other:1::\n")
    assert not known.knows(JOE)


def test_a_change_while_they_were_checked_counts(home: Path) -> None:
    settle(home)
    known = Memory(str(home), single_user=False)
    seen = known.look(ANN)
    assert seen is not None
    old(home / "users/virtual.cdb", "xx")
    known.remember(ANN, seen)
    assert not known.knows(ANN)


def test_what_has_only_just_changed_is_not_remembered(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old(home / "users/virtual.cdb", "xx")
    changed_ns = (home / "users/virtual.cdb").stat().st_ctime_ns
    monkeypatch.setattr(time, "time_ns", lambda: changed_ns + 1_000_000)
    assert Memory(str(home), single_user=False).look(ANN) is None


def test_it_ends_with_the_time(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old(home / "control/authcachettl", "5")
    known = after_yes(home)
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 4)
    assert known.knows(ANN)
    monkeypatch.setattr(time, "monotonic", lambda: now + 6)
    assert not known.knows(ANN)


def test_it_never_lasts_for_more_than_an_hour(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old(home / "control/authcachettl", "86400")
    known = after_yes(home)
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 3601)
    assert not known.knows(ANN)


@pytest.mark.parametrize(
    ("authd", "credentials"),
    [
        ("/bin/checker true", ANN),
        ("/bin/checker true\nsystem", JOE),
        ("dovecot:/run/auth", ANN),
        ("virtual\naccounts", ANN),
        ("virtua", ANN),
        ("", Credentials(b"cram-md5", b"ann@v.example", b"digest", b"<1@host>")),
    ],
)
def test_what_follows_from_more_than_files_is_not_remembered(home: Path, authd: str, credentials: Credentials) -> None:
    old(home / "control/authd", authd)
    assert not after_yes(home, credentials).knows(credentials)


def test_a_database_that_is_asked_is_not_remembered(home: Path) -> None:
    old(home / "control/accounts", "ldap")
    assert not after_yes(home).knows(ANN)


def test_nothing_is_remembered_where_the_time_is_none(home: Path) -> None:
    old(home / "control/authcachettl", "0")
    assert not after_yes(home).knows(ANN)


def test_nothing_is_remembered_where_a_file_cannot_be_read(home: Path) -> None:
    (home / "control/authcachettl").mkdir()
    assert not after_yes(home).knows(ANN)


def test_an_account_of_another_source_is_not_remembered(home: Path) -> None:
    jo = Credentials(b"plain", b"jo", JOE.secret)
    assert not after_yes(home, jo).knows(jo)


def test_a_single_user_has_no_accounts_here(home: Path) -> None:
    assert not after_yes(home, JOE, single_user=True).knows(JOE)
    assert after_yes(home, ANN, single_user=True).knows(ANN)


def test_the_oldest_of_too_many_goes(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "KNOWN_MAX", 2)
    known = after_yes(home)
    for name in (b"bob@v.example", b"eve@v.example"):
        credentials = Credentials(b"plain", name, b"pw")
        seen = known.look(credentials)
        assert seen is not None
        known.remember(credentials, seen)
        assert known.knows(credentials)
    assert not known.knows(ANN)
