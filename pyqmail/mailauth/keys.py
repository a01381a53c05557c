"""Public keys as DNS has them (RFC 6376 section 3.6.1, RFC 8301, RFC 8463), and what they say of a signature."""

from dataclasses import dataclass
from functools import lru_cache

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_der_public_key

from pyqmail.mailauth.lookups import Absent, Lookups
from pyqmail.mailauth.tags import BadTags, parse_base64, parse_tags, without_blanks

RSA_MIN, RSA_MAX = 1024, 8192  # bits: RFC 8301 section 3.2; larger ones cost a verifier too much
RECORD_MAX = 16384  # bytes


class BadKey(Exception):
    """There is no key that could verify anything; the text says why."""


class WeakKey(BadKey):
    """There is one, but it is too short to be believed."""


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A key, and the flags of its record."""

    key: RSAPublicKey | Ed25519PublicKey
    testing: bool
    same_domain: bool  # i= must be in d= itself

    @property
    def words(self) -> str:
        """What it is, for people."""
        return f"{self.key.key_size}-bit rsa" if isinstance(self.key, RSAPublicKey) else "ed25519"

    def verifies(self, signature: bytes, digest: bytes) -> bool:
        """Whether ``signature`` is of the SHA-256 ``digest``. Ed25519 signs the digest too (RFC 8463 section 3)."""
        try:
            if isinstance(self.key, RSAPublicKey):
                self.key.verify(signature, digest, PKCS1v15(), Prehashed(SHA256()))
            else:
                self.key.verify(signature, digest)
        except (InvalidSignature, ValueError):
            return False
        return True


def key_name(selector: bytes, domain: bytes) -> bytes:
    """Where DNS has the key of ``selector`` (RFC 6376 section 3.6.2.1)."""
    return selector + b"._domainkey." + domain


def find_key(lookups: Lookups, selector: bytes, domain: bytes, kind: bytes) -> PublicKey:
    """The key of ``selector`` for signatures of ``kind``, rsa or ed25519. Raises BadKey and TemporaryFailure."""
    try:
        records = lookups.texts(key_name(selector, domain))
    except Absent:
        raise BadKey("no key") from None
    problem = BadKey("no key")
    for record in records[:4]:
        try:
            return parse_key(record, kind)
        except BadKey as error:
            problem = error
    raise problem


@lru_cache(maxsize=128)  # much mail comes from few senders, and reading a key costs as much as verifying with it
def parse_key(record: bytes, kind: bytes) -> PublicKey:
    """The key in a record. Raises BadKey and WeakKey."""
    if len(record) > RECORD_MAX:
        raise BadKey("key record too long")
    try:
        tags = parse_tags(record)
        data = parse_base64(tags.get(b"p", b"!"))
    except BadTags:
        raise BadKey("key record malformed") from None
    if tags.get(b"v", b"DKIM1") != b"DKIM1" or (b"v" in tags and next(iter(tags)) != b"v"):
        raise BadKey("key record of another version")
    if tags.get(b"k", b"rsa").lower() != kind:
        raise BadKey("key of another kind")
    if b"h" in tags and b"sha256" not in without_blanks(tags[b"h"]).split(b":"):
        raise BadKey("key for other hashes")
    if not {b"*", b"email"} & set(without_blanks(tags.get(b"s", b"*")).split(b":")):
        raise BadKey("key for other services")
    if not data:
        raise BadKey("key revoked")
    flags = without_blanks(tags.get(b"t", b"")).split(b":")
    return PublicKey(_load(data, kind), b"y" in flags, b"s" in flags)


def _load(data: bytes, kind: bytes) -> RSAPublicKey | Ed25519PublicKey:
    try:
        if kind == b"ed25519":
            return Ed25519PublicKey.from_public_bytes(data)
        key = load_der_public_key(data)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise BadKey("key malformed") from None
    if not isinstance(key, RSAPublicKey):
        raise BadKey("key of another kind")
    if key.key_size < RSA_MIN:
        raise WeakKey(f"{key.key_size}-bit key")
    if key.key_size > RSA_MAX:
        raise BadKey(f"{key.key_size}-bit key")
    return key
