"""What of this host is compared with DNS: read as root, before anything that strangers wrote is."""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from pyqmail.admin import certificates
from pyqmail.control import Control
from pyqmail.failure import TemporaryFailure
from pyqmail.policy.routing import read_routing
from pyqmail.remote.signatures import read_keys
from pyqmail.remote.sources import Sources, read_sources
from pyqmail.tcp.pem import PEM_MAX, Kind, PemError, blocks, split_pairs

DOMAINS_MAX = 100  # looked at unless some are named


@dataclass(frozen=True, slots=True)
class PublicHalf:
    """The public half of a DKIM key: its selector, rsa or ed25519, and the key as DER."""

    selector: bytes
    kind: bytes
    der: bytes


Chain = tuple[bytes, ...]  # certificates as DER, that of the server first


@dataclass(frozen=True, slots=True)
class Subject:
    """The host's name in EHLO, its domains, their keys (or why one is of no use), and what servers show by name."""

    helo: bytes
    domains: tuple[bytes, ...]
    keys: Mapping[bytes, tuple[PublicHalf, ...] | str]
    chains: Mapping[str, tuple[Chain, ...]]
    sources: Sources

    def chains_for(self, host: bytes) -> tuple[Chain, ...]:
        """What a client is shown that asks for ``host``."""
        return self.chains.get(host.decode("ascii", "replace").lower()) or self.chains.get("", ())


def read_subject(home: str, named: tuple[bytes, ...] = ()) -> Subject:
    """All of it; ``named`` in the place of our own domains. Raises ControlUnreadable and OSError."""
    control = Control(home)
    domains = tuple(domain.lower() for domain in named) or own_domains(control)
    return Subject(
        (control.line_or_me("helohost") or b"").lower(),
        domains,
        {domain: _keys(f"{control.directory}/domainkeys/{os.fsdecode(domain)}") for domain in domains},
        {each.name: tuple(_chains(each.path)) for each in certificates.installed(home)},
        read_sources(control),
    )


def own_domains(control: Control) -> tuple[bytes, ...]:
    """Those of locals and virtualdomains that can be in DNS, by name. Raises ControlUnreadable."""
    routing = read_routing(control, control.me())
    virtual = {domain for domain, prepend in routing.virtual.items() if prepend and b"@" not in domain}
    found = {domain for domain in routing.locals | virtual if b"." in domain.strip(b".") and domain[:1] != b"."}
    return tuple(sorted(found)[:DOMAINS_MAX])


def _keys(path: str) -> tuple[PublicHalf, ...] | str:
    if not os.path.isdir(path):
        return ()
    try:
        keys = read_keys(path)
    except TemporaryFailure as error:
        return error.text.decode("ascii", "replace")
    return tuple(
        PublicHalf(
            each.selector,
            each.algorithm.partition(b"-")[0],
            each.key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        )
        for each in keys
    )


def _chains(path: str) -> list[Chain]:
    """The chain of each key in a file; none where the file is of no use, which --check says. Raises OSError."""
    with open(path, "rb") as file:
        data = file.read(PEM_MAX)
    try:
        return [
            tuple(
                x509.load_pem_x509_certificate(text).public_bytes(Encoding.DER)
                for kind, text in blocks(pair)
                if kind is Kind.CERTIFICATE
            )
            for pair in split_pairs(data)
        ]
    except (PemError, ValueError):
        return []
