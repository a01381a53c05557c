"""DKIM: what is signed here verifies here and by dkimpy, and nothing else does (RFC 6376, 8301, 8463)."""

import base64
import json
import os
import subprocess
import time
import tracemalloc

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from hypothesis import given
from hypothesis import strategies as st

from pyqmail.mailauth import signing
from pyqmail.mailauth.canonical import BadHeader, BodyHash, parse_fields, signed_fields, split_message
from pyqmail.mailauth.dkim import SIGNATURES_MAX, Outcome, Verifier
from pyqmail.mailauth.lookups import TemporaryFailure
from pyqmail.mailauth.signing import SigningKey, UnusableKey, hash_body, load_key, sign
from pyqmail.protocol.dns import Kind
from tests.mailauth.zone import Zone

NOW = int(time.time())
RSA = generate_private_key(65537, 2048)
ED = Ed25519PrivateKey.generate()
HEADER = b"From: Ann <ann@a.example>\nTo: bob@b.example\nSubject: a  b\n\tc\nSubject: twice\nX-Other: x\n"
BODIES = [
    b"hello\n", b"", b"\n\n\n", b"a  b\t\nc \n\n\n", b"no end", b"abc \t", b"\t\t", b"\n\nx\n", b"8-bit \xff\xfe\n",
    b"x" * 3000 + b"\n", b".dot\n..\n", b" leading\n",
]  # fmt: skip


def public_record(key: RSAPrivateKey | Ed25519PrivateKey, flags: bytes = b"") -> bytes:
    if isinstance(key, RSAPrivateKey):
        data = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return b"v=DKIM1; k=rsa; " + flags + b"p=" + base64.b64encode(data)
    data = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    return b"v=DKIM1; k=ed25519; " + flags + b"p=" + base64.b64encode(data)


KEYS = [SigningKey(b"a.example", b"r", RSA), SigningKey(b"a.example", b"e", ED)]
RECORDS = {
    (b"r._domainkey.a.example", Kind.TXT): [public_record(RSA)],
    (b"e._domainkey.a.example", Kind.TXT): [public_record(ED)],
}


def signed(header: bytes, body: bytes, keys: list[SigningKey] = KEYS, now: int = NOW) -> bytes:
    return sign(parse_fields(header), hash_body([body]), keys, now) + header + b"\n" + body


def outcomes(message: bytes, records: object = RECORDS, *, piece: int = 0, author: bytes = b"") -> list[Outcome]:
    pieces = [message] if not piece else [message[at : at + piece] for at in range(0, len(message), piece)]
    header, body = split_message(pieces)
    verifier = Verifier(parse_fields(header), author, NOW)
    verifier.read_body(body)
    return verifier.outcomes(Zone(records))  # type: ignore[arg-type]


def results(message: bytes, records: object = RECORDS) -> list[bytes]:
    return [each.result for each in outcomes(message, records)]


@pytest.mark.parametrize("body", BODIES, ids=lambda body: repr(body[:12]))
def test_what_is_signed_here_verifies_here_in_pieces_of_any_size(body: bytes) -> None:
    message = signed(HEADER, body)
    for piece in (0, 1, 7):
        assert [each.result for each in outcomes(message, piece=piece)] == [b"pass", b"pass"]


