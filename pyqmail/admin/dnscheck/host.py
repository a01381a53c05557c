"""The host itself: which addresses its mail goes out from, their names, and the certificates that DNS vouches for."""

import ipaddress
import socket
from collections.abc import Iterator, Sequence

from pyqmail.admin.dnscheck.domain import addresses
from pyqmail.admin.dnscheck.finding import Finding, shown
from pyqmail.admin.dnscheck.subject import Subject
from pyqmail.mailauth.lookups import Absent, Lookups, TemporaryFailure
from pyqmail.policy.interfaces import source_address
from pyqmail.remote.dane_match import matches_any
from pyqmail.remote.tlsa import parse_tlsa

FARAWAY = ("198.51.100.1", "2001:db8::1")  # addresses of documentation: the way out to the world (RFC 5737, RFC 3849)


def outgoing(subject: Subject, lookups: Lookups) -> tuple[str, ...]:
    """The addresses that receivers see: control/outgoingip, else those of our way out, else what DNS says of our name.

    A private address is another one outside; what DNS has of our name in EHLO is the best guess then.
    """
    told = tuple(address for address in subject.sources.everybody if address)
    if told:
        return told
    found = []
    for place in FARAWAY:
        packed = source_address(_packed(place))
        text = "" if packed is None else _text(packed)
        if text and ipaddress.ip_address(text).is_global:
            found.append(text)
    if found:
        return tuple(found)
    try:
        return tuple(_text(packed) for packed in addresses(subject.helo, lookups))
    except TemporaryFailure:
        return ()


def host_findings(subject: Subject, own: Sequence[str], lookups: Lookups) -> Iterator[Finding]:
    """The names of each address, there and back. Never raises."""
    for address in own:
        try:
            good, text = _names(address, subject, lookups)
        except TemporaryFailure:
            good, text = False, "no answer: it cannot be told now"
        yield Finding(address, "ptr", good, text)


def _names(address: str, subject: Subject, lookups: Lookups) -> tuple[bool, str]:
    """Raises TemporaryFailure."""
    packed = _packed(address)
    try:
        names = lookups.names(ipaddress.ip_address(address).reverse_pointer.encode())[:10]
    except Absent:
        return False, "it has no name (PTR): large receivers refuse its mail"
    confirmed = [name for name in names if packed in addresses(name, lookups)]
    if not confirmed:
        return False, f"its name {shown(names[0])} does not lead back to it: large receivers refuse its mail"
    helo = subject.sources.name_of(address).lower() or subject.helo
    if helo not in confirmed and packed not in addresses(helo, lookups):
        return False, f"it is {shown(confirmed[0])}, but says EHLO {shown(helo)}, which does not lead to it"
    return True, f"{shown(confirmed[0])}, and back"


def is_here(host: bytes, subject: Subject, own: Sequence[str], lookups: Lookups) -> bool:
    """Whether an exchanger is this host: by its name or that of a certificate, or by an address. Never raises."""
    if host == subject.helo or host.decode("ascii", "replace") in subject.chains:
        return True
    try:
        return not {_packed(address) for address in own}.isdisjoint(addresses(host, lookups))
    except TemporaryFailure:
        return False


def tlsa_findings(host: bytes, subject: Subject, lookups: Lookups) -> Iterator[Finding]:
    """Whether what DNS has of the certificate of ``host``, an exchanger, is met by what it shows. Never raises."""
    try:
        records = lookups.associations(b"_25._tcp." + host)
    except Absent:
        return
    except TemporaryFailure:
        yield Finding(shown(host), "tlsa", False, "no answer: it cannot be told now")
        return
    good = [record for record in map(parse_tlsa, records) if record is not None]
    if not good:
        yield Finding(shown(host), "tlsa", False, "no record is of a kind that mail uses: usage 3 or 2 (RFC 7672)")
        return
    chains = subject.chains_for(host)
    if not chains:
        yield Finding(shown(host), "tlsa", False, "there are records, but no certificate here: mail to it waits")
    for chain in chains:
        met = matches_any(good, chain, (host,))
        text = "a record is met by the certificate" if met else "no record is met by the certificate: mail to it waits"
        yield Finding(shown(host), "tlsa", met, text)


def _packed(address: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)


def _text(packed: bytes) -> str:
    return socket.inet_ntop(socket.AF_INET6 if len(packed) == 16 else socket.AF_INET, packed)
