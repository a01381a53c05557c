"""qmail-newu and qmail-pw2u (contract: users sections 4 and 5)."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pyqmail.admin.assign_lines import Options, format_assign, read_lists, read_options

BIN = Path(__file__).resolve().parents[2] / "bin"
PASSWD = (
    b"root:x:0:0::/root:\nJoe:x:506:100::/home/J:\njoe:x:507:100::/home/joe:\nalias:x:7790:2108::/a:/bin/sh\nshort\n"
)


def run(home: Path, program: str, *args: str, data: bytes = b"") -> tuple[int, bytes, bytes]:
    done = subprocess.run(
        [sys.executable, "-ISXutf8", str(BIN / program), *args],
        input=data,
        capture_output=True,
        env={"QMAIL_HOME": str(home)},
        timeout=30,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "users").mkdir()
    return tmp_path


@pytest.mark.contract("control 2.30", "users 4.1", "users 4.6", "users 4.7", "users 4.8")
def test_newu_makes_a_cdb(home: Path) -> None:
    (home / "users/assign").write_bytes(b"=joe:joe:1:1:/joe:::\n.\n")
    assert run(home, "qmail-newu") == (0, b"", b"")
    assert b"!joe\0joe\x001\x001\0/joe\0\0" in (home / "users/cdb").read_bytes()
    assert (home / "users/cdb").stat().st_mode & 0o777 == 0o644


@pytest.mark.contract("users 4.2", "users 4.5", "users 8.1")
def test_newu_leaves_the_old_cdb_when_it_fails(home: Path) -> None:
    (home / "users/cdb").write_bytes(b"old")
    assert run(home, "qmail-newu") == (111, b"", b"qmail-newu: fatal: unable to open users/assign\n")
    (home / "users/assign").write_bytes(b"=joe:joe:1:1:/joe:::\n")
    assert run(home, "qmail-newu") == (111, b"", b"qmail-newu: fatal: bad format in users/assign\n")
    assert (home / "users/cdb").read_bytes() == b"old"


@pytest.mark.parametrize(
    ("obstacle", "text"),
    [
        pytest.param("users/cdb.tmp", b"unable to open users/cdb.tmp", marks=pytest.mark.contract("users 4.3")),
        pytest.param("users/assign", b"unable to read users/assign", marks=pytest.mark.contract("users 4.4")),
        pytest.param(
            "users/cdb", b"unable to move users/cdb.tmp to users/cdb", marks=pytest.mark.contract("users 4.8")
        ),
    ],
)
def test_newu_names_the_file_that_is_in_its_way(home: Path, obstacle: str, text: bytes) -> None:
    (home / "users/assign").write_bytes(b".\n")
    (home / "users/assign").unlink() if obstacle == "users/assign" else None
    (home / obstacle).mkdir()
    assert run(home, "qmail-newu") == (111, b"", b"qmail-newu: fatal: " + text + b"\n")


@pytest.mark.contract("users 4.9")
def test_newu_without_memory_leaves_the_old_cdb(home: Path) -> None:
    (home / "users/cdb").write_bytes(b"old")
    with (home / "users/assign").open("wb") as file:
        file.truncate(1 << 29)
    command = f"ulimit -v 150000; exec {sys.executable} -ISXutf8 {BIN}/qmail-newu"
    done = subprocess.run(["sh", "-c", command], capture_output=True, env={"QMAIL_HOME": str(home)}, timeout=30)
    assert (done.returncode, done.stdout, done.stderr) == (111, b"", b"qmail-newu: fatal: out of memory\n")
    assert (home / "users/cdb").read_bytes() == b"old"


@pytest.mark.contract("users 4.6", "users 4.7")
def test_newu_on_a_full_disk_leaves_the_old_cdb(home: Path) -> None:
    (home / "users/cdb").write_bytes(b"old")
    (home / "users/assign").write_bytes(b".\n")
    (home / "users/cdb.tmp").symlink_to("/dev/full")
    assert run(home, "qmail-newu") == (111, b"", b"qmail-newu: fatal: unable to write users/cdb.tmp\n")
    assert (home / "users/cdb").read_bytes() == b"old"


@pytest.mark.contract("users 4.1", "users 5.22")
def test_a_missing_home_is_fatal(home: Path) -> None:
    for program in ("qmail-newu", "qmail-pw2u"):
        expected = f"{program}: fatal: unable to chdir\n".encode()
        assert run(home / "nowhere", program) == (111, b"", expected)


def assign(home: Path, *args: bytes, passwd: bytes = PASSWD) -> list[bytes]:
    os.chdir(home)
    options = read_options([b"-H", *args], b"-")
    return b"".join(format_assign(passwd, b"alias", options, read_lists())).splitlines()


@pytest.fixture
def inside(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(home)
    return home


JOE = [b"=joe:joe:507:100:/home/joe:::", b"+joe-:joe:507:100:/home/joe:-::"]
ALIAS = [b"+:alias:7790:2108:/a:-::", b"=alias:alias:7790:2108:/a:::", b"+alias-:alias:7790:2108:/a:-::"]


@pytest.mark.contract("users 5.8", "users 5.9", "users 5.17", "users 5.18", "users 5.21", "users 8.7")
def test_pw2u_lines_in_order(inside: Path) -> None:
    assert assign(inside) == [*JOE, *ALIAS, b"."]


@pytest.mark.contract(*[f"users 5.{row}" for row in (6, 14, 15, 16, 19, 20)], "users 8.4", "users 8.5")
def test_pw2u_subusers_mailnames_and_append(inside: Path) -> None:
    (inside / "users/subusers").write_bytes(b"comment\nsos:Joe:sos-list:x\n")
    (inside / "users/mailnames").write_bytes(b"joe:x\njoe:j::k\nnobody:n\nalias\n")
    (inside / "users/append").write_bytes(b"=z:z:1:1:/z:::\n")
    assert assign(inside, b"-C") == [
        b"=j:joe:507:100:/home/joe:::",
        b"=k:joe:507:100:/home/joe:::",
        ALIAS[0],
        ALIAS[1],
        b"=sos:joe:507:100:/home/joe:-:sos-list:",
        b"=z:z:1:1:/z:::",
        b".",
    ]


@pytest.mark.contract("users 5.3", "users 5.4", "users 5.10", "users 5.11", "users 5.13", "users 5.24", "users 8.6")
def test_pw2u_include_exclude_and_upper_case(inside: Path) -> None:
    (inside / "users/exclude").write_bytes(b"JOE\n")
    assert assign(inside) == [*ALIAS, b"."]
    (inside / "users/exclude").unlink()
    assert len(assign(inside, b"-u")) == 8
    (inside / "users/include").write_bytes(b"joe\n")
    (inside / "input").write_bytes(PASSWD)
    code, out, error = run(inside, "qmail-pw2u", "-H", data=PASSWD)
    assert (code, error) == (111, b"qmail-pw2u: fatal: unable to find alias user\n")
    assert not out.endswith(b".\n")


@pytest.mark.contract("users 5.1", "users 5.2", "users 5.12", "users 5.25")
def test_pw2u_homes(inside: Path) -> None:
    own = b"me:x:%d:9::%b:\n" % (os.getuid() or 4711, os.fsencode(inside))
    if os.getuid() == 0:
        os.chown(inside, 4711, -1)
    passwd = own + b"gone:x:5:5::/no/such:\nalias:x:%d:9::%b:\n" % (os.getuid() or 4711, os.fsencode(inside))
    code, out, _ = run(inside, "qmail-pw2u", data=passwd)
    assert code == 0
    assert b"gone" not in out
    assert b"=me:" in out
    code, _, error = run(inside, "qmail-pw2u", "-h", data=passwd)
    assert (code, error) == (111, b"qmail-pw2u: fatal: unable to stat /no/such\n")


@pytest.mark.contract("users 5.23", "users 5.26")
def test_pw2u_trouble_with_its_lists(inside: Path) -> None:
    (inside / "users/subusers").write_bytes(b"sub:nobody:x:\n")
    code, _, error = run(inside, "qmail-pw2u", "-H", data=PASSWD)
    assert code == 111
    assert error == b"qmail-pw2u: fatal: unable to find nobody user for subuser\n"
    (inside / "users/append").mkdir()
    code, _, error = run(inside, "qmail-pw2u", "-H", data=PASSWD)
    assert (code, error) == (111, b"qmail-pw2u: fatal: unable to read controls\n")


@pytest.mark.contract("users 5.5", "users 5.7", "users 7.2")
def test_pw2u_options(inside: Path) -> None:
    options = read_options([b"-c+", b"-/", b"-o", b"-h"], b"-")
    assert options == Options(homes=b"h", separator=b"+", dash=b"-/")
    assert read_options([b"-c", b""], b"-").separator == b""
    assert run(inside, "qmail-pw2u", "-x") == (100, b"", b"qmail-pw2u: illegal option -- x\n")
    assert run(inside, "qmail-pw2u", "-Hc")[0] == 100
