"""Whom a domain's reports go to: the addresses in rua=, as far as those who get the mail agree (RFC 9990,
Verifying External Destinations).

_report._dmarc    POLICY-DOMAIN._report._dmarc.HOST has a record where HOST takes reports about another's domain
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from pyqmail.mailauth.dmarc import Record, organizational_domain, parse_record, walk
from pyqmail.mailauth.lookups import Absent, Lookups
from pyqmail.protocol.host_names import is_name

DESTINATIONS_MAX = 5  # addresses of one domain that get a report
_URI = re.compile(rb"mailto:([^!?]+)(?:!\d{1,9}[kmgt]?)?(?:\?.*)?", re.IGNORECASE)
_ADDRESS = re.compile(rb"[\w.!#$%&'*+/=?^`{|}~-]+@([\w.-]+)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Destination:
    """An address and its host."""

    address: bytes
    host: bytes


def parse_uri(uri: bytes) -> Destination | None:
    """The destination in a URI of rua=; None for one that is no plain mail address. A size is passed over (RFC 9989
    section 4.8).
    """
    found = _URI.fullmatch(uri)
    if found is None:
        return None
    address = unquote_to_bytes(found[1])
    parts = _ADDRESS.fullmatch(address)
    if parts is None or len(address) > 254 or not is_name(parts[1].lower()):
        return None
    return Destination(address, parts[1].lower())


def destinations(record: Record, lookups: Lookups) -> list[Destination]:
    """Who gets the reports about ``record``'s domain. Raises TemporaryFailure."""
    found: dict[Destination, None] = {}
    for destination in map(parse_uri, record.reports):
        if destination is not None and len(found) < DESTINATIONS_MAX:
            found |= dict.fromkeys(_agreed(destination, record.domain, lookups))
    return list(found)[:DESTINATIONS_MAX]


def _agreed(destination: Destination, domain: bytes, lookups: Lookups) -> Iterator[Destination]:
    if _organization(destination.host, lookups) == _organization(domain, lookups):
        yield destination
        return
    name = domain + b"._report._dmarc." + destination.host
    if not is_name(name):
        return
    try:
        texts = lookups.texts(name)
    except Absent:
        return
    records = [record for record in (parse_record(destination.host, text) for text in texts[:8]) if record is not None]
    if not records:
        return
    others = [each for record in records for each in map(parse_uri, record.reports) if each is not None]
    if not any(record.reports for record in records):
        yield destination
    elif all(each.host == destination.host for each in others):  # it names others, but nobody else's
        yield from others


def _organization(domain: bytes, lookups: Lookups) -> bytes:
    return organizational_domain(domain, walk(lookups, domain))
