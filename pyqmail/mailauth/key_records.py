"""The public halves of our keys as DNS is to have them, and whether it has (RFC 6376 section 3.6.1, RFC 8463)."""

import base64

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from pyqmail.mailauth.keys import BadKey, find_key
from pyqmail.mailauth.lookups import Lookups
from pyqmail.mailauth.signing import SigningKey

STRING_MAX = 255  # bytes of one string of a TXT record (RFC 1035 section 3.3.14)


def record(key: SigningKey) -> bytes:
    """``v=DKIM1; k=rsa; p=...``."""
    public = key.key.public_key()
    if isinstance(key.key, RSAPrivateKey):
        data, kind = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo), b"rsa"
    else:
        data, kind = public.public_bytes(Encoding.Raw, PublicFormat.Raw), b"ed25519"
    return b"v=DKIM1; k=" + kind + b"; p=" + base64.b64encode(data)


def zone_line(key: SigningKey) -> bytes:
    """The record as a line of a zone file."""
    text = record(key)
    strings = [b'"' + text[at : at + STRING_MAX] + b'"' for at in range(0, len(text), STRING_MAX)]
    return b"%b._domainkey.%b. IN TXT ( %b )" % (key.selector, key.domain, b" ".join(strings))


def check_published(key: SigningKey, lookups: Lookups) -> None:
    """Return if DNS has the public half of ``key``. Raises BadKey, which says what it has, and TemporaryFailure."""
    found = find_key(lookups, key.selector, key.domain, key.algorithm.partition(b"-")[0])
    form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if found.key.public_bytes(*form) != key.key.public_key().public_bytes(*form):
        raise BadKey("another key")
