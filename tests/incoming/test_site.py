"""What control files say to all clients is made once, and again as soon as one of them is another."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyqmail.control import Control, ControlUnreadable
from pyqmail.incoming import smtp_settings
from pyqmail.incoming.check import Rules
from pyqmail.incoming.client import Client
from pyqmail.incoming.site import site_of
from pyqmail.incoming.smtp_settings import Settings
from pyqmail.stream.stream import Secured
from pyqmail.system.file_cache import FileCache
from pyqmail.system.stamp import COARSE_NS
from tests.waiting import wait_for


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a process that serves many."""
    monkeypatch.setattr(Control, "cache", FileCache())


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "control").mkdir()
    (tmp_path / "control/me").write_text("mx.test\n")
    (tmp_path / "control/rcpthosts").write_text("a.test\n")
    now = time.time_ns()
    monkeypatch.setattr("time.time_ns", lambda: now + 2 * COARSE_NS)  # nothing has only just changed
    yield tmp_path


def values(home: Path) -> tuple[object, ...]:
    """All that a session is told."""
    rules = Rules(str(home), {})
    site = rules.site
    try:
        accepted = tuple(name for name in (b"a", b"b", b"c") if rules.relaying.accepts(b"x@" + name + b".test"))
        texts = (site.greeting, site.local_ip_host, site.log_form)
        names = (accepted, site.id_host, site.account_names)
        return *texts, site.timeout_s, rules.size_limit, site.chunking, site.logs_decisions, *names
    finally:
        rules.close()


HERE = frozenset((b"mx.test",))
USUAL = (b"mx.test", b"mx.test", None, 1200, 0, False, True, (b"a",), b"mx.test", (b"-", HERE))


def test_a_second_session_has_what_the_first_has_made(home: Path) -> None:
    site = site_of(str(home))
    assert values(home) == USUAL
    assert site_of(str(home)) is site


@pytest.mark.parametrize(
    ("name", "text", "at", "value"),
    [
        pytest.param("me", "mx2.test\n", 0, b"mx2.test", id="me, for the greeting"),
        pytest.param("me", "mx2.test\n", 1, b"mx2.test", id="me, for our addresses"),
        pytest.param("smtpgreeting", "hello\n", 0, b"hello", id="smtpgreeting"),
        pytest.param("localiphost", "l.test\n", 1, b"l.test", id="localiphost"),
        pytest.param("logformat", "json\n", 2, b"json", id="logformat"),
        pytest.param("timeoutsmtpd", "7\n", 3, 7, id="timeoutsmtpd"),
        pytest.param("databytes", "1000\n", 4, 1000, id="databytes"),
        pytest.param("chunking", "1\n", 5, True, id="chunking"),
        pytest.param("logdecisions", "0\n", 6, False, id="logdecisions"),
        pytest.param("rcpthosts", "a.test\nb.test\n", 7, (b"a", b"b"), id="rcpthosts"),
        pytest.param("idhost", "id.test\n", 8, b"id.test", id="idhost"),
        pytest.param("locals", "Here.test\n", 9, (b"-", HERE | {b"here.test"}), id="locals"),
        pytest.param("conf-break", "+-\n", 9, (b"+", HERE), id="conf-break"),
    ],
)
def test_a_file_that_comes_changes_in_place_and_goes(home: Path, name: str, text: str, at: int, value: object) -> None:
    path = home / "control" / name
    before = path.read_bytes() if path.exists() else None
    assert values(home) == USUAL
    path.write_text(text)
    assert values(home)[at] == value
    tick = path.stat().st_mtime_ns
    of_same_size = b"#" * len(text)  # in the same file; older kernels have one time stamp for all that is in one tick
    wait_for(lambda: path.write_bytes(of_same_size) and path.stat().st_mtime_ns != tick, "another time stamp")
    assert values(home)[at] != value
    if before is None:
        path.unlink()
    else:
        path.write_bytes(before)
    assert values(home) == USUAL


def test_a_link_to_a_file_that_comes_later(home: Path, tmp_path: Path) -> None:
    (home / "control/databytes").symlink_to(tmp_path / "elsewhere")
    assert values(home) == USUAL
    (tmp_path / "elsewhere").write_text("77\n")
    assert values(home)[4] == 77


def test_what_has_only_just_changed_is_not_kept(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.time_ns", lambda: os.stat(home / "control/me").st_mtime_ns + 1)
    assert site_of(str(home)) is not site_of(str(home))
    first = values(home)
    stamp = os.stat(home / "control/me")
    (home / "control/me").write_text("my.test\n")
    os.utime(home / "control/me", ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert first == USUAL and values(home)[0] == b"my.test"


def test_what_cannot_be_read_is_looked_at_again(home: Path) -> None:
    (home / "control/smtpgreeting").mkdir()
    for _ in range(2):
        with pytest.raises(ControlUnreadable, match="control/smtpgreeting: Is a directory"):
            Settings(str(home), {})
    (home / "control/smtpgreeting").rmdir()
    assert Settings(str(home), {}).greeting == b"mx.test"


def test_a_certificate_is_offered_as_soon_as_it_is_there(home: Path) -> None:
    assert not Settings(str(home), {}).security.offered
    (home / "control/servercert.pem").touch()
    assert Settings(str(home), {}).security.offered
    assert not Settings(str(home), {b"DISABLETLS": b"1"}).security.offered


def test_a_certificate_behind_a_link_is_looked_for_by_each_session(home: Path, tmp_path: Path) -> None:
    target = tmp_path / "elsewhere.pem"
    (home / "control/servercert.pem").symlink_to(target)
    assert not Settings(str(home), {}).security.offered
    site = site_of(str(home))
    target.touch()
    assert Settings(str(home), {}).security.offered
    target.unlink()
    assert not Settings(str(home), {}).security.offered
    assert site_of(str(home)) is site


@pytest.mark.parametrize("name", ["chunking", "databytes"])
def test_what_a_session_is_offered_is_known_before_its_greeting(home: Path, name: str) -> None:
    (home / "control" / name).mkdir()
    with pytest.raises(ControlUnreadable, match=f"control/{name}: Is a directory"):
        Settings(str(home), {})


def test_a_session_asks_once_for_ehlo_whether_wishes_are_kept_and_again_for_each(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = [True, False, False]
    monkeypatch.setattr(smtp_settings, "own_program", lambda _home, *, warm: answers.pop(0))
    settings = Settings(str(home), {})
    client = Client.from_environ({b"RELAYCLIENT": b""})
    assert settings.extensions(client) == settings.extensions(client.greeted(b"x")) == (True, False, False)
    assert answers == [False, False]
    assert not settings.offers_dsn(client)
    assert settings.extensions(Client.from_environ({})) == (False, False, False)


@pytest.mark.parametrize("name", ["dsnpublic", "smtputf8", "requiretls"])
def test_each_file_that_offers_an_extension_is_heeded(home: Path, name: str) -> None:
    (home / "control" / name).write_text("1\n")
    secured = Secured("TLSv1.3", "x", 256)
    found = Settings(str(home), {}).extensions(Client.from_environ({}).secured_by(secured, {}))
    assert found == tuple(name == other for other in ("dsnpublic", "smtputf8", "requiretls"))
