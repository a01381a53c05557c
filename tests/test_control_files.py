"""Each control file as the program that reads it takes it: its value, its default, and what stands in for it."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from pyqmail.control import Control, ControlUnreadable
from pyqmail.formats.cdb import write_cdb
from pyqmail.incoming.check import Rules
from pyqmail.incoming.checks import Checks
from pyqmail.incoming.client import Client
from pyqmail.incoming.letter import Letter
from pyqmail.incoming.lists import BadSender
from pyqmail.incoming.smtp_settings import Settings
from pyqmail.policy.relaying import Relaying
from pyqmail.remote.controls import read_controls as read_remote
from pyqmail.send.controls import read_controls as read_send

ROOT = Path(__file__).resolve().parents[1]
Read = Callable[[str], object]
ME = b"mx.example.test"
STRANGER = Client(b"192.0.2.7", b"unknown", None)


def accepts(recipient: bytes) -> Read:
    """Whether qmail-smtpd takes a recipient."""

    def read(home: str) -> object:
        relaying = Relaying(Control(home))
        try:
            return relaying.accepts(recipient)
        finally:
            relaying.close()

    return read


def bad_sender(sender: bytes) -> Read:
    """Whether qmail-smtpd refuses a sender."""
    return lambda home: Checks((BadSender,), Rules(home, {})).sender(STRANGER, Letter(0, sender)) is not None


def smtpd(what: str) -> Read:
    """A setting of an SMTP session."""

    def read(home: str) -> object:
        settings = Settings(home, {})
        try:
            return settings.rules.size_limit if what == "databytes" else getattr(settings, what)
        finally:
            settings.close()

    return read


def injected(home: str) -> bytes:
    """What qmail-inject makes of a message to a short and a plus name."""
    environ = {"QMAIL_HOME": home, "QMAILUSER": "ann", "PATH": "/usr/bin:/bin"}
    text = b"To: joe, a@short, b@plus+\n\nx\n"
    words = [ROOT / "bin" / "qmail-inject", "-n"]
    return subprocess.run(words, input=text, capture_output=True, env=environ, check=True, timeout=60).stdout


def header(part: bytes) -> Read:
    """Whether an injected message holds ``part``."""
    return lambda home: part in injected(home)


def qmqpc(home: str) -> int:
    """How qmail-qmqpc ends."""
    words = [ROOT / "bin" / "qmail-qmqpc"]
    environ = {"QMAIL_HOME": home, "PATH": "/usr/bin:/bin"}
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environ) as process:
        process.communicate(b"", timeout=60)
        return process.returncode


# row, file, what is read, its value without the file, the file, its value with it
ROWS: list[tuple[int, str, Read, object, bytes, object]] = [
    (1, "me", lambda home: Control(home).me(), ME, b"other.test \nx\n", b"other.test"),
    (2, "badmailfrom", bad_sender(b"A@b.test"), False, b"#c\n@B.test\n", True),
    (3, "bouncefrom", lambda home: read_send(home).bounce_from, b"MAILER-DAEMON", b"boss\n", b"boss"),
    (4, "bouncehost", lambda home: read_send(home).bounce_host, ME, b"b.test\n", b"b.test"),
    (5, "concurrencylocal", lambda home: read_send(home).concurrency["local"], 10, b"7x\n", 7),
    (6, "concurrencyremote", lambda home: read_send(home).concurrency["remote"], 20, b"none\n", 20),
    (7, "databytes", smtpd("databytes"), 0, b"1000\n", 1000),
    (8, "defaultdomain", header(b"a@short." + ME), True, b"d.test\n", False),
    (8, "defaultdomain", header(b"a@short.d.test"), False, b"d.test\n", True),
    (9, "defaulthost", header(b"joe@" + ME), True, b"h.test\n", False),
    (9, "defaulthost", header(b"joe@h.test"), False, b"h.test\n", True),
    (10, "doublebouncehost", lambda home: read_send(home).double_bounce_to, b"postmaster@" + ME, b"d.test\n",
     b"postmaster@d.test"),
    (11, "doublebounceto", lambda home: read_send(home).double_bounce_to, b"postmaster@" + ME, b"boss\n",
     b"boss@" + ME),
    (12, "envnoathost", lambda home: read_send(home).routing.default_host, ME, b"e.test\n", b"e.test"),
    (13, "helohost", lambda home: read_remote(home).helohost, ME, b"helo.test\n", b"helo.test"),
    (14, "idhost", header(b".qmail@" + ME + b">\n"), True, b"id.test\n", False),
    (14, "idhost", header(b".qmail@id.test>\n"), False, b"id.test\n", True),
    (15, "localiphost", smtpd("local_ip_host"), ME, b"l.test\n", b"l.test"),
    (16, "locals", lambda home: read_send(home).routing.locals, {ME}, b"A.test\n\nb.test", {b"a.test", b"b.test"}),
    (19, "percenthack", lambda home: read_send(home).routing.percent_hack, set(), b"P.test\n", {b"p.test"}),
    (20, "plusdomain", header(b"b@plus." + ME), True, b"p.test\n", False),
    (20, "plusdomain", header(b"b@plus.p.test"), False, b"p.test\n", True),
    (21, "qmqpservers", qmqpc, 55, b"127.0.0.255\n", 54),  # with a server it goes on, to the missing envelope
    (22, "queuelifetime", lambda home: read_send(home).lifetime_s, 604800, b"60\n", 60),
    (23, "rcpthosts", accepts(b"a@x.test"), False, b".test\n", True),
    (24, "smtpgreeting", smtpd("greeting"), ME, b"", b""),
    (25, "smtproutes", lambda home: dict(read_remote(home).directions.routes), {}, b"A:b:1\nx\na:c\n", {b"a": b"c"}),
    (26, "timeoutconnect", lambda home: read_remote(home).timeout_connect_s, 60.0, b"5\n", 5.0),
    (27, "timeoutremote", lambda home: read_remote(home).timeout_remote_s, 1200.0, b" 5\n", 1200.0),
    (28, "timeoutsmtpd", smtpd("timeout_s"), 1200, b"0\n", 1),
    (29, "virtualdomains", lambda home: dict(read_send(home).routing.virtual), {}, b"a.test:x\nA.test:y:z\n",
     {b"a.test": b"y:z"}),
]  # fmt: skip
MORE = {1: ("1.1",), 4: ("1.2",), 5: ("1.3",), 6: ("7.4",), 16: ("1.5",), 24: ("7.1",), 25: ("7.5",), 29: ("1.6",)}
CASES = [
    pytest.param(*row[1:], id=f"{row[0]}-{row[1]}", marks=pytest.mark.contract(
        f"control 2.{row[0]}", *(f"control {more}" for more in MORE.get(row[0], ()))))
    for row in ROWS
]  # fmt: skip


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home that has control/me and nothing else."""
    (tmp_path / "control").mkdir()
    (tmp_path / "control" / "me").write_bytes(ME + b"\n")
    return tmp_path


