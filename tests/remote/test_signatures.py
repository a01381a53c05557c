"""DKIM signatures of what leaves: what a peer hears verifies with dkimpy, and strangers' mail is not signed."""

import base64
import json
import os
import subprocess
import tempfile
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from pyqmail.failure import TemporaryFailure
from pyqmail.remote.controls import read_controls
from pyqmail.remote.message import Message
from pyqmail.remote.signatures import Signer, read_keys
from tests.mailauth.test_dkim import ED, RSA, outcomes, public_record
from tests.mailauth.test_vouching import session
from tests.scripted_peers import ACCEPTING, remote_home, run_program, smtp_peer

MODULE = "pyqmail.programs.qmail_remote"
FROM = b"From: Ann <ann@a.example>\nSubject: s\n"
PEM = {
    "r": RSA.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()),
    "e": ED.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
}
QUEUED = b"Received: (qmail 7 invoked from network); 1 Jan 2026 00:00:00 -0000\n"
DKIMPY = """
import base64, json, sys, dkim
told = json.load(sys.stdin)
message = base64.b64decode(told["message"])
def txt(name, timeout=5):
    return told["keys"][name.split(b".")[0].decode()].encode()
signed = dkim.DKIM(message)
print(json.dumps([signed.verify(idx=number, dnsfunc=txt) for number in range(2)]))
"""


def home_with_keys(directory: Path, port: int = 25, domain: str = "a.example") -> Path:
    home = remote_home(directory, smtproutes=f":[127.0.0.1]:{port}")
    keys = home / "control" / "domainkeys" / domain
    keys.mkdir(parents=True)
    for name, pem in PEM.items():
        (keys / name).write_bytes(pem)
        (keys / name).chmod(0o640)
    return home


def heard(directory: Path, message: bytes, *recipients: bytes, domain: str = "a.example") -> bytes:
    """The message as the peer has it, its dots taken away."""
    with smtp_peer([*ACCEPTING[:4], *[b"250 ok\r\n"] * (len(recipients) - 1), *ACCEPTING[4:]]) as peer:
        home = home_with_keys(directory, peer.port, domain)
        if message:
            file = directory / "message"
            file.write_bytes(message)
        code, reports = run_program(MODULE, [b"x.test", b"s@y.test", *recipients], home, message)
    assert code == 0
    assert reports.startswith(b"r\0" * len(recipients) + b"K"), reports
    signed = b"DKIM-Signature: " in peer.heard
    assert reports.endswith(b"\ndkim=" + domain.encode() + b"\n\0" if signed else b"\n\0")
    body = peer.heard.split(b"DATA\r\n", 1)[1].removesuffix(b"QUIT\r\n").removesuffix(b".\r\n")
    return body.replace(b"\r\n..", b"\r\n.")


def verified_by_dkimpy(message: bytes) -> list[bool]:
    if not os.path.exists("/usr/lib/python3/dist-packages/dkim"):
        assert "PYQMAIL_TESTS_WHOLE" not in os.environ, "python3-dkim is not installed"
        pytest.skip("python3-dkim is not installed")
    told = {
        "message": base64.b64encode(message).decode(),
        "keys": {"r": public_record(RSA).decode(), "e": public_record(ED).decode()},
    }
    run = subprocess.run(
        ["/usr/bin/python3", "-c", DKIMPY], input=json.dumps(told), capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    found: list[bool] = json.loads(run.stdout)
    return found


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"hello\n", id="short"),
        pytest.param(b"", id="empty"),
        pytest.param(b".\n..\n.x\n\n\n", id="dots and blank lines"),
        pytest.param(b"caf\xe9 \xff\xfe\n", id="8-bit"),
        pytest.param(b"x" * 200_000 + b" \t\n.\n", id="long lines"),
        pytest.param(b"one\r\ntwo\r\n", id="CR LF"),
        pytest.param(b"one\rtwo\n", id="bare CR"),
        pytest.param(b"".join(b".%d  \t x\n" % n for n in range(60_000)), id="large"),
    ],
)
def test_what_leaves_verifies_with_both_keys(tmp_path: Path, body: bytes) -> None:
    message = heard(tmp_path, QUEUED.replace(b"from network", b"by uid 500") + FROM + b"\n" + body, b"r@x.test")
    assert message.count(b"DKIM-Signature: ") == 2
    assert verified_by_dkimpy(message) == [True, True]
    assert [each.result for each in outcomes(message.replace(b"\r\n", b"\n"))] == [b"pass", b"pass"]
    spoilt = message.replace(b"Subject: s", b"Subject: t")
    assert not any(verified_by_dkimpy(spoilt))


