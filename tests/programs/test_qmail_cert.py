"""qmail-cert: what it puts in place, what it refuses, and what it says of what is there."""

import os
import re
import shutil
import stat
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.certificates import client_context, self_signed, signed_by

BIN = Path(__file__).resolve().parents[2] / "bin"


@pytest.fixture
def home(single_user_home: Path) -> Path:
    (single_user_home / "control" / "me").write_text("mx.test\n")
    return single_user_home


def cert(home: Path, *words: object) -> subprocess.CompletedProcess[str]:
    environ = {"QMAIL_HOME": str(home), "PATH": os.environ["PATH"]}
    command = [str(BIN / "qmail-cert"), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, env=environ, check=False, timeout=60)


def check(home: Path) -> str:
    """What ``qmail-showctl --check`` says."""
    environ = {"QMAIL_HOME": str(home), "PATH": os.environ["PATH"]}
    words = [str(BIN / "qmail-showctl"), "--check"]
    return subprocess.run(words, capture_output=True, text=True, env=environ, check=False, timeout=60).stdout


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


@pytest.mark.parametrize("kind", ["ecdsa", "rsa"])
def test_a_key_that_does_not_fit_is_said(home: Path, tmp_path: Path, kind: str) -> None:
    chain, _ = pair(tmp_path)
    _, key = pair(tmp_path, "other.test", kind)
    done = cert(home, "check", chain, key)
    assert (done.returncode, done.stderr) == (111, "qmail-cert: the key does not fit the certificate\n")


def test_what_would_bite_is_said(home: Path, tmp_path: Path) -> None:
    authority = self_signed(tmp_path, "ca.test")
    signed_by(authority, tmp_path, "other.test", days=3)
    done = cert(home, "install", tmp_path / "other.test-ecdsa.crt", tmp_path / "other.test-ecdsa.key")
    said = [line.split(": ", 1)[1] for line in done.stderr.splitlines()]
    assert done.returncode == 1
    assert re.fullmatch(r"ends in [23] days, on \d{4}-\d\d-\d\d", said[0])
    assert said[1] == "is not for mx.test (but for other.test)"
    assert said[2].startswith("comes without the certificates of its issuers")
    assert check(home).count("warning: control/servercert.pem: ") == 3


def chain_of_three(folder: Path) -> tuple[Path, Path, Path, Path]:
    """A root, what it has signed, what that has signed for mx.test, and the key of the last."""
    made = [folder / f"{name}.crt" for name in ("root", "middle", "leaf")]
    signer: Path | None = None
    for path in made:
        key = path.with_suffix(".key")
        words = ["openssl", "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-x509"]
        words += ["-subj", f"/CN={path.stem}.test", "-days", "90", "-keyout", str(key), "-out", str(path)]
        words += ["-addext", "subjectAltName=DNS:mx.test"]
        words += ["-CA", str(signer), "-CAkey", str(signer.with_suffix(".key"))] if signer else []
        subprocess.run(words, check=True, capture_output=True)
        signer = path
    return made[0], made[1], made[2], made[2].with_suffix(".key")


@pytest.mark.parametrize(
    ("order", "said"),
    [
        ((2, 1), ""),
        ((2, 1, 0), ""),
        ((2, 0), "certificate 2 of its chain has not signed the one before it"),
        ((2, 0, 1), "certificate 2 of its chain has not signed the one before it"),
        ((2, 1, 1), "certificate 3 of its chain has not signed the one before it"),
        ((1, 2), "the key does not fit the certificate"),
    ],
)
def test_each_certificate_of_a_chain_has_signed_the_one_before(
    home: Path, tmp_path: Path, order: tuple[int, ...], said: str
) -> None:
    *chain, key = chain_of_three(tmp_path)
    (tmp_path / "chain").write_bytes(b"".join(chain[place].read_bytes() for place in order))
    done = cert(home, "check", tmp_path / "chain", key)
    assert done.returncode == (0 if not said else 111 if "key" in said else 1)
    assert done.stderr.count("\n") == bool(said) and said in done.stderr


def test_the_old_name_of_a_certificate_is_understood(home: Path, tmp_path: Path) -> None:
    chain, key = pair(tmp_path)
    chain.write_text(chain.read_text().replace("CERTIFICATE", "X509 CERTIFICATE"))
    assert cert(home, "install", chain, key).returncode == 0
    assert "X509" not in (home / "control/servercert.pem").read_text()