@pytest.mark.parametrize(("name", "read", "default", "data", "value"), CASES)
def test_a_control_file_and_its_default(
    home: Path, name: str, read: Read, default: object, data: bytes, value: object
) -> None:
    assert read(str(home)) == default
    (home / "control" / name).write_bytes(data)
    assert read(str(home)) == value


@pytest.mark.contract("control 1.7", "control 2.17")
def test_morercpthosts_cdb_counts_beside_rcpthosts_only_and_a_damaged_one_is_an_error(home: Path) -> None:
    database = home / "control" / "morercpthosts.cdb"
    assert not accepts(b"a@more.test")(str(home))
    write_cdb(str(database), [(b"more.test", b"")])
    assert not accepts(b"a@more.test")(str(home))  # without rcpthosts it is ignored
    (home / "control" / "rcpthosts").write_bytes(b"x.test\n")
    assert accepts(b"A@More.test")(str(home))
    database.write_bytes(b"short")
    with pytest.raises(ControlUnreadable):
        accepts(b"a@more.test")(str(home))


@pytest.mark.contract("control 1.4", "control 7.2", "control 7.3", "control 7.7", "control 7.8")
def test_what_looks_like_something_else_in_a_list(home: Path) -> None:
    (home / "control" / "rcpthosts").write_bytes(b"cr.test\r\nnote.test # ours\nok.test \t\none.test\0two.test\n")
    taken = [name for name in (b"cr", b"note", b"ok", b"one", b"two") if accepts(b"a@" + name + b".test")(str(home))]
    assert taken == [b"ok", b"one", b"two"]
    (home / "control" / "rcpthosts").write_bytes(b"")
    assert not accepts(b"a@" + ME)(str(home))
    (home / "control" / "locals").write_bytes(b"# nothing\n")
    assert read_send(str(home)).routing.locals == frozenset()


@pytest.mark.contract("control 7.11")
def test_the_callers_directory_does_not_matter(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere" / "control").mkdir(parents=True)
    (tmp_path / "elsewhere" / "control" / "idhost").write_text("wrong.test\n")
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert b"wrong.test" not in injected(str(home))


@pytest.mark.contract("control 7.12")
def test_without_me_injection_has_literal_defaults_and_smtp_does_not_work(home: Path) -> None:
    (home / "control" / "me").unlink()
    text = injected(str(home))
    assert b"joe@defaulthost" in text and b"@idhost>" in text
    for read in (smtpd("greeting"), lambda home: read_remote(home).helohost, lambda home: read_send(home).routing):
        with pytest.raises(ControlUnreadable):
            read(str(home))


@pytest.mark.parametrize("name", ["rcpthosts", "locals", "badmailfrom"])
def test_a_directory_in_the_place_of_a_file_is_no_missing_file(home: Path, name: str) -> None:
    (home / "control" / name).mkdir()
    with pytest.raises(ControlUnreadable):
        accepts(b"a@x.test")(str(home))
        bad_sender(b"a@x.test")(str(home))


def test_the_smtp_log_names_the_file_that_the_client_is_not_told_of(home: Path) -> None:
    (home / "control" / "rcpthosts").mkdir()
    words = [ROOT / "bin" / "qmail-smtpd"]
    environ = {"QMAIL_HOME": str(home), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(words, input=b"QUIT\r\n", capture_output=True, env=environ, timeout=60)
    assert done.stdout == b"421 unable to read controls (#4.3.0)\r\n"
    assert done.stderr == b"qmail-smtpd: unable to read controls: control/rcpthosts: Is a directory\n"
