"""ARC chains (RFC 8617): ours made for the test, with one set and two; Debian's dkimpy says the same of each."""

import base64
import hashlib
import json
import os
import subprocess

import pytest

from pyqmail.mailauth.arc import ArcVerifier, Chain
from pyqmail.mailauth.canonical import parse_fields, relaxed_field, split_message
from pyqmail.mailauth.signing import SigningKey, hash_body
from pyqmail.protocol.dns import Kind
from tests.mailauth.test_dkim import HEADER, NOW, RSA, public_record
from tests.mailauth.zone import Zone

BODY = b"hello\n"
KEY = SigningKey(b"a.example", b"r", RSA)
RECORDS = {(b"r._domainkey.a.example", Kind.TXT): [public_record(RSA)]}


def tail(field: bytes, hashed: bytes) -> bytes:
    digest = hashlib.sha256(hashed + relaxed_field(field).removesuffix(b"\r\n")).digest()
    return field + base64.b64encode(KEY.sign(digest)) + b"\n"


def sealed(header: bytes, sets: list[bytes]) -> list[bytes]:
    """``sets`` and one more: results, signature and seal of each as one text."""
    number = len(sets) + 1
    results = b"ARC-Authentication-Results: i=%d; mx.test; none\n" % number
    fields = {field.name: field.text for field in parse_fields(header)}
    signature = tail(
        b"ARC-Message-Signature: i=%d; a=rsa-sha256; d=a.example; s=r; c=relaxed/relaxed; h=from; bh=%b; b="
        % (number, base64.b64encode(hash_body([BODY]))),
        relaxed_field(fields[b"from"]),
    )
    seal = b"ARC-Seal: i=%d; a=rsa-sha256; d=a.example; s=r; cv=%b; b=" % (number, b"pass" if sets else b"none")
    before = b"".join(relaxed_field(field.text) for each in sets for field in parse_fields(each))
    return [*sets, results + signature + tail(seal, before + relaxed_field(results) + relaxed_field(signature))]


def chain(message: bytes) -> Chain:
    header, body = split_message([message])
    verifier = ArcVerifier(parse_fields(header), NOW)
    verifier.read_body(body)
    return verifier.chain(Zone(RECORDS))


def message(count: int) -> bytes:
    sets: list[bytes] = []
    for _ in range(count):
        sets = sealed(HEADER, sets)
    return b"".join(reversed(sets)) + HEADER + b"\n" + BODY


def test_a_chain_passes_whole() -> None:
    assert chain(message(0)).result == b"none"
    assert chain(message(1)).result == b"pass"
    assert chain(message(3)).result == b"pass"


CHANGES = [
    pytest.param((b"hello", b"hallo"), id="the body"),
    pytest.param((b"From: Ann", b"From: Eve"), id="a signed field"),
    pytest.param((b"cv=pass", b"cv=fail"), id="a seal that says fail"),
    pytest.param((b"i=1; mx.test; none", b"i=1; mx.test; spf=pass"), id="an older result"),
    pytest.param((b"ARC-Seal: i=1", b"X-Seal: i=1"), id="a seal is missing"),
    pytest.param((b"ARC-Seal: i=1", b"ARC-Seal: i=9"), id="an instance is missing"),
]


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_breaks_it(change: tuple[bytes, bytes]) -> None:
    assert change[0] in message(2)
    assert chain(message(2).replace(*change)).result == b"fail"


DKIMPY = """
import base64, json, sys, dkim
told = json.load(sys.stdin)
def verdict(text):
    return dkim.arc_verify(base64.b64decode(text), dnsfunc=lambda name, timeout=5: told["key"].encode())[0]
print(json.dumps([(verdict(text) or b"fail").decode() for text in told["messages"]]))
"""


def test_dkimpy_agrees() -> None:
    if not os.path.exists("/usr/lib/python3/dist-packages/dkim"):
        assert "PYQMAIL_TESTS_WHOLE" not in os.environ, "python3-dkim is not installed"
        pytest.skip("python3-dkim is not installed")
    changed = [message(2).replace(*change.values[0]) for change in CHANGES]  # type: ignore[misc]
    made = [message(0), message(1), message(2), message(3), *changed]
    lines = [base64.b64encode(text.replace(b"\n", b"\r\n")).decode() for text in made]
    told = json.dumps({"key": public_record(RSA).decode(), "messages": lines})
    run = subprocess.run(["/usr/bin/python3", "-c", DKIMPY], input=told, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout) == [chain(text).result.decode() for text in made]