@pytest.mark.parametrize("body", BODIES, ids=lambda body: repr(body[:12]))
def test_dkimpy_agrees(body: bytes) -> None:
    """Debian's dkimpy verifies ours, and we what it signs, by each canonical form."""
    if not os.path.exists("/usr/lib/python3/dist-packages/dkim"):
        assert "PYQMAIL_TESTS_WHOLE" not in os.environ, "python3-dkim is not installed"
        pytest.skip("python3-dkim is not installed")
    theirs = body if body.endswith(b"\n") or not body else body + b"\n"
    if body in (b"abc \t", b"\t\t"):
        theirs = body  # where it differs from the RFC: see the next test
    message = signed(HEADER, theirs, KEYS[:1]).replace(b"\n", b"\r\n")
    pem = RSA.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    told = {
        "verify": base64.b64encode(message).decode(), "key": public_record(RSA).decode(), "pem": pem.decode(),
        "sign": base64.b64encode((HEADER + b"\n" + theirs).replace(b"\n", b"\r\n")).decode(),
    }  # fmt: skip
    run = subprocess.run(["/usr/bin/python3", "-c", DKIMPY], input=json.dumps(told), capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    answer = json.loads(run.stdout)
    if theirs not in (b"abc \t", b"\t\t"):
        assert answer["verified"]
    for form, line in answer["signed"].items():
        ours = base64.b64decode(line).replace(b"\r\n", b"\n") + HEADER + b"\n" + theirs
        if form.endswith("simple") or theirs.endswith(b"\n") or not theirs:
            assert results(ours) == [b"pass"], form


DKIMPY = """
import base64, json, sys, dkim
told = json.load(sys.stdin)
key = told["key"].encode()
verified = dkim.verify(base64.b64decode(told["verify"]), dnsfunc=lambda name, timeout=5: key)
signed = {}
for head in b"simple", b"relaxed":
    for body in b"simple", b"relaxed":
        line = dkim.sign(base64.b64decode(told["sign"]), b"r", b"a.example", told["pem"].encode(),
                         canonicalize=(head, body), include_headers=[b"from", b"subject", b"subject", b"to"])
        signed[(head + b"/" + body).decode()] = base64.b64encode(line).decode()
print(json.dumps({"verified": verified, "signed": signed}))
"""


def test_a_last_line_without_end_has_its_blanks_taken_away() -> None:
    for text, same in ((b"abc \t", b"abc\n"), (b"\t\t", b"")):
        assert hash_body([text]) == hash_body([same])


@pytest.mark.parametrize(
    "change",
    [
        pytest.param((b"hello", b"hallo"), id="the body"),
        pytest.param((b"Subject: twice", b"Subject: thrice"), id="a signed field"),
        pytest.param((b"From: Ann", b"From: eve@e.example\nFrom: Ann"), id="another From above"),
        pytest.param((b"X-Other", b"From: eve@e.example\nX-Other"), id="another From below"),
        pytest.param((b"X-Other", b"Subject: new\nX-Other"), id="another subject"),
    ],
)
def test_a_change_is_noticed(change: tuple[bytes, bytes]) -> None:
    assert results(signed(HEADER, b"hello\n").replace(*change)) == [b"fail", b"fail"]


def test_a_signature_names_each_usual_field_and_what_nobody_may_add_once_more() -> None:
    field = signed(HEADER + b"Cc: c@c.example\nCC: d@c.example\n", b"x\n", KEYS[:1]).partition(b"From: Ann")[0]
    tags = dict(tag.strip().split(b"=", 1) for tag in field.partition(b":")[2].split(b";"))
    names = b"".join(tags[b"h"].split()).split(b":")
    assert names == b"from from reply-to subject subject subject date to to cc cc".split()
    assert tags[b"c"] == b"relaxed/relaxed" and b"l" not in tags


def test_a_name_in_other_letters_is_the_same_name(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [b"From", b"FROM", b"subject", b"SubJect", b"Subject"]
    monkeypatch.setattr(signing, "signed_fields", lambda fields, _: signed_fields(fields, [n.lower() for n in names]))
    monkeypatch.setattr(signing, "names_to_sign", lambda _: names)
    message = signed(HEADER, b"x\n")
    assert b"h=From:FROM:subject:SubJect:Subject;" in message
    assert results(message) == [b"pass", b"pass"]
    assert results(message.replace(b"twice", b"thrice")) == [b"fail", b"fail"]


def test_what_is_not_signed_may_change() -> None:
    message = signed(HEADER, b"hello\n").replace(b"X-Other: x", b"X-Other: y").replace(b"a  b\n\tc", b"a b c")
    assert results(b"Received: by x\n" + message) == [b"pass", b"pass"]


@pytest.mark.parametrize(
    ("record", "result"),
    [
        pytest.param(TemporaryFailure("silence"), b"temperror", id="nobody answers"),
        pytest.param(None, b"permerror", id="no key"),
        pytest.param([b"v=DKIM1; p="], b"permerror", id="revoked"),
        pytest.param([b"v=DKIM1; p=!!"], b"permerror", id="no base64"),
        pytest.param([b"v=DKIM1; p=AAAA"], b"permerror", id="no key in it"),
        pytest.param([b"v=DKIM2; p=AAAA"], b"permerror", id="another version"),
        pytest.param([public_record(ED)], b"permerror", id="a key of another kind"),
        pytest.param([public_record(RSA, b"h=sha1; ")], b"permerror", id="for other hashes"),
        pytest.param([public_record(RSA, b"s=other; ")], b"permerror", id="for other services"),
        pytest.param([public_record(RSA, b"t=y:s; ")], b"pass", id="for the domain itself"),
        pytest.param([b"something else", public_record(RSA)], b"pass", id="beside another record"),
        pytest.param([public_record(generate_private_key(65537, 1024))], b"fail", id="another key"),
    ],
)
def test_the_record_decides(record: object, result: bytes) -> None:
    records = {(b"r._domainkey.a.example", Kind.TXT): record} if record is not None else {}
    assert results(signed(HEADER, b"hello\n", KEYS[:1]), records) == [result]


def test_times_count_with_an_hour_of_slack() -> None:
    assert results(signed(HEADER, b"x\n", KEYS[:1], NOW + 3000)) == [b"pass"]
    assert results(signed(HEADER, b"x\n", KEYS[:1], NOW + 4000)) == [b"permerror"]
    expired = signed(HEADER, b"x\n", KEYS[:1]).replace(b"t=%d" % NOW, b"x=%d" % (NOW - 4000))
    assert results(expired) == [b"fail"]


@pytest.mark.parametrize(
    ("tag", "other", "result"),
    [
        pytest.param(b"v=1;", b"v=2;", b"permerror", id="another version"),
        pytest.param(b"rsa-sha256", b"rsa-sha1", b"policy", id="SHA-1"),
        pytest.param(b"rsa-sha256", b"dsa-sha256", b"permerror", id="an unknown algorithm"),
        pytest.param(b"h=from:from", b"h=date", b"permerror", id="From is not signed"),
        pytest.param(b"d=a.example", b"d=a..example", b"permerror", id="no name"),
        pytest.param(b"d=a.example", b"i=@b.example; d=a.example", b"permerror", id="an identity elsewhere"),
        pytest.param(b"d=a.example", b"d=a.example; d=b.example", b"permerror", id="a tag twice"),
        pytest.param(b"relaxed/relaxed", b"relaxed/other", b"permerror", id="an unknown form"),
    ],
)
def test_a_malformed_signature_is_no_pass(tag: bytes, other: bytes, result: bytes) -> None:
    assert results(signed(HEADER, b"x\n", KEYS[:1]).replace(tag, other, 1)) == [result]


def test_a_length_that_leaves_something_out_is_not_enough() -> None:
    body = BodyHash(b"relaxed", 0)
    assert body.digest() == hash_body([])
    limited = signed(HEADER, b"", KEYS[:1]).replace(b"v=1;", b"v=1; l=0;", 1)
    assert results(limited) == [b"fail"]  # the tag itself is signed


@pytest.mark.parametrize(
    ("limit", "result"),
    [
        pytest.param(0, b"policy", id="nothing of the body"),
        pytest.param(7, b"policy", id="its first line"),
        pytest.param(13, b"pass", id="all of it"),
        pytest.param(14, b"fail", id="more than there is"),
    ],
)
def test_a_signed_length_counts(limit: int, result: bytes) -> None:
    body = BodyHash(b"relaxed", limit)
    body.feed(b"hello\nmore\n")
    field = sign(parse_fields(HEADER), body.digest(), KEYS[:1], NOW, more=b" l=%d;" % limit)
    assert results(field + HEADER + b"\nhello\nmore\n") == [result]


@pytest.mark.parametrize(
    ("bits", "result"),
    [
        (1, b"permerror"),
        (2, b"permerror"),
        (512, b"policy"),
        (1023, b"policy"),
        (8193, b"permerror"),
        (16384, b"permerror"),
    ],
)
def test_keys_of_any_size_have_an_outcome(bits: int, result: bytes) -> None:
    number = (1 << (bits - 1)) | 1
    pair = tagged(0x02, number.to_bytes(bits // 8 + 1, "big")) + tagged(0x02, b"\1\0\1")
    algorithm = tagged(0x30, bytes.fromhex("06092a864886f70d0101010500"))
    public = base64.b64encode(tagged(0x30, algorithm + tagged(0x03, b"\0" + tagged(0x30, pair))))
    records = {(b"r._domainkey.a.example", Kind.TXT): [b"v=DKIM1; p=" + public]}
    assert results(signed(HEADER, b"x\n", KEYS[:1]), records) == [result]


def tagged(tag: int, data: bytes) -> bytes:
    """A value of DER."""
    size = len(data).to_bytes((len(data).bit_length() + 7) // 8, "big")
    return bytes([tag]) + (size if len(data) < 128 else bytes([0x80 | len(size)]) + size) + data


def test_only_some_signatures_are_looked_at_and_the_author_s_first() -> None:
    other = signed(HEADER, b"x\n", [SigningKey(b"b.example", b"r", RSA)]).partition(b"From:")[0]
    message = other * 1000 + signed(HEADER, b"x\n", KEYS[:1])
    found = outcomes(message, author=b"a.example")
    assert len(found) == SIGNATURES_MAX
    assert (found[0].domain, found[0].result) == (b"a.example", b"pass")


@pytest.mark.parametrize(
    "header",
    [
        pytest.param(b"From: a\nFrom b Mon\nTo: x\n", id="an mbox line in the middle"),
        pytest.param(b" blank\nFrom: a\n", id="a blank at the start"),
        pytest.param(b"Subj\xe9ct: x\n", id="8-bit in a name"),
        pytest.param(b"A: b\n" * 10001, id="too many fields"),
        pytest.param(b"A: " + b"b" * 1048576 + b"\n", id="too long"),
    ],
)
def test_a_header_that_readers_would_read_differently_is_none(header: bytes) -> None:
    with pytest.raises(BadHeader):
        parse_fields(header)


def test_a_blank_before_the_colon_is_legal() -> None:
    assert results(signed(HEADER.replace(b"To:", b"To :"), b"x\n")) == [b"pass", b"pass"]


def test_a_large_message_takes_no_memory() -> None:
    message = signed(HEADER, b"hello\n")
    header = message.partition(b"\n\n")[0] + b"\n"
    tracemalloc.start()
    try:
        verifier = Verifier(parse_fields(header), now=NOW)
        verifier.read_body(b"\n" * 65536 if n % 2 else b"x " * 32768 for n in range(480))
        assert tracemalloc.get_traced_memory()[1] < 8 << 20  # of 30 MiB
    finally:
        tracemalloc.stop()


def test_keys_come_in_any_usual_file() -> None:
    pems = [
        RSA.private_bytes(Encoding.PEM, form, NoEncryption())
        for form in (PrivateFormat.TraditionalOpenSSL, PrivateFormat.PKCS8)
    ]
    pems.append(ED.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    for pem in pems:
        for text in (pem, pem.replace(b"\n", b"\r\n")):
            assert load_key(b"a.example", b"s", text).sign(bytes(32))
    for bad in (
        b"",
        b"-----BEGIN",
        RSA.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x")),
    ):
        with pytest.raises(UnusableKey):
            load_key(b"a.example", b"s", bad)


@given(st.binary(max_size=300))
def test_any_signature_field_has_an_outcome(text: bytes) -> None:
    field = b"DKIM-Signature: " + text.replace(b"\n", b" ") + b"\n"
    for each in outcomes(field + HEADER + b"\nx\n"):
        assert each.result in (b"pass", b"fail", b"policy", b"permerror", b"temperror")


@given(st.lists(st.sampled_from([b" ", b"\t", b"\n", b"a", b"\r", b"bc"]), max_size=40), st.integers(1, 5))
def test_pieces_do_not_matter(words: list[bytes], size: int) -> None:
    text = b"".join(words)
    for form in (b"simple", b"relaxed"):
        whole, parts = BodyHash(form), BodyHash(form)
        whole.feed(text)
        for at in range(0, len(text), size):
            parts.feed(text[at : at + size])
        assert whole.digest() == parts.digest()
