"""DANE with signed zones (nsd), a resolver that validates (unbound), and servers whose certificates fit or do not."""

import hashlib
import os
import shutil
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509 import load_pem_x509_certificate

from pyqmail.remote.dane import NO_TLSA, Dane, Keys, validates
from pyqmail.remote.security import LeftOut
from pyqmail.remote.tlsa import Tlsa, Usage
from pyqmail.resolver import Resolver, Servers
from tests.certificates import self_signed, server_context, signed_by
from tests.loopback import free_port
from tests.mail_sink import Transaction, accept_all, mail_sink
from tests.scripted_peers import remote_home, run_program
from tests.signed_zones import validating_resolver

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not all(shutil.which(name, path="/usr/sbin:/usr/bin") for name in ("nsd", "unbound")),
    reason="needs root, nsd and unbound",
)
MODULE = "pyqmail.programs.qmail_remote"
# below dane.test: what TLSA says of the server there, and the certificate that it has
FITTING = {"ee-key": "3 1 1 key", "ee-whole": "3 0 2 whole", "ee-itself": "3 0 0 whole", "ee-old": "3 1 1 old-key"}
SIGNED = {"ta-key": "2 1 1 ca-key", "ta-whole": "2 0 0 ca"}
ODD = {"pkix": "1 1 1 key", "unknown": "3 1 9 key"}


def digest(data: bytes, matching: str) -> str:
    """What a record has of ``data``."""
    known = {"0": data, "1": hashlib.sha256(data).digest(), "2": hashlib.sha512(data).digest()}
    return known.get(matching, b"?").hex()


def tlsa(words: str, files: dict[str, Path]) -> str:
    """The data of a TLSA record: usage, selector and matching, and of what."""
    usage, selector, matching, of = words.split()
    pem = files[of.removesuffix("-key").removesuffix("key").removesuffix("whole") or "mx"]
    certificate = load_pem_x509_certificate(pem.read_bytes())
    der = certificate.public_bytes(Encoding.DER)
    key = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return f"{usage} {selector} {matching} {digest(key if selector == '1' else der, matching)}"


@dataclass(frozen=True)
class World:
    """The ports of the resolver, of the name server behind it and of mail servers, and certificates by name."""

    resolver: int
    authority: int
    mail: int
    files: dict[str, Path]

    def dane(self, domain: bytes, *, relay: bool = False) -> Dane:
        servers = Servers((("127.0.0.1", self.resolver),))
        return Dane(Resolver(servers, dnssec=True), domain, port=self.mail, relay=relay)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("dane")
    ca = self_signed(folder, "ca.test")
    files = {"mx": self_signed(folder), "ca": ca, "old": signed_by(ca, folder, "old.test", days=-1)}
    for name in (*SIGNED, "other"):
        files[name] = signed_by(ca, folder, f"{name}.dane.test")
    files["ta-key"].write_bytes(files["ta-key"].read_bytes() + ca.read_bytes())  # it shows its authority too
    port = free_port()
    lines = ["ns A 127.0.0.1", "@ MX 10 ee-key", "@ MX 20 mx.plain.test.", "none A 127.0.0.1", "lost A 127.0.0.1"]
    for name, words in {**FITTING, **SIGNED, **ODD}.items():
        lines += [f"{name} A 127.0.0.1", f"_{port}._tcp.{name} TLSA {tlsa(words, files)}"]
    lines += [
        "_tcp.lost NS ns",
        "alias CNAME ee-key",
        "six AAAA ::1",
        f"_{port}._tcp.six TLSA {tlsa('3 1 1 key', files)}",
    ]
    record = f"_{port}._tcp.mx TLSA {tlsa('3 1 1 key', files)}"
    bogus = {"bogus.test": ["a A 127.0.0.1"], "_tcp.lost.dane.test": [f"_{port} TLSA {tlsa('3 1 1 key', files)}"]}
    plain = {"plain.test": ["mx A 127.0.0.1", record, "@ MX 10 ee-key.dane.test."]}
    with validating_resolver({"dane.test": lines}, bogus, plain) as (resolver, authority):
        yield World(resolver, authority, port, files)


def offers_tls(line: bytes, transaction: Transaction) -> bytes | None:
    return b"250-x\r\n250 STARTTLS\r\n" if line[:4] == b"EHLO" else accept_all(line, transaction)


def deliver(
    world: World, folder: Path, relay: str, certificate: str, *, asked: str = "*:dane", dns: int = 0, **controls: str
) -> bytes:
    """The reports of a delivery to ``relay``, which has that certificate; none: it offers no TLS."""
    home = remote_home(
        folder,
        smtproutes=f":{relay}:{world.mail}",
        dnsservers=f"127.0.0.1:{dns or world.resolver}",
        tlsdestinations=asked,
        danetest="none.dane.test\na.bogus.test",
        **controls,
    )
    context: ssl.SSLContext | None = server_context(world.files[certificate]) if certificate else None
    with mail_sink(offers_tls if context else accept_all, port=world.mail, context=context):
        status, reports = run_program(MODULE, [b"x.test", b"s@y.test", b"r@x.test"], home, b"Subject: x\n\nhello\n")
    assert status == 0
    return reports


VERIFIED, BROKEN = b"verified by dane", b"TLS failed: certificate: it is not what TLSA records say. (#4.7.5)"


