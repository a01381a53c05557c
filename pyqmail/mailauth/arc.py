"""Verifying an ARC chain (RFC 8617 section 5.2): none, pass, fail or temperror. Nothing is sealed here."""

import hashlib
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pyqmail.mailauth.canonical import Field, relaxed_field, without_signature
from pyqmail.mailauth.dkim import ALGORITHMS, Bodies, Outcome, Signature, header_digest, judge, parse_signature
from pyqmail.mailauth.lookups import Lookups
from pyqmail.mailauth.tags import BadTags, parse_base64, parse_number, parse_tags
from pyqmail.protocol.host_names import is_name

INSTANCES_MAX = 20  # RFC 8617 allows 50; each seal costs a look-up
SEAL, SIGNATURE, RESULTS = b"arc-seal", b"arc-message-signature", b"arc-authentication-results"


@dataclass(frozen=True, slots=True)
class Chain:
    """What is known of the chain; the domain of its last seal, and how many sets it has."""

    result: bytes
    reason: str = ""
    domain: bytes = b""
    sets: int = 0


class BadChain(Exception):
    """The sets do not fit together."""


class ArcVerifier:
    """The chain of one message: made of its header, told the body, asked once."""

    def __init__(self, fields: Sequence[Field], now: float | None = None) -> None:
        self._fields = fields
        self._signature: Signature | None = None
        self._problem = ""
        self._sets: list[dict[bytes, Field]] = []
        try:
            self._sets = read_sets(fields)
            if self._sets:
                self._signature = parse_signature(
                    self._sets[-1][SIGNATURE], time.time() if now is None else now, arc=True
                )
                if self._signature.algorithm not in ALGORITHMS:
                    raise BadChain("unknown algorithm")
        except (BadChain, BadTags) as error:
            self._problem = str(error) or "malformed"
        self.bodies = Bodies([self._signature] if self._signature else [])

    def read_body(self, pieces: Iterable[bytes]) -> None:
        """Hash the body."""
        self.bodies.read(pieces)

    def chain(self, lookups: Lookups) -> Chain:
        """What the chain is worth, after the body has been read. Never raises."""
        if self._problem:
            return Chain(b"fail", self._problem, sets=len(self._sets))
        if self._signature is None:
            return Chain(b"none")
        domain = self._signature.domain
        if not self.bodies.fits(self._signature) or self.bodies.unsigned(self._signature):
            return Chain(b"fail", "the body has been altered", domain, len(self._sets))
        outcome = judge(self._signature, header_digest(self._signature, self._fields), lookups)
        for instance in range(len(self._sets), 0, -1):
            if outcome.result != b"pass":
                break
            outcome = self._judge_seal(instance, lookups)
        result = outcome.result if outcome.result in (b"pass", b"temperror") else b"fail"
        return Chain(result, outcome.reason, domain, len(self._sets))

    def _judge_seal(self, instance: int, lookups: Lookups) -> Outcome:
        field = self._sets[instance - 1][SEAL]
        try:
            seal = parse_seal(field)
        except BadTags as error:
            return Outcome(b"fail", reason=str(error))
        hashed = hashlib.sha256()
        for number, each in enumerate(self._sets[:instance], start=1):
            hashed.update(relaxed_field(each[RESULTS].text))
            hashed.update(relaxed_field(each[SIGNATURE].text))
            if number < instance:
                hashed.update(relaxed_field(each[SEAL].text))
        hashed.update(relaxed_field(without_signature(field.text)).removesuffix(b"\r\n"))
        return judge(seal, hashed.digest(), lookups)


def read_sets(fields: Sequence[Field]) -> list[dict[bytes, Field]]:
    """The sets of the chain in their order. Raises BadChain and BadTags."""
    sets: dict[int, dict[bytes, Field]] = {}
    for field in fields:
        if field.name not in (SEAL, SIGNATURE, RESULTS):
            continue
        instance = _instance(field)
        if not 1 <= instance <= INSTANCES_MAX or field.name in sets.setdefault(instance, {}):
            raise BadChain("an instance is too many")
        sets[instance][field.name] = field
    if sorted(sets) != list(range(1, len(sets) + 1)) or any(len(each) != 3 for each in sets.values()):
        raise BadChain("an instance is missing")
    ordered = [sets[instance] for instance in sorted(sets)]
    for instance, each in enumerate(ordered, start=1):
        if parse_tags(each[SEAL].body).get(b"cv", b"").lower() != (b"none" if instance == 1 else b"pass"):
            raise BadChain("a seal says that the chain has failed")
    return ordered


def _instance(field: Field) -> int:
    if field.name == RESULTS:
        name, _, value = field.body.partition(b";")[0].partition(b"=")
        if name.strip(b" \t\n").lower() != b"i":
            raise BadTags("no instance")
        return parse_number(value.strip(b" \t\n"))
    return parse_number(parse_tags(field.body).get(b"i", b""))


def parse_seal(field: Field) -> Signature:
    """The seal in ``field``, as a signature without a body. Raises BadTags."""
    tags = parse_tags(field.body)
    domain, selector = tags.get(b"d", b"").lower(), tags.get(b"s", b"").lower()
    algorithm = tags.get(b"a", b"").lower()
    if b"h" in tags or not is_name(domain) or not is_name(selector) or algorithm not in ALGORITHMS:
        raise BadTags("a seal is malformed")
    return Signature(field, algorithm, domain, selector, b"@" + domain, (), b"", parse_base64(tags.get(b"b", b"!")))
