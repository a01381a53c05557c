"""Hashes that other programs have made, right and wrong, and what is none."""

import hashlib
import shutil
import subprocess
from base64 import b64encode

import pytest

from pyqmail.login.hashes import HASH_MAX, HashFormat, verify
from pyqmail.login.passwords import hash_password

SECRET = b"secret"
# RFC 2307's, without salt: base64 of the digest, as hashlib has it.
KNOWN = (
    b"{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=",
    b"{sha256}K7gNU3sdo+OL0wNhqoVWhr3g6s1xYv72ol/pe/Unols=",
    b"{MD5}Xr4ilOzQ4PCOq3aQ0qbuaQ==",
    b"{PLAIN}secret",
    b"{CLEARTEXT}secret",
)


def made_by(*words: str) -> bytes:
    """What a tool of Debian's says for SECRET."""
    return subprocess.run(words, check=True, capture_output=True).stdout.strip()


@pytest.mark.parametrize("stored", KNOWN, ids=lambda stored: stored.decode())
def test_what_is_known_is_right_for_its_password_alone(stored: bytes) -> None:
    assert verify(stored, SECRET)
    assert not verify(stored, b"Secret") and not verify(stored, b"")


@pytest.mark.parametrize("scheme", ["SSHA", "SSHA256", "SSHA512", "SMD5"])
def test_a_salt_stands_behind_its_digest(scheme: str) -> None:
    name = {"SSHA": "sha1", "SMD5": "md5"}.get(scheme, scheme[1:].lower())
    stored = b"{%b}" % scheme.encode() + b64encode(hashlib.new(name, SECRET + b"salt").digest() + b"salt")
    assert verify(stored, SECRET) and not verify(stored, b"Secret")


@pytest.mark.parametrize("kind", ["SHA256-CRYPT", "SHA512-CRYPT", "BLF-CRYPT", "ARGON2I", "ARGON2ID"])
def test_what_dovecot_makes(kind: str) -> None:
    if shutil.which("doveadm") is None:
        pytest.skip("dovecot is not installed")
    stored = made_by("doveadm", "pw", "-s", kind, "-p", SECRET.decode(), *(["-r", "5"] if kind == "BLF-CRYPT" else []))
    bare = stored.partition(b"}")[2]
    assert all(verify(each, SECRET) and not verify(each, b"Secret") for each in (stored, bare))


@pytest.mark.parametrize("option", ["-1", "-5", "-6"])
def test_what_openssl_makes_is_crypts(option: str) -> None:
    stored = made_by("openssl", "passwd", option, SECRET.decode())
    for each in (stored, b"{CRYPT}" + stored):
        assert verify(each, SECRET) and not verify(each, b"Secret")


def test_our_own_and_crypts_of_old() -> None:
    for stored in (hash_password(SECRET), made_by("perl", "-e", "print crypt('secret', 'ab')")):
        assert verify(stored, SECRET) and not verify(stored, b"Secret")


@pytest.mark.parametrize(
    "stored",
    [b"", b"!", b"*", b"secret", b"{X}secret", b"{SSHA}5en6G6MezRroT3XKqkdPOmY/BfQ=", b"{SHA}!!", b"$z$a$b",
     b"{CRYPT}!$6$a$b", b"$argon2x$v=19$m=64,t=1,p=1$a$b", b"{PLAIN}a\0b", b"{SHA}" + b"A" * HASH_MAX],
    ids=repr,
)  # fmt: skip
def test_what_is_no_hash_lets_nobody_in_and_says_so(stored: bytes) -> None:
    with pytest.raises(HashFormat):
        verify(stored, SECRET)
