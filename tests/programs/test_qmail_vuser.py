"""qmail-vuser as a process: the files it changes, and what it refuses without changing any."""

import fcntl
import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pyqmail.admin.virtual_domains import Instructions, VuserTrouble, split_address, with_line
from pyqmail.login import passwords
from pyqmail.login.virtual_users import find_user, read_users
from tests.public_directory import public_directory

BIN = Path(__file__).resolve().parents[2] / "bin"
UID = os.getuid() or 65534
OWNER = "nobody" if os.getuid() == 0 else ""
DEADLINE_S = 20


@pytest.fixture
def home() -> Iterator[Path]:
    """A home with control files and users/assign; single-user unless we are root."""
    with fresh_home() as made:
        yield made


@contextmanager
def fresh_home() -> Iterator[Path]:
    with public_directory() as made:
        for folder in ("control", "users"):
            (made / folder).mkdir(mode=0o755)
        if os.getuid() != 0:
            (made / "control/conf-users").write_text(f"{os.getuid()}\n" * 8)
            (made / "control/conf-groups").write_text(f"{os.getgid()}\n" * 2)
        (made / "control/me").write_text("mx.example\n")
        (made / "control/locals").write_text("mx.example\nlocal.example\n")
        (made / "control/virtualdomains").write_text("old.example:alias-old")  # no final newline
        (made / "users/assign").write_text("=joe:joe:507:100:/home/joe:::\n.\nrest\n")
        yield made


def vuser(home: Path, *words: str, password: str = "secret") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-ISXutf8", str(BIN / "qmail-vuser"), *words],
        input=password + "\n",
        env={"QMAIL_HOME": str(home)},
        capture_output=True,
        text=True,
        check=False,
        timeout=DEADLINE_S,
    )


@pytest.fixture
def domain(home: Path) -> Path:
    """The home of a virtual domain."""
    return make_domain(home)


def make_domain(home: Path) -> Path:
    result = vuser(home, "add-domain", "V.example", *([OWNER] if OWNER else []))
    assert result.returncode == 0, result.stderr
    return home / "domains/v.example"


@pytest.fixture(scope="module")
def settled() -> Iterator[Path]:
    """A home with a domain, a user and an alias, for what must not change anything."""
    with fresh_home() as home:
        make_domain(home)
        vuser(home, "add", "taken@v.example")
        vuser(home, "alias", "alias@v.example", "taken@v.example")
        yield home


def snapshot(home: Path) -> dict[str, object]:
    return {
        str(path.relative_to(home)): (path.read_bytes() if path.is_file() else None, path.stat().st_mode)
        for path in home.rglob("*")
        if path.name not in ("virtual.lock", "cdb.tmp")
    }


def test_a_domain_is_in_every_file_it_has_to_be_in(home: Path, domain: Path) -> None:
    lines = (home / "users/assign").read_text().split("\n")
    assert lines[0] == "=joe:joe:507:100:/home/joe:::"
    assert lines[1].startswith("+v.example-:") and lines[1].endswith(f":{domain}:-::")
    assert lines[2:] == [".", "rest", ""]
    assert b"!v.example-" in (home / "users/cdb").read_bytes()
    assert (home / "control/virtualdomains").read_text() == "old.example:alias-old\nv.example:v.example\n"
    assert (home / "control/rcpthosts").read_text() == "mx.example\nlocal.example\nv.example\n"
    assert stat.S_IMODE((home / "users/cdb").stat().st_mode) == 0o644
    assert stat.S_IMODE((home / "control/rcpthosts").stat().st_mode) == 0o644
    assert (domain.stat().st_uid, stat.S_IMODE(domain.stat().st_mode)) == (UID, 0o755)


def test_a_user_has_a_maildir_a_file_and_a_password(home: Path, domain: Path) -> None:
    result = vuser(home, "add", "Jo.E@v.example", "copy@x.example", password="pass: w\xf6rd")
    assert (result.returncode, result.stderr) == (0, "")
    assert (domain / ".qmail-jo:e").read_text() == "./jo.e/Maildir/\n&copy@x.example\n"
    for part in ("", "Maildir", "Maildir/tmp", "Maildir/new", "Maildir/cur"):
        status = (domain / "jo.e" / part).stat()
        assert (status.st_uid, stat.S_IMODE(status.st_mode)) == (UID, 0o700)
    assert stat.S_IMODE((domain / ".qmail-jo:e").stat().st_mode) == 0o600
    user = find_user(str(home), b"jo.e@v.example")
    assert user is not None
    assert passwords.verify_password(user.password_hash, "pass: w\xf6rd".encode())
    assert (user.secret, user.uid, user.home) == (b"", UID, os.fsencode(domain / "jo.e"))
    assert {stat.S_IMODE((home / f"users/virtual{end}").stat().st_mode) for end in ("", ".cdb")} == {0o600}


