"""qmail-showctl --check dns: a real name server has our domains, one as they should be and one as they should not."""

import base64
import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from pyqmail.admin.certificates import self_signed
from pyqmail.remote.dane_match import matches_any
from pyqmail.remote.tlsa import parse_tlsa
from tests.nameserver import nameserver, own_network
from tests.public_directory import public_directory

ROOT = Path(__file__).resolve().parents[2]
FORMS = (Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
RSA = rsa.generate_private_key(65537, 2048)
EDWARDS = ed25519.Ed25519PrivateKey.generate()
OTHER = rsa.generate_private_key(65537, 2048)
PEM = self_signed("mx.good.test")
LEAF = x509.load_pem_x509_certificate(PEM[PEM.index(b"-----BEGIN CERT") :])
SPKI = LEAF.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def key_record(key: rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey) -> str:
    """The TXT record of a public half, in strings that fit."""
    if isinstance(key, ed25519.Ed25519PrivateKey):
        text = "v=DKIM1; k=ed25519; p=" + base64.b64encode(key.public_key().public_bytes_raw()).decode()
    else:
        der = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        text = "v=DKIM1; p=" + base64.b64encode(der).decode()
    return " ".join(f'"{text[at : at + 200]}"' for at in range(0, len(text), 200))


GOOD = [
    "@ MX 10 mx", "mx A 192.0.2.25", '@ TXT "v=spf1 mx -all"',
    '_dmarc TXT "v=DMARC1; p=reject; rua=mailto:d@good.test"',
    f"r._domainkey TXT {key_record(RSA)}", f"e._domainkey TXT {key_record(EDWARDS)}",
    '_mta-sts TXT "v=STSv1; id=20261128"', f"_25._tcp.mx TLSA 3 1 1 {hashlib.sha256(SPKI).hexdigest()}",
]  # fmt: skip
BAD = [
    "@ MX 10 mx.good.test.", "@ MX 20 nowhere", '@ TXT "v=spf1 ip4:203.0.113.1 -all"',
    f"r._domainkey TXT {key_record(OTHER)}", '_mta-sts TXT "v=STSv1; nothing"',
]  # fmt: skip
REVERSE = {"2.0.192.in-addr.arpa": ["25 PTR mx.good.test.", "26 PTR mx.good.test."]}


@pytest.fixture(scope="module")
def tree() -> Iterator[Path]:
    """A tree whose domains a name server of the test knows."""
    if os.geteuid() != 0:
        pytest.skip("needs root: a name server, and keys that only root reads")
    address = own_network() + ".41"
    with public_directory() as home, nameserver(address, {"test": [], "good.test": GOOD, "bad.test": BAD, **REVERSE}):
        (home / "control" / "domainkeys").mkdir(parents=True)
        controls = {"me": "mx.good.test", "locals": "good.test\nbad.test\nlocalhost", "outgoingip": "192.0.2.25"}
        for name, text in (controls | {"dnsservers": address}).items():
            (home / "control" / name).write_text(text + "\n")
        for domain, keys in (("good.test", {"r": RSA, "e": EDWARDS}), ("bad.test", {"r": RSA, "gone": RSA})):
            (home / "control" / "domainkeys" / domain).mkdir()
            for selector, key in keys.items():
                path = home / "control" / "domainkeys" / domain / selector
                path.write_bytes(key.private_bytes(*FORMS))
                path.chmod(0o400)
        (home / "control" / "servercert.pem").write_bytes(PEM)
        (home / "control" / "servercert.pem").chmod(0o400)
        yield home


def look(home: Path, *words: str) -> tuple[int, list[str]]:
    """The exit code, and the lines."""
    command = [ROOT / "bin" / "qmail-showctl", "--check", "dns", *words]
    done = subprocess.run(command, env={"QMAIL_HOME": str(home)}, capture_output=True, timeout=120, check=False)
    assert done.stderr == b""
    return done.returncode, done.stdout.decode().splitlines()


def test_a_domain_as_it_should_be(tree: Path) -> None:
    code, lines = look(tree, "good.test")
    assert lines == [
        f"qmail-showctl: ok: {line}"
        for line in (
            "192.0.2.25: ptr: mx.good.test, and back",
            "good.test: mx: mx.good.test",
            "good.test: spf: mail from 192.0.2.25 passes by mx",
            "good.test: dkim: e._domainkey (ed25519): ed25519, that of control/domainkeys",
            "good.test: dkim: r._domainkey (rsa): 2048-bit rsa, that of control/domainkeys",
            "good.test: dmarc: the record asks for reject",
            "good.test: mta-sts: a policy is announced, at https://mta-sts.good.test/.well-known/mta-sts.txt",
            "mx.good.test: tlsa: a record is met by the certificate",
        )
    ]
    assert code == 0


def test_a_domain_as_it_should_not_be(tree: Path) -> None:
    code, lines = look(tree, "bad.test", "missing.good.test")
    warnings = "\n".join(line for line in lines if "warning" in line)
    assert code == 1
    for text in (
        "bad.test: mx: nowhere.bad.test has no address",
        "bad.test: spf: mail from 192.0.2.25 has the result fail: -all",
        "bad.test: dkim: r._domainkey (rsa): DNS has another key than control/domainkeys",
        "bad.test: dkim: gone._domainkey (rsa): no key",
        "bad.test: dmarc: there is no record",
        "bad.test: mta-sts: its record is malformed",
        "missing.good.test: mx: there is no such name in DNS",
        "missing.good.test: spf: there is no record: v=spf1 ip4:192.0.2.25 -all would",
        "missing.good.test: dkim: no key in control/domainkeys/missing.good.test",
    ):
        assert text in warnings


def test_json_has_the_same_for_all_our_domains(tree: Path) -> None:
    found = [json.loads(line) for line in look(tree, "--json")[1]]
    assert {each["about"] for each in found} == {"192.0.2.25", "good.test", "bad.test", "mx.good.test"}
    assert {(each["check"], each["good"]) for each in found if each["about"] == "good.test"} == {
        (name, True) for name in ("mx", "spf", "dkim", "dmarc", "mta-sts")
    }


def test_an_address_that_leads_elsewhere_and_another_certificate(tree: Path, tmp_path: Path) -> None:
    with public_directory() as home:
        shutil.copytree(tree / "control", home / "control")
        (home / "control" / "outgoingip").write_text("192.0.2.26\n")
        (home / "control" / "servercert.pem").write_bytes(self_signed("mx.good.test"))
        lines = "\n".join(look(home, "good.test")[1])
    assert "warning: 192.0.2.26: ptr: its name mx.good.test does not lead back to it" in lines
    assert "warning: mx.good.test: tlsa: no record is met by the certificate" in lines


def test_servers_that_do_not_answer_are_no_verdict(tree: Path) -> None:
    with public_directory() as home:
        shutil.copytree(tree / "control", home / "control")
        (home / "control" / "dnsservers").write_text(own_network() + ".42\n")
        lines = look(home, "good.test")[1]
    assert all("warning" in line and "no answer" in line for line in lines if ": dkim:" not in line)
    assert "no answer" in "\n".join(lines) and not any("no key" in line for line in lines)


@pytest.mark.parametrize(
    ("record", "met"),
    [
        pytest.param(bytes((3, 1, 1)) + hashlib.sha256(SPKI).digest(), True, id="3 1 1"),
        pytest.param(bytes((3, 0, 2)) + hashlib.sha512(LEAF.public_bytes(Encoding.DER)).digest(), True, id="3 0 2"),
        pytest.param(bytes((3, 1, 0)) + SPKI, True, id="3 1 0"),
        pytest.param(bytes((3, 1, 1)) + hashlib.sha256(b"").digest(), False, id="another key"),
        pytest.param(bytes((2, 1, 1)) + hashlib.sha256(SPKI).digest(), False, id="an issuer, not the server itself"),
        pytest.param(bytes((1, 1, 1)) + hashlib.sha256(SPKI).digest(), None, id="a usage that mail has not"),
        pytest.param(b"\3", None, id="too short"),
    ],
)
def test_tlsa(record: bytes, met: bool | None) -> None:
    parsed = parse_tlsa(record)
    assert (parsed is not None) is (met is not None)
    if parsed is not None:
        assert matches_any([parsed], [LEAF.public_bytes(Encoding.DER)], [b"mx.good.test"]) is met
