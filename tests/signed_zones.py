"""Zones that are signed for a test, and a resolver that validates them (nsd, unbound)."""

import contextlib
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dns.dnssec
import dns.name
import dns.rdatatype
import dns.zone
from cryptography.hazmat.primitives.asymmetric import ec

from tests.loopback import free_port
from tests.nameserver import ENVIRON, HEAD, nameserver
from tests.waiting import wait_for

UNBOUND = """\
server:
  interface: 127.0.0.1@{port}
  username: ""
  chroot: ""
  directory: "{base}"
  pidfile: ""
  use-syslog: no
  do-daemonize: no
  num-threads: 1
  do-not-query-localhost: no
  module-config: "validator iterator"
  local-zone: "test." nodefault
  access-control: 127.0.0.0/8 allow
{anchors}
remote-control:
  control-enable: no
{stubs}
"""
STUB = 'stub-zone:\n  name: "{name}"\n  stub-addr: 127.0.0.1@{authority}\n'


def _new_key() -> tuple[ec.EllipticCurvePrivateKey, dns.dnssec.DNSKEY]:
    private = ec.generate_private_key(ec.SECP256R1())
    algorithm = dns.dnssec.Algorithm.ECDSAP256SHA256
    return private, dns.dnssec.make_dnskey(private.public_key(), algorithm, dns.dnssec.Flag.ZONE | dns.dnssec.Flag.SEP)


def signed(name: str, lines: Sequence[str], key: tuple[ec.EllipticCurvePrivateKey, dns.dnssec.DNSKEY]) -> list[str]:
    """The lines of the zone with its key and signatures, without what `nameserver` adds."""
    zone = dns.zone.from_text(
        HEAD.format(name=name) + "\n".join(lines) + "\n", dns.name.from_text(name), relativize=False
    )
    now = datetime.now(UTC)
    times = {"inception": now - timedelta(hours=1), "expiration": now + timedelta(days=1)}
    with zone.writer() as writer:
        dns.dnssec.sign_zone(zone, writer, [key], dnskey_ttl=60, **times)
    apex = [(zone.origin, kind) for kind in (dns.rdatatype.SOA, dns.rdatatype.NS)]
    return [
        f"{owner} {ttl} IN {dns.rdatatype.to_text(data.rdtype)} {data.to_text()}"
        for owner, ttl, data in zone.iterate_rdatas()
        if (owner, data.rdtype) not in apex
    ]


@contextlib.contextmanager
def validating_resolver(
    good: Mapping[str, Sequence[str]], bogus: Mapping[str, Sequence[str]], unsigned: Mapping[str, Sequence[str]]
) -> Iterator[tuple[int, int]]:
    """The ports of an unbound and of the nsd behind it.

    It knows the keys of the zones in ``good``; those of ``bogus`` are signed by another key than it believes.
    """
    zones: dict[str, Sequence[str]] = dict(unsigned)
    anchors = []
    for name, lines in (*good.items(), *bogus.items()):
        key = _new_key()
        zones[name] = signed(name, lines, key)
        believed = key[1] if name in good else _new_key()[1]
        anchors.append(f'  trust-anchor: "{name}. IN DNSKEY {believed.to_text()}"')
    authority, port = free_port(), free_port()
    base = Path(tempfile.mkdtemp(prefix="pyqmail-unbound-"))
    stubs = "".join(STUB.format(name=name, authority=authority) for name in zones)
    text = UNBOUND.format(port=port, base=base, anchors="\n".join(anchors), stubs=stubs)
    (base / "unbound.conf").write_text(text)
    with nameserver("127.0.0.1", zones, port=authority), (base / "log").open("wb") as log:
        server = subprocess.Popen(["unbound", "-d", "-c", str(base / "unbound.conf")], env=ENVIRON, stderr=log)
        question = ["dig", "+short", "+time=1", "+tries=1", f"-p{port}", "@127.0.0.1", next(iter(good)), "NS"]

        def answers() -> bool:
            assert server.poll() is None, (base / "log").read_text()
            return subprocess.run(question, capture_output=True, check=False).stdout.startswith(b"ns.")

        try:
            wait_for(answers, "unbound")
            yield port, authority
        finally:
            server.terminate()
            server.wait()
            shutil.rmtree(base)
