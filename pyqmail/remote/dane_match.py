"""Whether a server's certificates are what TLSA records describe (RFC 6698 section 2.1, RFC 7672 section 3.1).

Imported only where there are such records: cryptography is heavy.
"""

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509 import (
    BasicConstraints,
    Certificate,
    DNSName,
    ExtensionNotFound,
    SubjectAlternativeName,
    load_der_x509_certificate,
)
from cryptography.x509.oid import NameOID

from pyqmail.protocol.certificate_names import matches
from pyqmail.remote.tlsa import Tlsa, Usage

CHAIN_MAX = 10  # certificates of a server that are looked at
RECORDS_MAX = 50  # records of one server


def matches_any(records: Sequence[Tlsa], chain: Sequence[bytes], names: Sequence[bytes]) -> bool:
    """Whether ``chain``, the server's certificates in DER with its own first, is what one of ``records`` describes.

    ``names``: those that the server's certificate must be for, at least one of them, where an authority is described.
    Raises ValueError for a certificate that cannot be read.
    """
    kept = records[:RECORDS_MAX]
    if any(record.usage is Usage.END_ENTITY and _describes(record, chain[0]) for record in kept):
        return True
    anchors = [record for record in kept if record.usage is Usage.TRUST_ANCHOR]
    return bool(anchors) and _signed_by_any(anchors, chain[:CHAIN_MAX], names)


def _describes(record: Tlsa, der: bytes) -> bool:
    """Whether ``record`` is of this certificate."""
    data = der
    if record.of_key:
        key = load_der_x509_certificate(der).public_key()
        data = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return (hashlib.new(record.digest, data).digest() if record.digest else data) == record.data


def _signed_by_any(anchors: Sequence[Tlsa], chain: Sequence[bytes], names: Sequence[bytes]) -> bool:
    """Whether an authority that ``anchors`` describe has signed the first of ``chain``, maybe by way of others."""
    # an authority's whole certificate may be in the record only
    others = [record.data for record in anchors if not (record.digest or record.of_key)]
    authorities = [(load_der_x509_certificate(der), der) for der in (*chain[1:], *others)]
    current = load_der_x509_certificate(chain[0])
    if not (_in_force(current) and _is_for_any(current, names)):
        return False
    while authorities:
        at = next((at for at, (each, _) in enumerate(authorities) if _has_signed(each, current)), None)
        if at is None:
            return False
        current, der = authorities.pop(at)
        if not _in_force(current):
            return False
        if any(_describes(record, der) for record in anchors):
            return True
    return False


def _in_force(certificate: Certificate) -> bool:
    return certificate.not_valid_before_utc <= datetime.now(UTC) <= certificate.not_valid_after_utc


def _has_signed(authority: Certificate, certificate: Certificate) -> bool:
    try:
        if not authority.extensions.get_extension_for_class(BasicConstraints).value.ca:
            return False
        certificate.verify_directly_issued_by(authority)
    except (ExtensionNotFound, InvalidSignature, TypeError, ValueError):
        return False
    return True


def _is_for_any(certificate: Certificate, names: Sequence[bytes]) -> bool:
    found: dict[str, object] = {}
    try:
        entries = certificate.extensions.get_extension_for_class(SubjectAlternativeName).value
        found["subjectAltName"] = tuple(("DNS", text) for text in entries.get_values_for_type(DNSName))
    except ExtensionNotFound:
        common = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        found["subject"] = tuple((("commonName", str(each.value)),) for each in common)
    return any(matches(found, name) for name in names)
