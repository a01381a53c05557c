"""Passwords at rest: scrypt (RFC 7914) from the standard library, in the notation of other tools.

$scrypt$ln=15,r=8,p=1$SALT$HASH        base64 without padding; ln is the logarithm of the cost
"""

import hashlib
import hmac
import os
from base64 import b64decode, b64encode
from binascii import Error as NotBase64

LN, R, P = 15, 8, 1  # 32 MB and about a tenth of a second
LN_MAX = 20  # more is a mistake, or an attack on our memory
MEMORY_MAX = 2**31 - 1
SALT_BYTES = 16
HASH_BYTES = 32


class HashFormat(Exception):
    """Not a hash of ours."""


def _encode(data: bytes) -> bytes:
    return b64encode(data).rstrip(b"=")


def _decode(text: bytes) -> bytes:
    return b64decode(text + b"=" * (-len(text) % 4), validate=True)


def _scrypt(password: bytes, salt: bytes, ln: int, r: int, p: int, size: int) -> bytes:
    return hashlib.scrypt(password, salt=salt, n=1 << ln, r=r, p=p, maxmem=MEMORY_MAX, dklen=size)


def hash_password(password: bytes) -> bytes:
    """What to store for ``password``, with a fresh salt."""
    salt = os.urandom(SALT_BYTES)
    digest = _scrypt(password, salt, LN, R, P, HASH_BYTES)
    return b"$scrypt$ln=%d,r=%d,p=%d$%b$%b" % (LN, R, P, _encode(salt), _encode(digest))


def _parse(stored: bytes) -> tuple[int, int, int, bytes, bytes]:
    try:
        empty, name, costs, salt, digest = stored.split(b"$")
        ln, r, p = (int(value.partition(b"=")[2]) for value in costs.split(b","))
        if empty or name != b"scrypt" or not 1 <= ln <= LN_MAX or not 1 <= r <= 32 or not 1 <= p <= 16:
            raise HashFormat
        return ln, r, p, _decode(salt), _decode(digest)
    except (ValueError, NotBase64):
        raise HashFormat from None


def verify_password(stored: bytes, password: bytes) -> bool:
    """Whether ``password`` is the one behind ``stored``. Raises HashFormat."""
    ln, r, p, salt, digest = _parse(stored)
    if not digest:
        raise HashFormat
    try:
        return hmac.compare_digest(_scrypt(password, salt, ln, r, p, len(digest)), digest)
    except ValueError:
        raise HashFormat from None  # costs beyond MEMORY_MAX


def waste_time(password: bytes) -> None:
    """Take as long as a comparison: for names that nobody has."""
    _scrypt(password, bytes(SALT_BYTES), LN, R, P, HASH_BYTES)


def apop_digest(stamp: bytes, secret: bytes) -> bytes:
    """What a client sends for APOP (RFC 1939 section 7): 32 hexadecimal digits."""
    return hashlib.md5(stamp + secret, usedforsecurity=False).hexdigest().encode()
