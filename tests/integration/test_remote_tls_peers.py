"""qmail-remote and other people's servers, each with certificates that will do and others that will not.

A row asks for one by file or by DANE.
A server has an address, and a name in a signed zone, for each certificate.
"""

import hashlib
import os
import re
import shutil
import socket
import ssl
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509 import load_pem_x509_certificate

from tests.certificates import self_signed, signed_by
from tests.integration import dovecot_lmtp
from tests.integration.receivers import DOMAIN, Exim, Opensmtpd, Postfix, Receiver, unpacked
from tests.loopback import free_port
from tests.scripted_peers import remote_home, run_program
from tests.signed_zones import validating_resolver
from tests.waiting import wait_for

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not all(shutil.which(name, path="/usr/sbin:/usr/bin") for name in ("nsd", "unbound")),
    reason="needs root, nsd and unbound",
)
MODULE = "pyqmail.programs.qmail_remote"
ADDRESSES = {"good": "127.0.0.1", "expired": "127.0.0.2", "self": "127.0.0.3", "other": "127.0.0.4"}
# by name of a box: at which name in dane.test, what control/tlsdestinations asks there, and what comes of it
ROWS = {
    "may": ("expired", "may", b"opportunistic"),
    "encrypt": ("self", "encrypt", b"encrypted by file"),
    "good": ("good", "verify|CA", b"verified by file"),
    "expired": ("expired", "verify|CA", b"certificate: certificate has expired"),
    "self": ("self", "verify|CA", b"certificate: self-signed certificate"),
    "other": ("other", "verify|CA", b"certificate: it is for another name"),
    "dane": ("good", "dane", b"verified by dane"),
    "dane-expired": ("expired", "dane", b"verified by dane"),
    "dane-self": ("self", "dane", b"verified by dane"),
    "dane-other": ("other", "dane", b"certificate: it is not what TLSA records say"),
    "dane-broken": ("broken", "dane", b"certificate: it is not what TLSA records say"),
}
EXPECTED = {box: outcome for box, (_, _, outcome) in ROWS.items()}
DELIVERED = tuple(box for box, outcome in EXPECTED.items() if not outcome.startswith(b"certificate: "))
WIRE = b"hello \xe9\n.\n"
_OUTCOME = re.compile(rb"\0K(?s:.*)\ntls=TLSv1\.3, (.*)\n\0\Z|\0?Z.* but TLS failed: (.*)\. \(#4\.7\.5\)\n")


@dataclass(frozen=True)
class World:
    """The port of a resolver that validates, that of the servers, who signs, and what they show by address."""

    resolver: int
    port: int
    authority: Path
    pems: Mapping[str, Path]

    def deliver(self, folder: Path, box: str, options: str = "") -> bytes:
        """The reports of the delivery in a row of ROWS."""
        name, asked, _ = ROWS[box]
        folder.mkdir()
        home = remote_home(
            folder,
            smtproutes=f":{name}.dane.test:{self.port}{options}",
            dnsservers=f"127.0.0.1:{self.resolver}",
            tlsdestinations=f"*:{asked.replace('CA', str(self.authority))}",
            danetest="good.dane.test\na.bogus.test",
        )
        words = [DOMAIN.encode(), b"s@sender.test", f"{box}@{DOMAIN}".encode()]
        status, reports = run_program(MODULE, words, home, b"Subject: x\n\n" + WIRE)
        assert status == 0
        return reports

    def outcomes(self, folder: Path, options: str = "") -> dict[str, bytes]:
        """By box, how a delivery was secured, or what is wrong; the whole report where it says neither."""

        def outcome(box: str) -> bytes:
            reports = self.deliver(folder / box, box, options)
            found = _OUTCOME.search(b"\0" + reports)
            return (found[1] or found[2]) if found else reports

        with ThreadPoolExecutor(4) as pool:
            return dict(zip(ROWS, pool.map(outcome, ROWS), strict=True))


