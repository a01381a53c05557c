"""qmail-cert: what it puts in place, what it refuses, and what it says of what is there."""

import os
import re
import stat
import subprocess
from pathlib import Path

import pytest

from tests.certificates import client_context, self_signed, signed_by

BIN = Path(__file__).resolve().parents[2] / "bin"


@pytest.fixture
def home(single_user_home: Path) -> Path:
    (single_user_home / "control" / "me").write_text("mx.test\n")
    return single_user_home


def cert(home: Path, *words: object) -> subprocess.CompletedProcess[str]:
    environ = {"QMAIL_HOME": str(home), "PATH": os.environ["PATH"]}
    return subprocess.run(
        [str(BIN / "qmail-cert"), *map(str, words)], capture_output=True, text=True, env=environ, check=False
    )


def pair(folder: Path, name: str = "mx.test", kind: str = "ecdsa") -> tuple[Path, Path]:
    """The chain and the key of a certificate for ``name``."""
    self_signed(folder, name, kind)
    return folder / f"{name}-{kind}.crt", folder / f"{name}-{kind}.key"


def test_a_chain_and_its_key_become_one_file_of_qmaild(home: Path, tmp_path: Path) -> None:
    chain, key = pair(tmp_path)
    done = cert(home, "install", chain, key)
    path = home / "control/servercert.pem"
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(
        rf"{path}: ECDSA secp256r1, for mx\.test, by CN=mx\.test, good until \d{{4}}-\d\d-\d\d: (29|30) days\n",
        done.stdout,
    )
    assert stat.S_IMODE(path.stat().st_mode) == 0o400
    assert path.read_text() == key.read_text() + chain.read_text()
    assert [each.name for each in path.parent.iterdir() if "servercert" in each.name] == ["servercert.pem"]


def test_one_that_signs_itself(home: Path) -> None:
    done = cert(home, "self-signed")
    path = home / "control/servercert.pem"
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(
        rf"{path}: ECDSA secp256r1, for mx\.test, by CN=mx\.test, good until .*: 3649 days\n", done.stdout
    )
    assert stat.S_IMODE(path.stat().st_mode) == 0o400
    client_context(path)  # an authority that a client can trust
    before = path.read_bytes()
    again = cert(home, "self-signed", "other.test")
    assert (again.returncode, again.stdout) == (111, "")
    assert path.read_bytes() == before


def test_two_keys_go_into_one_file(home: Path, tmp_path: Path) -> None:
    done = cert(home, "install", *pair(tmp_path), *pair(tmp_path, kind="rsa"))
    assert done.returncode == 0
    assert [line.split(": ")[1].split(",")[0] for line in done.stdout.splitlines()] == ["ECDSA secp256r1", "RSA 2048"]


def test_a_name_of_its_own(home: Path, tmp_path: Path) -> None:
    assert cert(home, "install", *pair(tmp_path)).returncode == 0
    assert cert(home, "install", "--name", "Other.test", *pair(tmp_path, "other.test")).returncode == 0
    shown = cert(home, "show")
    assert shown.returncode == 0
    assert [line.split(": ")[0] for line in shown.stdout.splitlines()] == ["every other name", "other.test"]


@pytest.mark.parametrize("how", ["another key", "no certificate", "two names", "../x", "a missing file", "a huge file"])
def test_what_is_no_good_changes_nothing(home: Path, tmp_path: Path, how: str) -> None:
    chain, key = pair(tmp_path)
    assert cert(home, "install", chain, key).returncode == 0
    before = (home / "control/servercert.pem").read_bytes()
    _, other = pair(tmp_path, "other.test")
    (tmp_path / "huge").write_bytes(bytes(2_000_000))
    words = {
        "another key": (chain, other),
        "no certificate": (key, key),
        "two names": ("--name", "a b", chain, key),
        "../x": ("--name", "../x", chain, key),
        "a missing file": (chain, tmp_path / "absent"),
        "a huge file": (tmp_path / "huge", key),
    }[how]
    done = cert(home, "install", *words)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (111, "", 1)
    assert done.stderr.startswith("qmail-cert: ") and "PRIVATE" not in done.stderr
    assert (home / "control/servercert.pem").read_bytes() == before
    assert sorted(each.name for each in (home / "control").iterdir() if "cert" in each.name) == ["servercert.pem"]


def test_what_would_bite_is_said(home: Path, tmp_path: Path) -> None:
    authority = self_signed(tmp_path, "ca.test")
    signed_by(authority, tmp_path, "other.test", days=3)
    done = cert(home, "install", tmp_path / "other.test-ecdsa.crt", tmp_path / "other.test-ecdsa.key")
    said = [line.split(": ", 1)[1] for line in done.stderr.splitlines()]
    assert done.returncode == 1
    assert re.fullmatch(r"ends in [23] days, on \d{4}-\d\d-\d\d", said[0])
    assert said[1] == "is not for mx.test (but for other.test)"
    assert said[2].startswith("comes without the certificates of its issuers")
    environ = {"QMAIL_HOME": str(home), "PATH": os.environ["PATH"]}
    checked = subprocess.run(
        [BIN / "qmail-showctl", "--check"], capture_output=True, text=True, env=environ, check=False
    )
    assert checked.stdout.count("warning: control/servercert.pem: ") == 3


def test_show_without_anything(home: Path) -> None:
    done = cert(home, "show")
    assert (done.returncode, done.stdout) == (0, f"no {home}/control/servercert.pem: no server offers TLS\n")


def test_a_file_that_others_can_read_is_named(home: Path, tmp_path: Path) -> None:
    cert(home, "install", *pair(tmp_path))
    (home / "control/servercert.pem").chmod(0o444)
    done = cert(home, "show")
    assert (done.returncode, "others can read or write it" in done.stderr) == (1, True)


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("remove",),
        ("install",),
        ("install", "x"),
        ("show", "x"),
        ("install", "--name"),
        ("self-signed", "a.test", "b.test"),
    ],
)
def test_misuse(home: Path, words: tuple[str, ...]) -> None:
    done = cert(home, *words)
    assert done.returncode == 100 and done.stderr.startswith("qmail-cert install [--name NAME]")


@pytest.mark.parametrize("hook", ["certbot", "acme.sh"])
def test_the_hooks_of_the_examples(home: Path, tmp_path: Path, hook: str) -> None:
    chain, key = pair(tmp_path)
    lineage = tmp_path / "live"
    lineage.mkdir()
    (lineage / "fullchain.pem").write_bytes(chain.read_bytes())
    (lineage / ("privkey.pem" if hook == "certbot" else "key.pem")).write_bytes(key.read_bytes())
    (home / "bin").mkdir()
    (home / "bin/qmail-cert").write_text(f'#!/bin/sh\nexec {BIN}/qmail-cert "$@"\n')
    (home / "bin/qmail-cert").chmod(0o755)
    examples = BIN.parent / "control-examples/certificates"
    words = [examples / "certbot-deploy-hook"] if hook == "certbot" else [examples / "acme.sh-reload", lineage]
    environ = {"QMAIL_HOME": str(home), "RENEWED_LINEAGE": str(lineage), "PATH": os.environ["PATH"]}
    done = subprocess.run(words, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (home / "control/servercert.pem").exists()
