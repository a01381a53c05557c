"""checkpassword as a process: virtual users anywhere, accounts of the system as root."""

import hashlib
import os
import pwd
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pyqmail.login import passwords
from pyqmail.login.virtual_users import (
    VirtualUnreadable,
    VirtualUser,
    find_user,
    format_users,
    parse_users,
    read_users,
    write_users,
)
from pyqmail.programs import checkpassword
from tests.integration.mailhost import ensure_user
from tests.public_directory import public_directory

BIN = Path(__file__).resolve().parents[2] / "bin"
UID = os.getuid() or 65534
GID = os.getgid() or 65534
SYSTEM = "pqpop"
STAMP = b"<1.2@host>"
SHOW = ["/bin/sh", "-c", 'id -u; id -g; id -G; pwd; echo "$USER $HOME $SHELL $KEPT"; ls /proc/self/fd | wc -l']


@pytest.fixture
def home() -> Iterator[Path]:
    """A qmail home with one virtual user."""
    with public_directory() as made:
        (made / "users").mkdir()
        (made / "joe").mkdir()
        os.chown(made / "joe", UID, GID)
        hashed = passwords.hash_password(b"right")
        joe = os.fsencode(made / "joe")
        write_users(
            str(made),
            {
                b"joe@v.example": VirtualUser(b"joe@v.example", hashed, b"", UID, GID, joe),
                b"apop@v.example": VirtualUser(b"apop@v.example", hashed, b"secret", UID, GID, joe),
                b"root@v.example": VirtualUser(b"root@v.example", hashed, b"", 0, 0, joe),
                b"gone@v.example": VirtualUser(b"gone@v.example", hashed, b"", UID, GID, joe + b"/gone"),
            },
        )
        yield made


