"""Verifying DKIM signatures (RFC 6376, 8301, 8463) over a message that comes in pieces.

    results (RFC 8601)   pass | fail | policy | permerror | temperror
    policy               the signature is right, and not enough: a weak key or hash, a part of the body not signed

At most SIGNATURES_MAX are looked at, those of the author's domain first. Memory is that of the header.
"""

import hashlib
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pyqmail.mailauth.canonical import (
    HEADER_FORMS,
    BodyHash,
    Field,
    signed_fields,
    without_signature,
)
from pyqmail.mailauth.keys import BadKey, PublicKey, WeakKey, find_key, key_name
from pyqmail.mailauth.lookups import Lookups, TemporaryFailure
from pyqmail.mailauth.tags import BadTags, parse_base64, parse_number, parse_tags, without_blanks
from pyqmail.protocol.host_names import is_name

SIGNATURES_MAX = 8
NAMES_MAX = 1000  # that one h= may list
SKEW_S = 3600  # that clocks may differ
ALGORITHMS = {b"rsa-sha256": b"rsa", b"ed25519-sha256": b"ed25519"}


@dataclass(frozen=True, slots=True)
class Signature:
    """One signature field, read. ``limit`` is its l=, in bytes."""

    field: Field
    algorithm: bytes
    domain: bytes
    selector: bytes
    identity: bytes
    names: tuple[bytes, ...]
    body_hash: bytes
    value: bytes
    text: bytes = b""  # the value as it stands in b=, without blanks
    header_form: bytes = b"simple"
    body_form: bytes = b"simple"
    limit: int | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What is known of one signature. ``value`` is its b= in base64, to tell signatures of one domain apart."""

    result: bytes
    domain: bytes = b""
    selector: bytes = b""
    identity: bytes = b""
    algorithm: bytes = b""
    value: bytes = b""
    reason: str = ""
    key: str = ""  # what the key is, for people


def parse_signature(field: Field, now: float, *, arc: bool = False) -> Signature:
    """The signature in ``field``. Raises BadTags, with the reason; ``arc``: it is an ARC-Message-Signature."""
    tags = parse_tags(field.body)
    required = (b"a", b"b", b"bh", b"d", b"h", b"s") if arc else (b"v", b"a", b"b", b"bh", b"d", b"h", b"s")
    for tag in required:
        if not tags.get(tag):
            raise BadTags(f"no {tag.decode()}= tag")
    if not arc and tags[b"v"] != b"1":
        raise BadTags("another version")
    domain, selector = tags[b"d"].lower(), tags[b"s"].lower()
    if not is_name(domain) or not is_name(selector):
        raise BadTags("a name is malformed")
    names = tuple(name.lower() for name in without_blanks(tags[b"h"]).split(b":"))
    if len(names) > NAMES_MAX or b"from" not in names:
        raise BadTags("From is not signed" if b"from" not in names else "too many signed fields")
    forms = without_blanks(tags.get(b"c", b"simple/simple")).lower().split(b"/")
    forms += [b"simple"] if len(forms) == 1 else []
    if len(forms) != 2 or forms[0] not in HEADER_FORMS or forms[1] not in HEADER_FORMS:
        raise BadTags("unknown canonicalization")
    if b"dns/txt" not in without_blanks(tags.get(b"q", b"dns/txt")).lower().split(b":"):
        raise BadTags("unknown query method")
    identity = b"@" + domain if arc else without_blanks(tags.get(b"i", b"@" + domain))
    host = identity.rpartition(b"@")[2].lower()
    if b"@" not in identity or (host != domain and not host.endswith(b"." + domain)):
        raise BadTags("i= is not within d=")
    _check_times(tags, now)
    text = without_blanks(tags[b"b"])
    return Signature(
        field, tags[b"a"].lower(), domain, selector, identity, names, parse_base64(tags[b"bh"]), parse_base64(text),
        text, forms[0], forms[1], parse_number(tags[b"l"]) if tags.get(b"l") else None,
    )  # fmt: skip


def _check_times(tags: dict[bytes, bytes], now: float) -> None:
    made = parse_number(tags[b"t"]) if tags.get(b"t") else 0
    if made > now + SKEW_S:
        raise BadTags("made in the future")
    if tags.get(b"x"):
        expires = parse_number(tags[b"x"])
        if expires < now - SKEW_S or expires < made:
            raise BadTags("expired")


def header_digest(signature: Signature, fields: Sequence[Field]) -> bytes:
    """The SHA-256 of what ``signature`` says of the header (RFC 6376 section 3.7)."""
    form = HEADER_FORMS[signature.header_form]
    hashed = hashlib.sha256()
    others = [field for field in fields if field is not signature.field]
    for field in signed_fields(others, signature.names):
        hashed.update(form(field.text))
    hashed.update(form(without_signature(signature.field.text)).removesuffix(b"\r\n"))
    return hashed.digest()


class Bodies:
    """One pass over a body for all signatures that want a hash of it."""

    def __init__(self, signatures: Iterable[Signature]) -> None:
        self._hashes = {(each.body_form, each.limit): BodyHash(each.body_form, each.limit) for each in signatures}
        self._digests: dict[tuple[bytes, int | None], bytes] = {}

    @property
    def wanted(self) -> bool:
        """Whether anybody asks for a hash."""
        return bool(self._hashes)

    def feed(self, piece: bytes) -> None:
        """Some more of the body."""
        for each in self._hashes.values():
            each.feed(piece)

    def end(self) -> None:
        """That was all of it."""
        self._digests = {key: each.digest() for key, each in self._hashes.items()}

    def read(self, pieces: Iterable[bytes]) -> None:
        """Hash all of it."""
        for piece in pieces:
            self.feed(piece)
        self.end()

    def fits(self, signature: Signature) -> bool:
        """Whether the body is the one that was signed."""
        key = (signature.body_form, signature.limit)
        if signature.limit is not None and signature.limit > self._hashes[key].size:
            return False
        return self._digests[key] == signature.body_hash

    def unsigned(self, signature: Signature) -> int:
        """The bytes at the end of the body that the signature leaves out."""
        size = self._hashes[signature.body_form, signature.limit].size
        return 0 if signature.limit is None else max(0, size - signature.limit)


class Verifier:
    """The signatures of one message: made of its header, told the body, asked for what they are worth."""

    def __init__(self, fields: Sequence[Field], author: bytes = b"", now: float | None = None) -> None:
        """``author`` is the domain whose signatures count most."""
        self._fields = fields
        self._now = time.time() if now is None else now
        found = [field for field in fields if field.name == b"dkim-signature"]
        near = [field for field in found if author and author in without_blanks(field.body).lower()]
        chosen = near[:SIGNATURES_MAX]
        self._chosen = chosen + [field for field in found if field not in near][: SIGNATURES_MAX - len(chosen)]
        self.left_out = len(found) - len(self._chosen)
        self._read: list[Signature | Outcome] = [self._parse(field) for field in self._chosen]
        self.bodies = Bodies(self.signatures)

    @property
    def signatures(self) -> list[Signature]:
        """Those that can be verified at all."""
        return [each for each in self._read if isinstance(each, Signature)]

    def read_body(self, pieces: Iterable[bytes]) -> None:
        """Hash the body."""
        self.bodies.read(pieces)

    def key_names(self) -> list[bytes]:
        """The names that ``outcomes`` asks for keys, after the body has been read."""
        return [key_name(each.selector, each.domain) for each in self.signatures if self.bodies.fits(each)]

    def outcomes(self, lookups: Lookups) -> list[Outcome]:
        """What each signature is worth, after the body has been read. Never raises."""
        return [each if isinstance(each, Outcome) else self._verify(each, lookups) for each in self._read]

    def _parse(self, field: Field) -> Signature | Outcome:
        try:
            signature = parse_signature(field, self._now)
        except BadTags as error:
            return _unread(field, str(error))
        if signature.algorithm not in ALGORITHMS:
            result = b"policy" if signature.algorithm == b"rsa-sha1" else b"permerror"
            return _outcome(signature, result, "unsafe algorithm" if result == b"policy" else "unknown algorithm")
        return signature

    def _verify(self, signature: Signature, lookups: Lookups) -> Outcome:
        if not self.bodies.fits(signature):
            return _outcome(signature, b"fail", "the body has been altered")
        outcome = judge(signature, header_digest(signature, self._fields), lookups)
        if outcome.result == b"pass" and self.bodies.unsigned(signature):
            left = self.bodies.unsigned(signature)
            return _outcome(signature, b"policy", f"{left} bytes of the body are not signed", outcome.key)
        return outcome


def judge(signature: Signature, digest: bytes, lookups: Lookups) -> Outcome:
    """What ``signature`` is worth for a header with this ``digest``. Never raises."""
    try:
        key = find_key(lookups, signature.selector, signature.domain, ALGORITHMS[signature.algorithm])
    except TemporaryFailure:
        return _outcome(signature, b"temperror", "no answer about the key")
    except WeakKey as error:
        return _outcome(signature, b"policy", str(error))
    except BadKey as error:
        return _outcome(signature, b"permerror", str(error))
    return _with_key(signature, digest, key)


def _with_key(signature: Signature, digest: bytes, key: PublicKey) -> Outcome:
    if key.same_domain and signature.identity.rpartition(b"@")[2].lower() != signature.domain:
        return _outcome(signature, b"permerror", "the key is not for subdomains", key.words)
    if not key.verifies(signature.value, digest):
        return _outcome(signature, b"fail", "the signature does not fit", key.words)
    return _outcome(signature, b"pass", "the key is being tested" if key.testing else "", key.words)


def _outcome(signature: Signature, result: bytes, reason: str = "", key: str = "") -> Outcome:
    return Outcome(
        result, signature.domain, signature.selector, signature.identity, signature.algorithm, signature.text, reason,
        key,
    )  # fmt: skip


def _unread(field: Field, reason: str) -> Outcome:
    """The outcome of a field that is no signature; its names only where they are names."""
    try:
        tags = parse_tags(field.body)
    except BadTags:
        return Outcome(b"permerror", reason=reason)
    domain, selector = tags.get(b"d", b"").lower(), tags.get(b"s", b"").lower()
    result = b"fail" if reason == "expired" else b"permerror"
    return Outcome(
        result,
        domain if is_name(domain) else b"",
        selector if is_name(selector) else b"",
        value=without_blanks(tags.get(b"b", b"")),
        reason=reason,
    )
