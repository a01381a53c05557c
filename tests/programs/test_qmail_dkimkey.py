"""qmail-dkimkey: a key is made, waits for its record, signs, and is retired."""

import os
import pwd
import re
import stat
import subprocess
from pathlib import Path

import pytest

from pyqmail.mailauth.keys import parse_key
from pyqmail.mailauth.lookups import TemporaryFailure
from pyqmail.mailauth.signing import SigningKey
from pyqmail.programs.qmail_dkimkey import what_is_wrong
from pyqmail.protocol.dns import Kind
from pyqmail.remote.controls import read_controls
from pyqmail.remote.signatures import Signer
from tests.loopback import free_port
from tests.mailauth.test_dkim import ED
from tests.mailauth.zone import Zone
from tests.nameserver import nameserver, own_network

BIN = Path(__file__).resolve().parents[2] / "bin"


@pytest.fixture
def home(single_user_home: Path) -> Path:
    (single_user_home / "control" / "me").write_text("mx.test\n")
    return single_user_home


def dkimkey(home: Path, *words: str) -> tuple[int, str, str]:
    environ = {"QMAIL_HOME": str(home), "PATH": os.environ["PATH"]}
    run = subprocess.run(
        [str(BIN / "qmail-dkimkey"), *words], capture_output=True, text=True, env=environ, check=False, timeout=60
    )
    return run.returncode, run.stdout, run.stderr


def files(home: Path) -> list[str]:
    return sorted(os.listdir(home / "control/domainkeys/a.test"))


def selectors_that_sign(home: Path, author: bytes = b"a.test") -> list[bytes]:
    fields = Signer().signatures(str(home), read_controls(str(home)), [b"From: x@" + author + b"\n\nx\n"])
    return re.findall(rb"s=([^;]+);", fields)


def test_a_key_signs_once_dns_has_it_and_the_old_one_no_more(home: Path) -> None:
    address, port = own_network() + ".54", free_port()
    (home / "control/dnsservers").write_text(f"{address}:{port}\n")
    code, first, _ = dkimkey(home, "make", "A.test.")
    assert code == 0 and first.count("._domainkey.a.test. IN TXT (") == 2
    code, old, _ = dkimkey(home, "make", "-t", "rsa", "a.test", "old")
    assert code == 0 and old.startswith('old._domainkey.a.test. IN TXT ( "v=DKIM1; k=rsa; p=')
    (home / "control/domainkeys/a.test/old.off").rename(home / "control/domainkeys/a.test/old")
    assert selectors_that_sign(home) == selectors_that_sign(home, b"sub.a.test") == [b"old"]
    rsa, edwards = sorted(first.splitlines(), reverse=True)
    with nameserver(address, {"a.test": [old, edwards.replace(" k=ed25519", " k=rsa")]}, port=port):
        code, told, _ = dkimkey(home, "rotate", "a.test")
        assert code == 1 and told.count(": waits: DNS has key of another kind") == 1
        assert told.count(": waits: DNS has no key") == 1
        assert selectors_that_sign(home) == [b"old"]
    with nameserver(address, {"a.test": [edwards, rsa]}, port=port):
        code, told, _ = dkimkey(home, "check", "a.test")
        assert code == 1 and "old._domainkey.a.test: signs, and DNS has no key\n" in told
        assert told.count(": waits, and DNS has it\n") == 2
        code, told, _ = dkimkey(home, "rotate", "a.test")
        assert code == 0 and told.count(": signs from now on\n") == 2
        assert "old._domainkey.a.test: signs no more; its record can go in a week\n" in told
        assert dkimkey(home, "check", "a.test")[0] == 0
    assert len(selectors_that_sign(home)) == 2 and b"old" not in selectors_that_sign(home)
    assert "old.retired.off" in files(home)
    assert dkimkey(home, "record", "a.test")[1].splitlines() == sorted([edwards, rsa])


def test_no_answer_is_no_record() -> None:
    zone = Zone({(b"s._domainkey.a.test", Kind.TXT): TemporaryFailure("no answer")})
    assert what_is_wrong(SigningKey(b"a.test", b"s", ED), zone) == "DNS does not answer"