@pytest.mark.parametrize(
    ("relay", "certificate", "outcome"),
    [
        *(pytest.param(f"{name}.dane.test", "mx", VERIFIED, id=name) for name in ("ee-key", "ee-whole", "ee-itself")),
        pytest.param("ee-old.dane.test", "old", VERIFIED, id="an expired certificate that is the one"),
        pytest.param("ee-key.dane.test", "old", BROKEN, id="another certificate"),
        pytest.param("ee-key.dane.test", "", b"but TLS was not offered. (#4.7.4)", id="no TLS"),
        pytest.param("alias.dane.test", "mx", VERIFIED, id="an alias, whose end has the record"),
        pytest.param("ta-key.dane.test", "ta-key", VERIFIED, id="an authority that the server shows"),
        pytest.param("ta-whole.dane.test", "ta-whole", VERIFIED, id="an authority in the record"),
        pytest.param("ta-whole.dane.test", "other", BROKEN, id="an authority, for another name"),
        pytest.param("ta-key.dane.test", "mx", BROKEN, id="not signed by the authority"),
        pytest.param("pkix.dane.test", "old", b"encrypted by dane", id="a record that is not for mail"),
        pytest.param("unknown.dane.test", "old", b"encrypted by dane", id="a record of an unknown kind"),
        pytest.param("none.dane.test", "old", b"opportunistic", id="no record"),
        pytest.param("mx.plain.test", "old", b"opportunistic", id="a record in a zone without signatures"),
        pytest.param("[127.0.0.1]", "old", b"opportunistic", id="an address"),
        pytest.param("lost.dane.test", "mx", NO_TLSA, id="a record that cannot be looked up"),
    ],
)
def test_a_server_is_what_its_records_say(
    world: World, tmp_path: Path, relay: str, certificate: str, outcome: bytes
) -> None:
    reports = deliver(world, tmp_path, relay, certificate)
    delivered = outcome not in (BROKEN, NO_TLSA) and certificate != ""
    assert reports.startswith(b"r\0K" if delivered else b"Z") and reports.rstrip(b"\n\0").endswith(outcome), reports


@pytest.mark.parametrize(
    ("asked", "outcome"),
    [("*:may", b"opportunistic"), ("x.test:dane", VERIFIED), ("x.test:encrypt\n*:dane", b"encrypted by file")],
)
def test_who_asks_for_it(world: World, tmp_path: Path, asked: str, outcome: bytes) -> None:
    assert deliver(world, tmp_path, "ee-key.dane.test", "mx", asked=asked).endswith(outcome + b"\n\0")


def test_a_rehearsal_says_what_would_have_waited(world: World, tmp_path: Path) -> None:
    reports = deliver(world, tmp_path, "ee-key.dane.test", "old", tlspolicy="say")
    assert reports.startswith(b"r\0K") and b"rehearsal: " in reports and b"TLSA" in reports, reports


def test_a_resolver_that_does_not_validate_switches_it_off(world: World, tmp_path: Path) -> None:
    reports = deliver(world, tmp_path, "ee-key.dane.test", "old", dns=world.authority)
    assert reports.endswith(b"tls=TLSv1.3, opportunistic, no dane: the resolver does not validate\n\0")


def test_qmail_explain_shows_the_records(world: World, tmp_path: Path) -> None:
    home = remote_home(
        tmp_path,
        smtproutes=f":ee-key.dane.test:{world.mail}",
        dnsservers=f"127.0.0.1:{world.resolver}",
        tlsdestinations="*:dane",
        danetest="none.dane.test\na.bogus.test",
    )
    status, said = run_program("pyqmail.programs.qmail_explain", [b"r@x.test"], home)
    assert status == 0 and b"TLS with a certificate as TLSA says: 3 1 1 " in said, said


@pytest.mark.parametrize(
    ("signed", "bogus", "passes"),
    [
        (b"none.dane.test", b"a.bogus.test", True),
        (b"nobody.dane.test", b"a.bogus.test", True),
        (b"mx.plain.test", b"a.bogus.test", False),
        (b"a.bogus.test", b"a.bogus.test", False),
        (b"none.dane.test", b"mx.plain.test", False),
    ],
)
def test_the_test_of_the_resolver(world: World, signed: bytes, bogus: bytes, passes: bool) -> None:
    resolver = Resolver(Servers((("127.0.0.1", world.resolver),)), dnssec=True)
    assert validates(resolver, (signed, bogus)) is passes


def test_names_and_what_is_signed_of_the_way_there(world: World) -> None:
    """RFC 7672 section 2.2: MX records that are signed, those that are not, none; and aliases."""
    key = digest(
        load_pem_x509_certificate(world.files["mx"].read_bytes())
        .public_key()
        .public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        "1",
    )
    records = (Tlsa(Usage.END_ENTITY, True, "sha256", bytes.fromhex(key)),)
    host = b"ee-key.dane.test"
    assert world.dane(b"dane.test").of(host) == Keys(records, (host, b"dane.test"), via_signed=True)
    assert world.dane(b"plain.test").of(host) == Keys(records, (host,), via_signed=False)
    assert world.dane(b"dane.test").of(b"six.dane.test") == Keys(records, (b"six.dane.test",), via_signed=False)
    assert world.dane(host).of(host) == Keys(records, (host,), via_signed=True)  # without MX records
    assert world.dane(b"x.test", relay=True).of(host) == Keys(records, (host,), via_signed=True)
    alias = b"alias.dane.test"
    assert world.dane(alias).of(alias) == Keys(records, (host, alias), via_signed=True)
    assert world.dane(b"dane.test").of(b"mx.plain.test") is None
    with pytest.raises(LeftOut):
        world.dane(b"dane.test").of(b"lost.dane.test")
    with pytest.raises(LeftOut):
        world.dane(b"a.bogus.test").of(host)
