"""Making DKIM signatures: relaxed/relaxed, no l=, From signed once more than it is there (RFC 6376, 8301, 8463)."""

import base64
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from pyqmail.mailauth.canonical import BodyHash, Field, relaxed_field, signed_fields
from pyqmail.mailauth.keys import RSA_MAX, RSA_MIN

# Those of RFC 6376 section 5.4.1 that gateways leave alone. OVERSIGNED ones nobody may add.
SIGNED = (
    b"from", b"sender", b"reply-to", b"subject", b"date", b"message-id", b"to", b"cc", b"mime-version",
    b"content-type", b"content-transfer-encoding", b"in-reply-to", b"references", b"list-id", b"list-unsubscribe",
    b"list-unsubscribe-post",
)  # fmt: skip
OVERSIGNED = (b"from", b"subject", b"date", b"to", b"reply-to")
VALUE_WIDTH = 70  # characters of base64 in a line
NAMES_WIDTH = 60


class UnusableKey(Exception):
    """The private key cannot sign; the text says why, and holds nothing of it."""


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A private key, and where its public half is in DNS."""

    domain: bytes
    selector: bytes
    key: RSAPrivateKey | Ed25519PrivateKey

    @property
    def algorithm(self) -> bytes:
        """The a= tag."""
        return b"rsa-sha256" if isinstance(self.key, RSAPrivateKey) else b"ed25519-sha256"

    def sign(self, digest: bytes) -> bytes:
        """The signature of a SHA-256 digest."""
        if isinstance(self.key, RSAPrivateKey):
            return self.key.sign(digest, PKCS1v15(), Prehashed(SHA256()))
        return self.key.sign(digest)


def load_key(domain: bytes, selector: bytes, pem: bytes) -> SigningKey:
    """The key in a PEM file: PKCS#1 or PKCS#8, LF or CR LF. Raises UnusableKey."""
    pem = pem.replace(b"\r\n", b"\n")
    if b"ENCRYPTED" in pem[:200]:
        raise UnusableKey("the key has a password")
    try:
        key = load_pem_private_key(pem, None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise UnusableKey("not a private key in PEM form") from None
    if isinstance(key, Ed25519PrivateKey):
        return SigningKey(domain, selector, key)
    if not isinstance(key, RSAPrivateKey):
        raise UnusableKey("neither an RSA nor an Ed25519 key")
    if not RSA_MIN <= key.key_size <= RSA_MAX:
        raise UnusableKey(f"a key of {key.key_size} bits; {RSA_MIN} to {RSA_MAX} are believed")
    return SigningKey(domain, selector, key)


def hash_body(pieces: Iterable[bytes]) -> bytes:
    """The bh= of a body in pieces, LF line ends."""
    body = BodyHash(b"relaxed")
    for piece in pieces:
        body.feed(piece)
    return body.digest()


def sign(
    fields: Sequence[Field], body_hash: bytes, keys: Sequence[SigningKey], now: int, *, more: bytes = b""
) -> bytes:
    """A DKIM-Signature field for each of ``keys``, LF line ends, to stand above the header.

    ``more`` are further tags, as `` i=@sub.example.org;``.
    """
    names = names_to_sign(fields)
    signed = b"".join(relaxed_field(field.text) for field in signed_fields(list(fields), names))
    return b"".join(_signature(names, signed, body_hash, key, b"t=%d;%b" % (now, more)) for key in keys)


def names_to_sign(fields: Sequence[Field]) -> list[bytes]:
    """The h= list: each field once for each time it is there, and once more where nobody may add one."""
    count: dict[bytes, int] = {}
    for field in fields:
        count[field.name] = count.get(field.name, 0) + 1
    names = []
    for name in SIGNED:
        names += [name] * min(count.get(name, 0), 50)
        names += [name] if name in OVERSIGNED else []
    return names


def _signature(names: Sequence[bytes], signed: bytes, body_hash: bytes, key: SigningKey, times: bytes) -> bytes:
    start = b"DKIM-Signature: v=1; a=%b; c=relaxed/relaxed; d=%b;\n\ts=%b; %b\n\th=%b;\n\tbh=%b;\n\tb=" % (
        key.algorithm,
        key.domain,
        key.selector,
        times,
        _folded(names),
        base64.b64encode(body_hash),
    )
    digest = hashlib.sha256(signed + relaxed_field(start).removesuffix(b"\r\n")).digest()
    value = base64.b64encode(key.sign(digest))
    lines = [value[at : at + VALUE_WIDTH] for at in range(0, len(value), VALUE_WIDTH)]
    return start + b"\n\t ".join(lines) + b"\n"


def _folded(names: Sequence[bytes]) -> bytes:
    lines = [b""]
    for name in names:
        if len(lines[-1]) + len(name) > NAMES_WIDTH:
            lines.append(b"")
        lines[-1] += name + b":"
    return b"\n\t ".join(lines)[:-1]