def test_rotate_makes_a_new_key_of_each_kind_that_signs(home: Path) -> None:
    dkimkey(home, "make", "-t", "ed25519", "a.test", "one")
    (home / "control/domainkeys/a.test/one.off").rename(home / "control/domainkeys/a.test/one")
    code, told, _ = dkimkey(home, "rotate", "a.test")
    assert code == 1 and re.fullmatch(r'ed25519-\d{8}\._domainkey\.a\.test\. IN TXT \( "v=DKIM1; k=ed25519; .*\n', told)
    assert len(files(home)) == 2
    assert dkimkey(home, "retire", "a.test", "one")[0] == 0
    assert "one.retired.off" in files(home) and selectors_that_sign(home) == []
    assert dkimkey(home, "retire", "a.test", "one") == (111, "", "qmail-dkimkey: no key one signs\n")


def test_the_record_holds_the_public_half_in_strings_that_dns_can_carry(home: Path) -> None:
    _, told, _ = dkimkey(home, "make", "-t", "rsa", "a.test", "s")
    strings = re.findall(r'"([^"]*)"', told)
    assert all(len(each) <= 255 for each in strings)
    key = parse_key("".join(strings).encode(), b"rsa")
    assert key.words == "2048-bit rsa"


def test_what_is_made_is_not_for_others(home: Path) -> None:
    dkimkey(home, "make", "a.test")
    directory = home / "control/domainkeys/a.test"
    modes = [stat.S_IMODE(each.stat().st_mode) for each in (directory.parent, directory, *directory.iterdir())]
    assert modes == [0o755, 0o750, 0o640, 0o640]
    assert not [name for name in files(home) if name.startswith(".")]


def test_two_in_a_day_have_two_names_and_none_is_written_over(home: Path) -> None:
    dkimkey(home, "make", "-t", "rsa", "a.test")
    dkimkey(home, "make", "-t", "rsa", "a.test")
    assert len(files(home)) == 2
    dkimkey(home, "make", "-t", "ed25519", "a.test", "s")
    code, told, error = dkimkey(home, "make", "-t", "ed25519", "a.test", "s")
    assert (code, told, error) == (111, "", "qmail-dkimkey: there is a key s already\n")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: gives files away")
def test_in_a_tree_of_many_users_it_is_for_qmail_remote(home: Path) -> None:
    for name in ("conf-users", "conf-groups"):
        (home / "control" / name).unlink(missing_ok=True)
    dkimkey(home, "make", "-t", "ed25519", "a.test", "s")
    path = home / "control/domainkeys/a.test/s.off"
    assert (path.stat().st_uid, path.stat().st_gid) == (0, pwd.getpwnam("qmailr").pw_gid)
    assert (path.parent.stat().st_uid, path.parent.stat().st_gid) == (0, pwd.getpwnam("qmailr").pw_gid)


@pytest.mark.parametrize(
    "words",
    [
        [], ["make"], ["rotate"], ["nothing", "a.test"], ["make", "../etc"], ["make", "a.test", "s"],
        ["make", "-t", "dsa", "a.test"], ["make", "-t", "rsa", "a.test", "../s"], ["retire", "a.test"],
        ["check", "a.test", "s"],
    ],
)  # fmt: skip
def test_a_bad_call_does_nothing(home: Path, words: list[str]) -> None:
    code, told, error = dkimkey(home, *words)
    assert (code, told) == (100, "") and error.startswith("qmail-dkimkey make [-t rsa|ed25519] DOMAIN")
    assert not (home / "control/domainkeys").exists()


def test_a_key_that_cannot_be_used_is_named(home: Path) -> None:
    dkimkey(home, "make", "-t", "ed25519", "a.test", "s")
    (home / "control/domainkeys/a.test/s.off").chmod(0o644)
    code, told, error = dkimkey(home, "check", "a.test")
    assert (code, told, error) == (111, "", "qmail-dkimkey: control/domainkeys/a.test/s.off: others can read it\n")