def check(home: Path, request: bytes | None, *program: str) -> subprocess.CompletedProcess[bytes]:
    """Run checkpassword with ``request`` on descriptor 3, or without one."""
    place = "3<&-"
    if request is not None:
        path = home / f"request-{hashlib.md5(request).hexdigest()}"
        path.write_bytes(request)
        place = f"3<{path}"
    return subprocess.run(
        ["/bin/sh", "-c", f'exec "$@" {place}', "sh", sys.executable, "-ISXutf8", str(BIN / "checkpassword"), *program],
        env={"QMAIL_HOME": str(home), "PATH": os.environ["PATH"], "KEPT": "yes"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )


def request(name: bytes, password: bytes, stamp: bytes = STAMP) -> bytes:
    return b"%b\0%b\0%b\0" % (name, password, stamp)


@pytest.mark.contract("pop3 2.1", "pop3 2.2", "pop3 2.6", "pop3 2.8")
def test_the_right_password_becomes_the_user(home: Path) -> None:
    result = check(home, request(b"Joe@V.example", b"right") + b"more\0fields", *SHOW)
    assert result.stderr == b""
    uid, gid, groups, place, words, fds = result.stdout.decode().splitlines()
    assert (uid, gid, place) == (str(UID), str(GID), str(home / "joe"))
    assert os.getuid() != 0 or groups == str(GID)
    assert words == f"joe@v.example {home}/joe /bin/sh yes"
    assert int(fds) == 4  # 0, 1, 2 and that of ls
    assert result.returncode == 0


@pytest.mark.contract("pop3 2.6")
def test_the_exit_status_is_that_of_the_program(home: Path) -> None:
    assert check(home, request(b"joe@v.example", b"right"), "/bin/sh", "-c", "exit 7").returncode == 7


@pytest.mark.contract("pop3 2.7")
def test_apop_needs_the_secret_and_this_very_stamp(home: Path) -> None:
    digest = hashlib.md5(STAMP + b"secret").hexdigest().encode()
    assert check(home, request(b"apop@v.example", digest), "true").returncode == 0
    assert check(home, request(b"apop@v.example", b"right"), "true").returncode == 0


def test_the_digest_is_that_of_the_rfc() -> None:
    digest = passwords.apop_digest(b"<1896.697170952@dbc.mtview.ca.us>", b"tanstaaf")
    assert digest == b"c4c9334bac560ecc979e58001b3e22fb"


@pytest.mark.contract("pop3 2.4", "pop3 2.8")
@pytest.mark.parametrize(
    ("data", "program"),
    [
        (request(b"joe@v.example", b"right"), ()),
        (b"joe@v.example\0right\0<1.2@host>", ("true",)),
        (b"joe@v.example\0right", ("true",)),
        (b"", ("true",)),
        (request(b"joe@v.example", b"x" * 500), ("true",)),
        (None, ("true",)),
    ],
    ids=["no program", "two NULs", "one NUL", "nothing", "more than 512 bytes", "descriptor 3 closed"],
)
def test_misuse_is_2(home: Path, data: bytes | None, program: tuple[str, ...]) -> None:
    result = check(home, data, *program)
    assert (result.returncode, result.stdout, result.stderr) == (2, b"", b"")


@pytest.mark.contract("pop3 2.2")
def test_512_bytes_are_read(home: Path) -> None:
    data = request(b"joe@v.example", b"right")
    assert check(home, data + b"x" * (512 - len(data)), "true").returncode == 0


@pytest.mark.contract("pop3 2.3", "pop3 2.8", "pop3 2.9")
def test_whatever_is_wrong_the_answer_is_the_same_after_the_same_time(home: Path) -> None:
    wrong = [
        (b"joe@v.example", b"wrong"),
        (b"nobody@v.example", b"right"),
        (b"joe@other.example", b"right"),
        (b"joe@v.example", b""),
        (b"", b"right"),
        (b"root@v.example", b"right"),
        (b"apop@v.example", hashlib.md5(b"<2.2@host>secret").hexdigest().encode()),  # for another stamp
    ]
    if os.getuid() == 0:
        ensure_user(SYSTEM)
        wrong += [(b"no-such-user", b"right"), (b"root", b"wrong"), (SYSTEM.encode(), b"wrong")]

    def timed(pair: tuple[bytes, bytes]) -> tuple[int, bytes, bytes, float]:
        before = time.monotonic()
        result = check(home, request(*pair), "true")
        return result.returncode, result.stdout, result.stderr, time.monotonic() - before

    with ThreadPoolExecutor(len(wrong)) as threads:
        answers = list(threads.map(timed, wrong))
    assert {answer[:3] for answer in answers} == {(1, b"", b"")}
    times = [answer[3] for answer in answers]
    assert min(times) >= checkpassword.FAILURE_S
    assert max(times) - min(times) < 2.5


@pytest.mark.contract("pop3 2.5")
@pytest.mark.parametrize("what", ["no cdb", "bad hash", "no home", "no program"])
def test_trouble_is_111(home: Path, what: str) -> None:
    name, program = b"joe@v.example", "true"
    if what == "no cdb":
        (home / "users/virtual.cdb").write_bytes(b"short")
    elif what == "bad hash":
        write_users(str(home), {name: VirtualUser(name, b"plain", b"", UID, GID, b"/")})
    elif what == "no home":
        name = b"gone@v.example"
    else:
        program = "no-such-program"
    result = check(home, request(name, b"right"), program)
    assert (result.returncode, result.stdout, result.stderr) == (111, b"", b"")


@pytest.mark.skipif(os.getuid() != 0, reason="PAM tells root only")
@pytest.mark.contract("pop3 2.3", "pop3 2.6", "pop3 2.9")
def test_an_account_of_the_system(home: Path) -> None:
    entry = ensure_user(SYSTEM)
    subprocess.run(["chpasswd"], input=f"{SYSTEM}:Kr\xe4he 7\n".encode(), check=True)
    group = pwd.getpwnam("qmails").pw_gid
    subprocess.run(["usermod", "-G", str(group), SYSTEM], check=True)
    result = check(home, request(SYSTEM.encode(), "Kr\xe4he 7".encode()), *SHOW)
    uid, gid, groups, place, words, _ = result.stdout.decode().splitlines()
    assert (uid, gid, place) == (str(entry.pw_uid), str(entry.pw_gid), entry.pw_dir)
    assert set(groups.split()) == {str(entry.pw_gid), str(group)}
    assert words == f"{SYSTEM} {entry.pw_dir} /bin/sh yes"
    subprocess.run(["usermod", "--expiredate", "1", SYSTEM], check=True)
    try:
        assert check(home, request(SYSTEM.encode(), "Kr\xe4he 7".encode()), "true").returncode == 1
    finally:
        subprocess.run(["usermod", "--expiredate", "", SYSTEM], check=True)


@pytest.mark.skipif(os.getuid() != 0, reason="only root reads shadow")
def test_an_account_without_a_password_takes_none(home: Path) -> None:
    ensure_user(SYSTEM)
    subprocess.run(["passwd", "-q", "-d", SYSTEM], check=True)
    assert check(home, request(SYSTEM.encode(), b"anything"), "true").returncode == 1


def test_hashes() -> None:
    stored = passwords.hash_password(b"x")
    assert stored.startswith(b"$scrypt$ln=15,r=8,p=1$")
    assert stored != passwords.hash_password(b"x")
    assert passwords.verify_password(stored, b"x")
    assert not passwords.verify_password(stored, b"y")
    for bad in (
        b"",
        b"x",
        b"$scrypt$ln=99,r=8,p=1$YQ$YQ",
        b"$6$ab$cd",
        b"$scrypt$ln=1,r=8,p=1$YQ$",
        b"$scrypt$ln=20,r=32,p=1$YQ$YQ",
        stored + b"!",
    ):
        with pytest.raises(passwords.HashFormat):
            passwords.verify_password(bad, b"x")


def test_the_files_of_virtual_users(tmp_path: Path) -> None:
    (tmp_path / "users").mkdir()
    user = VirtualUser(b"a@v.example", b"$h$", b"s:\0", 5, 6, b"/h:o")
    write_users(str(tmp_path), {user.address: user})
    assert read_users(str(tmp_path)) == {user.address: user} == parse_users(format_users({user.address: user}))
    assert find_user(str(tmp_path), b"A@v.EXAMPLE") == user
    assert find_user(str(tmp_path), b"b@v.example") is None
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "users").iterdir()} == {0o600}
    for bad in (b"a@b\n", b"a@b:h:zz:1:2:/\n", b"a@b:h::x:2:/\n", b"a@b:h::1\n"):
        with pytest.raises(VirtualUnreadable):
            parse_users(bad)