def key_record(pem: Path) -> str:
    """The TLSA record for the key of a certificate: usage 3, or 2 where it is to sign the one that is shown."""
    key = load_pem_x509_certificate(pem.read_bytes()).public_key()
    digest = hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()
    return f"{2 if pem.name.startswith('ca.test') else 3} 1 1 {digest}"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("peers")
    authority, port = self_signed(folder, "ca.test"), free_port()
    other = signed_by(authority, folder, "another.test")
    for pem in (other, other.with_suffix(".crt")):  # who signed it is shown, too
        pem.write_bytes(pem.read_bytes() + authority.with_suffix(".crt").read_bytes())
    files = {
        "good": signed_by(authority, folder, "good.dane.test"),
        "expired": signed_by(authority, folder, "expired.dane.test", days=-1),
        "self": self_signed(folder, "self.dane.test"),
        "other": other,
    }
    says = {**files, "other": authority, "broken": files["self"]}
    lines = ["ns A 127.0.0.1"]
    for name, pem in says.items():
        lines += [f"{name} A {ADDRESSES.get(name, ADDRESSES['good'])}", f"_{port}._tcp.{name} TLSA {key_record(pem)}"]
    with validating_resolver({"dane.test": lines}, {"bogus.test": ["a A 127.0.0.1"]}, {}) as (resolver, _):
        yield World(resolver, port, authority, {ADDRESSES[name]: pem for name, pem in files.items()})


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(
            Postfix,
            id="Postfix",
            marks=pytest.mark.skipif(shutil.which("postfix", path="/usr/sbin") is None, reason="needs postfix"),
        ),
        pytest.param(Exim, id="Exim", marks=pytest.mark.skipif(not unpacked("exim4"), reason="needs exim4")),
        pytest.param(
            Opensmtpd, id="OpenSMTPD", marks=pytest.mark.skipif(not unpacked("smtpd"), reason="needs OpenSMTPD")
        ),
    ],
)
def test_a_server_gets_what_its_certificate_is_good_for(world: World, tmp_path: Path, kind: type[Receiver]) -> None:
    """OpenSMTPD of Debian 12 (6.8.0p2, OpenSSL 3) offers STARTTLS and breaks off each handshake: an internal error."""
    server = kind(list(ROWS), pems=world.pems, port=world.port)  # type: ignore[call-arg]
    try:
        outcomes = world.outcomes(tmp_path)
        taken = DELIVERED
        if shakes_hands(world.port):
            assert outcomes == EXPECTED
        else:
            taken = ("may",)
            assert outcomes.pop("may").startswith(b"r\0K")
            broken = {box for box, outcome in outcomes.items() if outcome.endswith(b"alert internal error")}
            others = set(outcomes) - broken  # whose certificate was looked at before the server broke off
            assert broken and not others & set(DELIVERED) and all(outcomes[box] == EXPECTED[box] for box in others)
        wait_for(lambda: all(server.stored(box) for box in taken), "the messages")
        assert all((server.stored(box) or b"").endswith(b"\n" + WIRE) for box in taken)
        assert not any(server.stored(box) for box in ROWS if box not in taken)
    finally:
        server.stop()


def shakes_hands(port: int) -> bool:
    """Whether a server can make TLS of a conversation at all."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with socket.create_connection(("127.0.0.1", port), 20) as sock, sock.makefile("rb") as replies:
        for line in (b"", b"EHLO x\r\n", b"STARTTLS\r\n"):
            sock.sendall(line)
            while replies.readline()[3:4] == b"-":
                pass
        try:
            context.wrap_socket(sock).close()
        except ssl.SSLError:
            return False
    return True


@pytest.mark.skipif(not dovecot_lmtp.PRESENT, reason="needs dovecot-lmtpd")
def test_dovecot_gets_by_lmtp_what_its_certificate_is_good_for(world: World, tmp_path: Path) -> None:
    boxes = [f"{box}@{DOMAIN}" for box in ROWS]
    with ExitStack() as stack:
        servers = [
            stack.enter_context(dovecot_lmtp.dovecot(boxes, pem, address, world.port))
            for address, pem in world.pems.items()
        ]
        assert world.outcomes(tmp_path, "/lmtp") == EXPECTED
        stored = {box: [each for server in servers for each in server.stored(f"{box}@{DOMAIN}")] for box in ROWS}
        assert {box for box, messages in stored.items() if messages} == set(DELIVERED)
        assert all(len(stored[box]) == 1 and stored[box][0].endswith(b"\n" + WIRE) for box in DELIVERED)
