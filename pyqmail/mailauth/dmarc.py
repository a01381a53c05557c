"""DMARC (RFC 9989): the policy of the author's domain, found by walking up the tree, and whether the message meets it.

No list of public suffixes is asked. A walk is 8 questions at most; ``psd`` ends it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from pyqmail.mailauth.lookups import Absent, Lookups
from pyqmail.mailauth.tags import BadTags, parse_tags
from pyqmail.protocol.dns import Kind

WALK_MAX = 8  # questions (RFC 9989 section 4.10)
POLICIES = (b"none", b"quarantine", b"reject")
MILDER = {b"reject": b"quarantine", b"quarantine": b"none", b"none": b"none"}


@dataclass(frozen=True, slots=True)
class Record:
    """A policy record, and the domain that it is of. Policies are empty where they are not given."""

    domain: bytes
    policy: bytes
    subdomains: bytes = b""
    missing: bytes = b""  # for domains that do not exist
    strict_dkim: bool = False
    strict_spf: bool = False
    suffix: bytes = b"u"  # psd=
    testing: bool = False
    reports: tuple[bytes, ...] = ()  # rua=, as they stand
    usable: bool = True  # its policies are well formed, or it asks for reports
    text: bytes = b""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The result, the author's domain, the policy that is asked for, and what aligned."""

    result: bytes  # pass, fail, none, temperror, permerror
    author: bytes = b""
    policy: bytes = b"none"
    record: Record | None = None
    aligned: tuple[bytes, ...] = ()  # the identifiers that did
    reason: str = ""
    steps: tuple[str, ...] = ()


@lru_cache(maxsize=256)  # much mail comes from few domains
def parse_record(domain: bytes, text: bytes) -> Record | None:
    """The record of ``domain`` in a TXT record; None where it is none. What is malformed in it counts as left out
    (RFC 9989 section 4.8).
    """
    first, _, rest = text.partition(b";")
    name, equals, version = first.partition(b"=")
    if not equals or name.strip(b" \t") != b"v" or version.strip(b" \t") != b"DMARC1":
        return None
    tags: dict[bytes, bytes] = {}
    for part in rest.split(b";")[:100]:
        try:
            tags = {**parse_tags(part), **tags}  # of equal tags the first
        except BadTags:
            continue
    values = {name: tags.get(name, b"").lower() for name in (b"p", b"sp", b"np", b"adkim", b"aspf", b"psd", b"t")}
    reports = tuple(uri.strip(b" \t") for uri in tags.get(b"rua", b"").split(b",") if b":" in uri)
    good = all(values[tag] in POLICIES or tag not in tags for tag in (b"p", b"sp", b"np"))
    given = (values[b"p"], values[b"sp"], values[b"np"])
    policies = given if good and b"p" in tags else (b"none", b"", b"")
    usable = bool(reports) or good
    suffix = values[b"psd"] if values[b"psd"] in (b"y", b"n") else b"u"
    return Record(
        domain, *policies, values[b"adkim"] == b"s", values[b"aspf"] == b"s", suffix, values[b"t"] == b"y",
        reports, usable, text[:512],
    )  # fmt: skip


def names_to_ask(domain: bytes) -> Iterator[bytes]:
    """``domain`` and the parents that a walk asks, at most 8 names."""
    labels = domain.split(b".")
    yield domain
    for count in range(min(len(labels) - 1, WALK_MAX - 1), 0, -1):
        yield b".".join(labels[len(labels) - count :])


def record_names(author: bytes) -> list[bytes]:
    """The names that ``evaluate`` asks for records of the ``author``'s domain; none without an author."""
    return [_record_name(domain) for domain in names_to_ask(author)] if author else []


def _record_name(domain: bytes) -> bytes:
    return b"_dmarc." + domain


def look_up_record(lookups: Lookups, domain: bytes) -> Record | None:
    """The record at ``domain`` itself; of several none counts. Raises TemporaryFailure."""
    try:
        texts = lookups.texts(_record_name(domain))
    except Absent:
        return None
    found = [record for record in (parse_record(domain, text) for text in texts) if record is not None]
    return found[0] if len(found) == 1 else None