def test_passwords_change_and_apop_keeps_the_secret(home: Path, domain: Path) -> None:
    vuser(home, "add", "joe@v.example")
    assert vuser(home, "passwd", "--apop", "joe@v.example", password="other").returncode == 0
    user = read_users(str(home))[b"joe@v.example"]
    assert passwords.verify_password(user.password_hash, b"other")
    assert user.secret == b"other"
    vuser(home, "passwd", "joe@v.example", password="third")
    assert read_users(str(home))[b"joe@v.example"].secret == b""


def test_aliases_forwards_the_default_and_the_list(home: Path, domain: Path) -> None:
    vuser(home, "add", "joe@v.example")
    assert vuser(home, "alias", "info@v.example", "joe@v.example", "a@x.example").returncode == 0
    assert vuser(home, "forward", "joe@v.example", "b@x.example").returncode == 0
    assert vuser(home, "default", "v.example", "joe@v.example").returncode == 0
    assert (domain / ".qmail-info").read_text() == "&joe@v.example\n&a@x.example\n"
    assert (domain / ".qmail-joe").read_text() == "./joe/Maildir/\n&b@x.example\n"
    assert (domain / ".qmail-default").read_text() == "&joe@v.example\n"
    assert vuser(home, "list").stdout.split("\n") == [
        f"v.example\tdomain\t{domain}",
        "default@v.example\tdefault\tjoe@v.example",
        "info@v.example\talias\tjoe@v.example a@x.example",
        "joe@v.example\tmailbox\tb@x.example",
        "",
    ]
    vuser(home, "forward", "joe@v.example")
    vuser(home, "default", "v.example")
    assert (domain / ".qmail-joe").read_text() == "./joe/Maildir/\n"
    assert not (domain / ".qmail-default").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("forward", "joe@v.example", "joe@v.example"), "the mailbox has its copy anyway"),
        (("forward", "joe@v.example", "x@x.example", "JOE@V.example"), "the mailbox has its copy anyway"),
        (("add", "new@v.example", "new@v.example"), "loops: new@v.example"),
        (("alias", "self@v.example", "self@v.example"), "loops: self@v.example"),
        (("alias", "two@v.example", "x@x.example", "one@v.example"), "loops: v.example-one@v.example to v.example-two"),
        (("alias", "three@v.example", "toone@v.example"), "loops:"),
        (("default", "v.example", "whoever@v.example"), "loops: v.example-whoever@v.example"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_would_loop_is_refused(home: Path, domain: Path, words: tuple[str, ...], said: str) -> None:
    vuser(home, "add", "joe@v.example")
    vuser(home, "alias", "one@v.example", "two@v.example")  # who is yet to come
    vuser(home, "alias", "toone@v.example", "one@v.example", "three@v.example")
    before = snapshot(home)
    done = vuser(home, *words, password="x")
    assert done.returncode == 1 and "loops: " in done.stderr
    assert said.split("@")[0].split(": ")[-1].split(" ")[0] in done.stderr
    assert snapshot(home) == before
    assert vuser(home, "alias", "two@v.example", "joe@v.example").returncode == 0
    assert vuser(home, "alias", "one@v.example", "joe@v.example").returncode == 0


def test_removing_a_user_keeps_the_mail_unless_told(home: Path, domain: Path) -> None:
    vuser(home, "add", "joe@v.example")
    vuser(home, "add", "ann@v.example")
    assert vuser(home, "remove", "joe@v.example").returncode == 0
    assert vuser(home, "remove", "--mail", "ann@v.example").returncode == 0
    assert sorted(path.name for path in domain.iterdir()) == ["joe"]
    assert read_users(str(home)) == {}
    assert find_user(str(home), b"joe@v.example") is None
    assert vuser(home, "add", "joe@v.example").returncode == 0  # the old mail is there again


def test_removing_a_domain_leaves_the_files_as_they_were(home: Path, domain: Path) -> None:
    vuser(home, "add", "joe@v.example")
    assert vuser(home, "remove-domain", "--mail", "v.example").returncode == 0
    assert (home / "users/assign").read_text() == "=joe:joe:507:100:/home/joe:::\n.\nrest\n"
    assert (home / "control/virtualdomains").read_text() == "old.example:alias-old\n"
    assert (home / "control/rcpthosts").read_text() == "mx.example\nlocal.example\n"
    assert b"v.example" not in (home / "users/cdb").read_bytes()
    assert not domain.exists()
    assert read_users(str(home)) == {}


@pytest.mark.parametrize(
    ("words", "password"),
    [
        (("add", "joe@v.example"), ""),
        (("add", "joe@v.example"), "x" * 401),
        (("add", "joe@v.example", "no address"), "x"),
        (("add", "joe@v.example", "a\nb@x.example"), "x"),
        (("add", "../joe@v.example"), "x"),
        (("add", ".joe@v.example"), "x"),
        (("add", "a/b@v.example"), "x"),
        (("add", "a:b@v.example"), "x"),
        (("add", "default@v.example"), "x"),
        (("add", "joe-default@v.example"), "x"),
        (("add", "joe@other.example"), "x"),
        (("add", "taken@v.example"), "x"),
        (("add", "alias@v.example"), "x"),
        (("alias", "taken@v.example", "a@x.example"), "x"),
        (("forward", "alias@v.example"), "x"),
        (("forward", "nobody@v.example", "a@x.example"), "x"),
        (("passwd", "alias@v.example"), "x"),
        (("remove", "nobody@v.example"), "x"),
        (("default", "other.example"), "x"),
        (("remove-domain", "other.example"), "x"),
        (("add-domain", "local.example"), "x"),
        (("add-domain", "old.example"), "x"),
        (("add-domain", "v.example"), "x"),
        (("add-domain", "a..example"), "x"),
        (("add-domain", "../x.example"), "x"),
        (("list", "other.example"), "x"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else value[:3],
)
def test_a_refusal_says_why_and_changes_nothing(settled: Path, words: tuple[str, ...], password: str) -> None:
    before = snapshot(settled)
    owner = [OWNER] if OWNER and words[0] == "add-domain" else []
    result = vuser(settled, *words, *owner, password=password)
    assert result.returncode == 1, result
    assert result.stderr.startswith("qmail-vuser: ") and result.stderr.count("\n") == 1
    assert snapshot(settled) == before


@pytest.mark.skipif(os.getuid() != 0, reason="a single-user tree has one owner")
@pytest.mark.parametrize("owner", ["root", "no-such-account"])
def test_mail_cannot_belong_to_root_or_to_nobody_at_all(home: Path, owner: str) -> None:
    before = snapshot(home)
    assert vuser(home, "add-domain", "w.example", owner).returncode == 1
    assert snapshot(home) == before


@pytest.mark.parametrize(
    "words",
    [(), ("frob",), ("add",), ("list", "a", "b"), ("add", "--mail", "x@v.example"), ("alias", "x@v.example")],
    ids=str,
)
def test_a_wrong_command_line_is_100(home: Path, words: tuple[str, ...]) -> None:
    result = vuser(home, *words)
    assert result.returncode == 100
    assert "qmail-vuser add-domain DOMAIN" in result.stderr


def test_an_assign_file_without_its_end_is_left_alone(home: Path) -> None:
    (home / "users/assign").write_text("=joe:joe:507:100:/home/joe:::\n")
    result = vuser(home, "add-domain", "w.example", *([OWNER] if OWNER else []))
    assert result.returncode == 1
    assert "final dot" in result.stderr
    assert (home / "users/assign").read_text() == "=joe:joe:507:100:/home/joe:::\n"
    assert (home / "control/virtualdomains").read_text() == "old.example:alias-old"


def test_an_interrupted_add_domain_is_finished_by_the_next(home: Path, domain: Path) -> None:
    whole = snapshot(home)
    (home / "control/virtualdomains").write_text("old.example:alias-old\n")
    (home / "control/rcpthosts").unlink()
    assert vuser(home, "add-domain", "v.example", *([OWNER] if OWNER else [])).returncode == 0
    assert snapshot(home) == whole


def test_two_at_once_take_turns(home: Path, domain: Path) -> None:
    lock = os.open(home / "users/virtual.lock", os.O_WRONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    processes = [
        subprocess.Popen(
            [sys.executable, "-ISXutf8", str(BIN / "qmail-vuser"), "add", f"u{n}@v.example"],
            stdin=subprocess.PIPE,
            env={"QMAIL_HOME": str(home)},
        )
        for n in range(4)
    ]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write(b"x\n")
        process.stdin.close()
    os.close(lock)
    assert [process.wait(DEADLINE_S) for process in processes] == [0] * 4
    assert len(read_users(str(home))) == 4


@pytest.mark.skipif(os.getuid() != 0, reason="needs another owner")
@pytest.mark.parametrize(
    "plant",
    [
        lambda domain: (domain / "joe").symlink_to("/etc"),
        lambda domain: (domain / "joe").write_text(""),
        lambda domain: (domain / ".qmail-joe").symlink_to("/etc/passwd"),
    ],
    ids=["a link for the mailbox", "a file for the mailbox", "a link for the .qmail file"],
)
def test_root_follows_nothing_that_the_owner_has_planted(
    home: Path, domain: Path, plant: Callable[[Path], object]
) -> None:
    plant(domain)
    assert vuser(home, "add", "joe@v.example").returncode == 1
    assert read_users(str(home)) == {}
    assert not os.path.exists("/etc/Maildir")


def test_the_small_parts() -> None:
    assert split_address(b"A.b@V.Example") == (b"a.b", b"v.example")
    with pytest.raises(VuserTrouble):
        split_address(b"joe")
    assert with_line(None, b"x") == b"x\n"
    assert with_line(b"x", b"x") == b"x"
    parsed = Instructions.parse(b"# kept by hand\n./a/Maildir/\n&b@c\n|program\n")
    assert (parsed.mailbox, parsed.targets) == (b"a", [b"b@c"])
