"""TLSA records and the certificates that meet them (RFC 6698, RFC 7672 section 3.1)."""

import hashlib
from collections.abc import Sequence

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

ISSUER, SERVER = 2, 3  # usages: DANE-TA, DANE-EE; mail knows no others
WHOLE, KEY = 0, 1  # selectors
DIGESTS = {1: hashlib.sha256, 2: hashlib.sha512}


def usable(record: bytes) -> bool:
    """Whether a sender of mail would look at a record: its data as DNS has it."""
    return len(record) > 3 and record[0] in (ISSUER, SERVER) and record[1] in (WHOLE, KEY) and record[2] in (0, 1, 2)


def matches(record: bytes, chain: Sequence[bytes]) -> bool:
    """Whether a usable record is met by a chain of certificates in DER, the server's first. Raises ValueError."""
    usage, selector, matching, data = record[0], record[1], record[2], record[3:]
    for certificate in chain[:1] if usage == SERVER else chain[1:]:
        part = certificate
        if selector == KEY:
            public = x509.load_der_x509_certificate(certificate).public_key()
            part = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        if (DIGESTS[matching](part).digest() if matching else part) == data:
            return True
    return False
