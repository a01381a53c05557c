"""qmail-explain --mail-from: the steps, and that the verdict is that of qmail-smtpd for the same message."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.incoming.test_sender_authentication import TEXT, message, name_server, send, verifier
from tests.programs.door import BIN, DEADLINE_S, Door, door_of

__all__ = ["name_server"]
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the name server needs port 53, the service another user")
CLIENT = "192.0.2.7"  # that of Door


@pytest.fixture
def door(name_server: str) -> Iterator[Door]:  # noqa: F811
    with door_of("qmail-smtpd") as made:
        (made.base / "run/incoming").mkdir(parents=True)
        made.base.chmod(0o755)
        made.control(dnsservers=name_server, spfbehavior="1", dmarcbehavior="3")
        yield made


def explain(door: Door, *words: str, text: bytes | None = None) -> tuple[int, str]:
    """Exit code and lines; ``text`` is in a file that root alone may read."""
    if text is not None:
        path = Path(door.base / "text")
        path.write_bytes(text)
        path.chmod(0o600)
        words = (*words, "--message", str(path))
    command = [str(BIN / "qmail-explain"), "--from", CLIENT, "--rules", "/nowhere", *words]
    environ = {"QMAIL_HOME": str(door.base), "PATH": os.environ["PATH"]}
    done = subprocess.run(command, env=environ, capture_output=True, timeout=DEADLINE_S, check=False)
    assert done.stderr == b""
    return done.returncode, done.stdout.decode()


def test_each_step_is_told(door: Door) -> None:
    code, told = explain(door, "--mail-from", "ann@strict.example", "--helo", "c.example", text=message())
    lines = [" ".join(line.split()) for line in told.splitlines()]
    assert code == 0 and lines[-1] == "verdict: deliverable: by SPF, DKIM and DMARC"
    for expected in (
        "spf: strict.example: v=spf1 -all",
        "spf: -all: yes",
        "dns: TXT strict.example: found",
        "dns: TXT r._domainkey.strict.example: found",
        "dkim signature: pass: strict.example, selector r, rsa-sha256, 2048-bit rsa",
        "dns: TXT _dmarc.strict.example: found",
        "dns: TXT _dmarc.example: no such name",
        "dmarc record: _dmarc.strict.example: v=DMARC1; p=reject",
        "alignment: strict.example for From strict.example",
        "dmarc: pass",
    ):
        assert expected in lines, told
    assert any(line.startswith("field: Authentication-Results: mx.test; spf=fail ") for line in lines), told


@pytest.mark.parametrize(
    ("controls", "sender", "text"),
    [
        pytest.param({}, "ann@strict.example", TEXT + b"\nhello\n", id="neither signed nor sent"),
        pytest.param({}, "ann@strict.example", message().replace(b"hello", b"hallo"), id="changed on the way"),
        pytest.param({}, "ann@strict.example", message().replace(b"\n", b"\r\n"), id="signed, with CR LF"),
        pytest.param({"dmarcbehavior": "1"}, "ann@strict.example", TEXT + b"\nhello\n", id="rehearsed"),
        pytest.param({"spfbehavior": "3"}, "a@alone.example", TEXT + b"\nhello\n", id="by SPF"),
        pytest.param({"spfbehavior": "0", "dmarcbehavior": "0"}, "a@alone.example", TEXT + b"\nx\n", id="off"),
    ],
)
def test_the_verdict_is_what_happens(door: Door, controls: dict[str, str], sender: str, text: bytes) -> None:
    door.control(**controls)
    code, told = explain(door, "--mail-from", sender, "--helo", "c.example", text=text)
    with verifier(door):
        replies = send(door, text.replace(b"\r\n", b"\n"), sender.encode())
    refusals = [line.decode() for line in replies if line[:1] in b"45" and not line.startswith((b"503", b"502"))]
    verdict = told.splitlines()[-1]
    if refusals:
        assert code == 100 and refusals[0] in verdict, told
    else:
        assert code == 0 and verdict.split()[1] == "deliverable:", told


def test_rehearsal_and_a_server_that_does_not_look_are_said(door: Door) -> None:
    door.control(spfbehavior="0", dmarcbehavior="0")
    code, told = explain(door, "--mail-from", "ann@strict.example", text=TEXT + b"\nx\n")
    assert code == 0
    assert "0: the server does not look" in told and "rehearsal:      dmarc:strict.example" in told


def test_every_line_is_an_object_where_json_is_wanted(door: Door) -> None:
    code, told = explain(door, "--json", "--mail-from", "ann@strict.example", text=TEXT + b"\nx\n")
    found = [json.loads(line) for line in told.splitlines()]
    assert code == 100
    assert {"rule": "dmarc", "text": "fail"} in found and found[-1]["rule"] == "verdict"


def test_wrong_words_and_files(door: Door) -> None:
    assert explain(door, "--mail-from", "a@strict.example", "--message", "/nowhere/x")[0] == 111
    done = subprocess.run([BIN / "qmail-explain", "--mail-from", "a@b.example"], capture_output=True, check=False)
    assert done.returncode == 100 and done.stderr.startswith(b"qmail-explain: usage")