def test_a_batch_is_signed_once_and_a_subdomain_by_its_parent(tmp_path: Path) -> None:
    message = FROM.replace(b"a.example", b"sub.a.example") + b"\nx\n"
    text = heard(tmp_path, message, b"r@x.test", b"q@x.test")
    assert text.count(b" d=a.example;") == 2
    assert verified_by_dkimpy(text) == [True, True]


def test_other_domains_are_not_signed(tmp_path: Path) -> None:
    text = heard(tmp_path, FROM.replace(b"a.example", b"ba.example") + b"\nx\n", b"r@x.test")
    assert text == b"From: Ann <ann@ba.example>\r\nSubject: s\r\n\r\nx\r\n"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        pytest.param(QUEUED + session(b"SMTP") + FROM, b"a.example is not vouched for", id="a stranger's"),
        pytest.param(FROM + FROM, b"no single author", id="two authors"),
        pytest.param(FROM.replace(b"a.example", b"b.example"), b"", id="without a key"),
        pytest.param(FROM, b"", id="signed"),
    ],
)
def test_the_report_says_why_a_message_with_a_key_is_not_signed(tmp_path: Path, text: bytes, why: bytes) -> None:
    with smtp_peer(ACCEPTING) as peer:
        home = home_with_keys(tmp_path, peer.port)
        _, reports = run_program(MODULE, [b"x.test", b"s@y.test", b"r@x.test"], home, text + b"\nx\n")
    assert (b"\ndkim=none, " + why + b"\n" in reports) is bool(why)
    assert (b"dkim=none" in reports) is bool(why)


@pytest.mark.parametrize("trouble", ["others", "no key", "a password", "a directory", "no selector", "too many"])
def test_with_a_key_that_is_of_no_use_mail_waits(tmp_path: Path, trouble: str) -> None:
    home = home_with_keys(tmp_path)
    keys = home / "control" / "domainkeys" / "a.example"
    if trouble == "others":
        (keys / "e").chmod(0o644)
    elif trouble == "a directory":
        (keys / "d").mkdir()
    elif trouble == "no selector":
        (keys / "a key").write_bytes(PEM["e"])
    elif trouble == "too many":
        for number in range(8):
            (keys / str(number)).write_bytes(PEM["e"])
    else:
        (keys / "e").write_bytes(b"" if trouble == "no key" else b"-----BEGIN ENCRYPTED PRIVATE KEY-----\n")
    _, reports = run_program(MODULE, [b"x.test", b"s@y.test", b"r@x.test"], home, FROM + b"\nx\n")
    assert reports.startswith(b"ZUnable to use the DKIM key control/domainkeys/a.example"), reports
    (home / "control/nosignaturedomains").write_text("example\n")
    signer = Signer()
    assert signer.signatures(str(home), read_controls(str(home)), [FROM, b"\nx\n"]) == b""
    assert signer.why == b"a.example has a key of no use"


def test_a_key_is_read_anew_when_it_has_changed_and_set_aside_by_its_name(tmp_path: Path) -> None:
    home = home_with_keys(tmp_path)
    signer, controls = Signer(), read_controls(str(home))
    keys = home / "control" / "domainkeys" / "a.example"

    def signatures() -> int:
        return signer.signatures(str(home), controls, [FROM, b"\nx\n"]).count(b"DKIM-Signature: ")

    assert signatures() == signatures() == 2
    (keys / "e").rename(keys / "e.off")
    (keys / "r.pub").write_bytes(b"any")
    assert signatures() == 1
    (keys / "r").write_bytes(b"broken")
    with pytest.raises(TemporaryFailure):
        signatures()
    (keys / "r").unlink()
    assert read_keys(str(keys)) == []
    assert signatures() == 0


def test_a_full_disk_behind_a_filter_makes_mail_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a filter writes to a pipe is copied before it is signed."""
    reading, writing = os.pipe()
    os.write(writing, FROM + b"\nhello\n")
    os.close(writing)
    with open("/dev/full", "w+b", buffering=0) as full, open(reading, "rb"):
        monkeypatch.setattr(tempfile, "TemporaryFile", lambda buffering: full)
        with pytest.raises(TemporaryFailure):
            Message(reading).prepend(lambda pieces: b"".join(pieces))