def walk(lookups: Lookups, domain: bytes) -> list[Record]:
    """The records from ``domain`` upwards, the longest name first. Raises TemporaryFailure."""
    found = []
    for name in names_to_ask(domain):
        record = look_up_record(lookups, name)
        if record is not None:
            found.append(record)
            if record.suffix in (b"y", b"n"):
                break
    return found


def organizational_domain(domain: bytes, records: Sequence[Record]) -> bytes:
    """The domain that stands for all below it, by the ``records`` of a walk from it (RFC 9989 section 4.10.2)."""
    for record in records:
        if record.suffix == b"n":
            return record.domain
        if record.suffix == b"y" and record.domain != domain:
            labels = domain.split(b".")
            return b".".join(labels[-record.domain.count(b".") - 2 :])
    return records[-1].domain if records else domain


def evaluate(author: bytes, spf: bytes, signed: Sequence[bytes], lookups: Lookups, *, unsure: bool = False) -> Verdict:
    """The verdict for the ``author``'s domain: ``spf`` is the domain that SPF passed for, else empty; ``signed`` are
    those of right signatures. ``unsure``: SPF or a signature could not be checked. Raises TemporaryFailure.
    """
    records = walk(lookups, author)
    organization = organizational_domain(author, records)
    record = _applicable(author, organization, records)
    steps = tuple(f"_dmarc.{_shown(each.domain)}: {_shown(each.text)}" for each in records)
    if record is None or not record.usable:
        return Verdict(b"none", author, record=record, steps=steps, reason="no policy record")
    aligned = []
    for domain, strict in ((spf, record.strict_spf), *((each, record.strict_dkim) for each in signed)):
        if domain and domain not in aligned and _aligns(domain, author, organization, lookups, strict=strict):
            aligned.append(domain)
    if aligned:
        return Verdict(b"pass", author, record=record, aligned=tuple(aligned), steps=steps)
    if unsure:
        return Verdict(b"temperror", author, record=record, steps=steps, reason="a check had no answer")
    return Verdict(b"fail", author, _policy(record, author, lookups), record, steps=steps)


def policy_for(author: bytes, lookups: Lookups) -> bytes:
    """What ``author``'s domain asks to be done with mail that is not its own: none, also without a record, quarantine
    or reject. Raises TemporaryFailure.
    """
    records = walk(lookups, author)
    record = _applicable(author, organizational_domain(author, records), records)
    return b"none" if record is None or not record.usable else _policy(record, author, lookups)


def _applicable(author: bytes, organization: bytes, records: Sequence[Record]) -> Record | None:
    """The author's record, else the organization's, else that of the public suffix (RFC 9989 section 4.10.1)."""
    by_domain = {record.domain: record for record in records}
    suffix = next((record for record in records if record.suffix == b"y"), None)
    return by_domain.get(author) or by_domain.get(organization) or suffix


def _aligns(domain: bytes, author: bytes, organization: bytes, lookups: Lookups, *, strict: bool) -> bool:
    if domain == author:
        return True
    if strict:
        return False
    return organizational_domain(domain, walk(lookups, domain)) == organization


def _policy(record: Record, author: bytes, lookups: Lookups) -> bytes:
    """What the record asks for; under test one step less."""
    policy = record.policy
    if record.domain != author:
        policy = record.subdomains or policy
        if record.missing and not exists(author, lookups):
            policy = record.missing
    return MILDER[policy] if record.testing else policy


def exists(domain: bytes, lookups: Lookups) -> bool:
    """Whether anything is under that name: NXDOMAIN, for whichever type, says no (RFC 9989 section 3.2.13, RFC 8020).

    Raises TemporaryFailure.
    """
    try:
        lookups.addresses(domain, Kind.A)
    except Absent as absent:
        return not absent.no_name
    return True


def _shown(text: bytes) -> str:
    return text[:300].decode("ascii", "replace")
