"""Password hashes of other programs: those of crypt(3), of LDAP (RFC 2307) and of Dovecot, and argon2 (RFC 9106).

$scrypt$...                                        our own (login/passwords.py)
$1$ $2a$ $2b$ $2y$ $5$ $6$ $7$ $y$ $gy$ ...        as the C library's crypt(3) knows them; also {CRYPT} before them
{BLF-CRYPT} {MD5-CRYPT} {SHA256-CRYPT} {SHA512-CRYPT}   the same, by Dovecot's names
13 letters                                         crypt(3) of old
{SHA} {SSHA} {SHA256} {SSHA256} {SHA512} {SSHA512} {MD5} {SMD5}    base64 of digest and salt
$argon2i$ $argon2d$ $argon2id$, {ARGON2I} {ARGON2ID}
{PLAIN} {CLEARTEXT}                                the password itself
"""

import ctypes
import hashlib
import hmac
import re
from base64 import b64decode

from pyqmail.login import passwords
from pyqmail.login.passwords import HashFormat

HASH_MAX = 1024  # bytes
_SCHEME = re.compile(rb"\{([A-Za-z0-9-]+)\}(.*)", re.S)
_CRYPT = (b"CRYPT", b"BLF-CRYPT", b"MD5-CRYPT", b"SHA256-CRYPT", b"SHA512-CRYPT")
_OLD = re.compile(rb"[./0-9A-Za-z]{13}")
# The digest, and whether a salt stands behind it.
_DIGESTS = {
    b"SHA": ("sha1", False), b"SSHA": ("sha1", True), b"SHA256": ("sha256", False), b"SSHA256": ("sha256", True),
    b"SHA512": ("sha512", False), b"SSHA512": ("sha512", True), b"MD5": ("md5", False), b"SMD5": ("md5", True),
}  # fmt: skip


def verify(stored: bytes, password: bytes) -> bool:
    """Whether ``password`` is the one behind ``stored``. Raises HashFormat for what is no hash that is known here."""
    if len(stored) > HASH_MAX or b"\0" in stored or b"\0" in password:
        raise HashFormat
    found = _SCHEME.fullmatch(stored)
    if found is None:
        return _verify_plain_form(stored, password)
    scheme, rest = found[1].upper(), found[2]
    if scheme in (b"PLAIN", b"CLEARTEXT"):
        return bool(rest) and hmac.compare_digest(rest, password)
    if scheme in _CRYPT:
        return _verify_crypt(rest, password)
    if scheme in (b"ARGON2I", b"ARGON2ID"):
        return _verify_argon2(rest, password)
    if scheme in _DIGESTS:
        return _verify_digest(*_DIGESTS[scheme], rest, password)
    raise HashFormat


def _verify_plain_form(stored: bytes, password: bytes) -> bool:
    if stored.startswith(b"$scrypt$"):
        return passwords.verify_password(stored, password)
    if stored.startswith(b"$argon2"):
        return _verify_argon2(stored, password)
    return _verify_crypt(stored, password)


def _verify_digest(name: str, salted: bool, rest: bytes, password: bytes) -> bool:
    try:
        data = b64decode(rest, validate=True)
    except ValueError:
        raise HashFormat from None
    digest = hashlib.new(name, usedforsecurity=False)
    size = digest.digest_size
    if len(data) < size or (len(data) > size) != salted:
        raise HashFormat
    digest.update(password + data[size:])
    return hmac.compare_digest(digest.digest(), data[:size])


def _verify_crypt(stored: bytes, password: bytes) -> bool:
    """By the C library, which knows more kinds than any list here. A locked account (``!``, ``*``) is no hash."""
    if not stored.startswith((b"$", b"_")) and not _OLD.fullmatch(stored):
        raise HashFormat
    try:
        crypt = ctypes.CDLL("libcrypt.so.1").crypt
    except OSError:
        raise HashFormat from None
    crypt.restype, crypt.argtypes = ctypes.c_char_p, (ctypes.c_char_p, ctypes.c_char_p)
    made = crypt(password, stored)
    if not made or made.startswith(b"*"):
        raise HashFormat
    return hmac.compare_digest(made, stored)


def _verify_argon2(stored: bytes, password: bytes) -> bool:
    from cryptography.exceptions import InvalidKey, UnsupportedAlgorithm
    from cryptography.hazmat.primitives.kdf import argon2

    kinds = {
        "argon2id": argon2.Argon2id.verify_phc_encoded,
        "argon2i": argon2.Argon2i.verify_phc_encoded,
        "argon2d": argon2.Argon2d.verify_phc_encoded,
    }
    try:
        text = stored.decode("ascii")
        kinds[text.split("$")[1]](password, text)
    except InvalidKey:
        return False
    except (UnsupportedAlgorithm, ValueError, KeyError, IndexError):
        raise HashFormat from None
    return True
