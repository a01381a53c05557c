"""SRS: an address of the forwarder's own in the place of somebody else's sender, and the way back (srsfilter(8)).

    joe@orig.test                            SRS0=HHHH=TT=orig.test=joe@srs.test
    SRS0=HHHH=TT=orig.test=joe@other.test    SRS1=HHHH=other.test==HHHH=TT=orig.test=joe@srs.test

HHHH is the beginning of HMAC-SHA1, in base64, over all that follows it, in lower case and without the ``=`` between; TT
the day, in base32. That is how Mail::SRS, libsrs2 and postsrsd have it, which share secrets with us. postsrsd makes
hashes in base64url (RFC 4648 section 5) since 2.2.6; like it we read both.
"""

import base64
import hmac
from dataclasses import dataclass

from pyqmail.mailauth.srs_address import kind_of

DAY_S = 86400
DAYS = 1024  # after which days begin again
DIGITS = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
SEPARATORS = (b"=", b"-", b"+")
AGE_DAYS = 21  # libsrs2's; control/queuelifetime is 7 days, and a bounce may wait as long again
HASH_LENGTH = 4  # letters, the least that others take
NO_HOST = b"[]"  # of the two senders that are qmail's own: #@[], and VERP's, not yet filled in
HASH_MAX = 27  # letters of an HMAC-SHA1 in base64
ADDRESS_MAX = 900  # bytes; the queue takes 1003, less what VERP and bounces add
_KIND = 5  # bytes before the first hash: SRS0=
_FROM_URL = bytes.maketrans(b"-_", b"+/")


class BadSrs(Exception):
    """The address is none that was made here, or it is too old; the text says which."""


@dataclass(frozen=True, slots=True)
class Srs:
    """The addresses of ``domain``: the first of ``secrets`` makes new ones, by each of them they come back."""

    domain: bytes
    secrets: tuple[bytes, ...]
    age_days: int = AGE_DAYS
    hash_length: int = HASH_LENGTH
    hash_min: int = HASH_LENGTH
    separator: bytes = b"="

    def forward(self, sender: bytes, now_s: float) -> bytes:
        """The address to forward mail of ``sender`` from; ``sender`` itself where that cannot be said in one."""
        local, at, host = sender.rpartition(b"@")
        if not at or not local or not host or b"=" in host or host == NO_HOST:
            return sender
        kind = kind_of(local)
        again = self._again(kind, local, host) if kind else None
        if again is None:
            day = _format_day(int(now_s // DAY_S))
            made = b"SRS0" + self.separator + self._hashed(day, host, local)
        else:
            made = b"SRS1" + self.separator + again
        made += b"@" + self.domain
        return made if len(made) <= ADDRESS_MAX else sender

    def reverse(self, local: bytes, now_s: float) -> bytes:
        """The address that ``local`` stands for. Raises BadSrs, the same for whatever is forged."""
        kind = kind_of(local)
        if not kind:
            raise BadSrs("it is no SRS address")
        rest = local[_KIND:]
        if kind == b"1":
            hashed, host, inner = _split(rest, 3)
            self._check(hashed, host, inner)
            return b"SRS0" + inner + b"@" + host
        hashed, day, host, user = _split(rest, 4)
        self._check(hashed, day, host, user)
        age = (int(now_s // DAY_S) - _parse_day(day)) % DAYS
        if age > self.age_days and age != DAYS - 1:  # the clock of another host may be a day ahead
            raise BadSrs("it is too old")
        return user + b"@" + host

    def made(self, local: bytes, now_s: float) -> bool:
        """Whether ``local`` was made here, and not too long ago."""
        try:
            self.reverse(local, now_s)
        except BadSrs:
            return False
        return True

    def _again(self, kind: bytes, local: bytes, host: bytes) -> bytes | None:
        """What stands behind SRS1 for an address that another forwarder has made, who alone can check its hash.

        None for a local part that only begins like one.
        """
        if kind == b"0":
            return self._hashed(host, local[_KIND - 1 :])
        first, _, inner = local[_KIND:].partition(b"=")[2].partition(b"=")
        return self._hashed(first, inner) if first and inner else None

    def _hashed(self, *parts: bytes) -> bytes:
        return b"=".join((_digest(self.secrets[0], parts)[: self.hash_length], *parts))

    def _check(self, hashed: bytes, *parts: bytes) -> None:
        """Raises BadSrs. Case does not count: some hosts on the way write addresses in lower case."""
        given = hashed.lower().translate(_FROM_URL)
        right = 0
        for secret in self.secrets:
            right |= hmac.compare_digest(given, _digest(secret, parts)[: len(given)].lower())
        if len(given) < self.hash_min or not right:
            raise BadSrs("it was not made here")


def _digest(secret: bytes, parts: tuple[bytes, ...]) -> bytes:
    return base64.b64encode(hmac.digest(secret, b"".join(parts).lower(), "sha1"))


def _split(text: bytes, count: int) -> list[bytes]:
    parts = text.split(b"=", count - 1)
    if len(parts) < count or not all(parts):
        raise BadSrs("it is malformed")
    return parts


def _format_day(day: int) -> bytes:
    return bytes((DIGITS[day >> 5 & 31], DIGITS[day & 31]))


def _parse_day(text: bytes) -> int:
    """Raises BadSrs."""
    places = [DIGITS.find(letter) for letter in text.upper()]
    if len(places) != 2 or -1 in places:
        raise BadSrs("it is malformed")
    return places[0] << 5 | places[1]