def odd_certificate(folder: Path, names: x509.ExtensionType, common_name: str = "mx.test") -> tuple[Path, Path]:
    """Files of a certificate that signs itself, with ``names`` in whatever form, and of its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, common_name)])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now - timedelta(1)).not_valid_after(now + timedelta(90))
    made = builder.add_extension(names, critical=False).sign(key, hashes.SHA256())
    form = serialization.Encoding.PEM
    (folder / "odd.crt").write_bytes(made.public_bytes(form))
    private = key.private_bytes(form, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "odd.key").write_bytes(private)
    return folder / "odd.crt", folder / "odd.key"


def test_names_that_cannot_be_read_are_one_line(home: Path, tmp_path: Path) -> None:
    names = x509.UnrecognizedExtension(x509.ObjectIdentifier("2.5.29.17"), b"\x30\x06\x82\x04\xffab\xfe")
    done = cert(home, "check", *odd_certificate(tmp_path, names))
    assert (done.returncode, done.stderr.count("\n")) == (111, 1)
    assert done.stderr.startswith("qmail-cert: a certificate cannot be read: ")


def test_names_reach_a_terminal_as_text(home: Path, tmp_path: Path) -> None:
    names = x509.SubjectAlternativeName([x509.DNSName("a\x1b[31m\nb")])
    done = cert(home, "install", *odd_certificate(tmp_path, names, "c\x1b[31m\nd"))
    assert "\x1b" not in done.stdout + done.stderr and done.stdout.count("\n") == 1
    assert r"for a\x1b[31m\x0ab, by CN=c\x1b[31m\x0ad" in done.stdout


def test_show_without_anything(home: Path) -> None:
    done = cert(home, "show")
    assert (done.returncode, done.stdout) == (0, f"no {home}/control/servercert.pem: no server offers TLS\n")


def test_a_file_that_others_can_read_is_named(home: Path, tmp_path: Path) -> None:
    cert(home, "install", *pair(tmp_path))
    (home / "control/servercert.pem").chmod(0o444)
    done = cert(home, "show")
    assert (done.returncode, "others can read or write it" in done.stderr) == (1, True)


def test_a_fifo_holds_up_nobody(home: Path) -> None:
    os.mkfifo(home / "control/servercert.pem", 0o400)
    done = cert(home, "show")
    assert (done.returncode, "no regular file" in done.stderr) == (1, True)
    assert "warning: control/servercert.pem: no regular file" in check(home)


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a file away")
@pytest.mark.parametrize("what", ["the file", "the directory"])
def test_what_the_servers_cannot_reach_is_named(home: Path, tmp_path: Path, what: str) -> None:
    (home / "control/conf-users").write_text("12345\n" * 8)
    (home / "control/conf-groups").write_text("12345\n" * 2)
    assert cert(home, "install", "--name", "mx.test", *pair(tmp_path)).stderr == ""
    assert cert(home, "show").stderr == ""
    if what == "the file":
        os.chown(home / "control/servercerts/mx.test/servercert.pem", 0, 0)
        why = "the user of the servers cannot read it: no client is shown it"
    else:
        (home / "control/servercerts").chmod(0o700)
        why = "its directory is closed to the user of the servers: no client is shown it"
    done = cert(home, "show")
    assert (done.returncode, done.stderr) == (1, f"mx.test: {why}\n")
    assert f"warning: control/servercerts/mx.test/servercert.pem: {why}\n" in check(home)


@pytest.mark.parametrize("name", ["MX.test", "a\x1b[31m"])
def test_a_directory_that_no_client_can_ask_for_is_named(home: Path, tmp_path: Path, name: str) -> None:
    cert(home, "install", *pair(tmp_path))
    (home / "control/servercerts" / name).mkdir(parents=True)
    shutil.copy2(home / "control/servercert.pem", home / "control/servercerts" / name)
    for said in (cert(home, "show").stderr, check(home)):
        assert "its directory's name is no host name in lower case: no client is shown it\n" in said
        assert "\x1b" not in said


def test_the_umask_closes_no_directory(home: Path, tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        cert(home, "install", "--name", "mx.test", *pair(tmp_path))
    finally:
        os.umask(before)
    for folder in (home / "control/servercerts", home / "control/servercerts/mx.test"):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o755


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
