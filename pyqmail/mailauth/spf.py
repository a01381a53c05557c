"""SPF: whether a host may send for a domain (RFC 7208). The core asks a Lookups and nothing else.

check_host      none | neutral | pass | fail | softfail | temperror | permerror
bounds          10 terms that ask DNS, 2 look-ups without records, 10 exchangers or names each (section 4.6.4)
"""

import socket
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from pyqmail.mailauth.lookups import Absent, Lookups, TemporaryFailure
from pyqmail.mailauth.spf_macros import Expander, trimmed
from pyqmail.mailauth.spf_record import (
    EXPLANATION_LETTERS,
    BadRecord,
    Mechanism,
    Record,
    check_macros,
    is_record,
    parse_record,
    parse_terms,
)
from pyqmail.protocol.dns import Kind
from pyqmail.protocol.packed_address import settle_mapped

TERMS_MAX = 10
VOIDS_MAX = 2
NAMES_MAX = 10  # exchangers of a domain, or names of an address
EXPLANATION_MAX = 400  # bytes, so that it fits an SMTP reply
RESULTS = {b"+": b"pass", b"-": b"fail", b"~": b"softfail", b"?": b"neutral"}


class PermanentError(Exception):
    """The records are wrong; the text says how."""


@dataclass(frozen=True, slots=True)
class Query:
    """Who is asked about: the packed address of the client, the sender with its domain, the name it greeted with."""

    ip: bytes
    sender: bytes  # never empty: postmaster@HELO for a bounce
    helo: bytes
    receiver: bytes = b"unknown"

    @property
    def domain(self) -> bytes:
        """The domain that the sender claims."""
        return self.sender.rpartition(b"@")[2]


@dataclass(frozen=True, slots=True)
class Finding:
    """The result, the mechanism that decided, why it is an error, and what the domain says to those it fails."""

    result: bytes
    mechanism: bytes = b""
    problem: str = ""
    explanation: bytes = b""
    strict: bool = False  # the record itself, not one that it names, ends with -all, and that decided
    local: bool = False  # it is our own rules that let the client in, not the domain
    steps: tuple[str, ...] = ()


@dataclass
class _Run:
    """What is counted over all records of one check."""

    terms: int = 0
    voids: int = 0
    steps: list[str] = field(default_factory=list)


def query_for(ip: bytes, sender: bytes, helo: bytes, receiver: bytes = b"unknown") -> Query | None:
    """The query for a client's text address; None where the address is none. The zone of a link-local one goes."""
    text = ip.partition(b"%")[0].decode("ascii", "replace")
    try:
        packed = socket.inet_pton(socket.AF_INET6 if ":" in text else socket.AF_INET, text)
    except (OSError, ValueError):
        return None
    local, at, domain = sender.rpartition(b"@")
    if not sender or not at:
        sender = b"postmaster@" + (helo if not sender else domain)
    elif not local:
        sender = b"postmaster@" + domain
    return Query(settle_mapped(packed), sender, helo, receiver)


def check_host(query: Query, lookups: Lookups, *, local_rules: bytes = b"", explanation: bytes = b"") -> Finding:
    """Whether the client may send for the domain of the sender.

    ``local_rules`` are terms that are tried where the domain's own record does not say pass; ``explanation`` is the
    text, with macros, for a domain that has none of its own. Never raises.
    """
    check = _Check(query, lookups)
    finding = check.run(query.domain)
    if local_rules and finding.result in (b"fail", b"softfail", b"neutral", b"none"):
        local = _Check(query, lookups).run_terms(query.domain, local_rules)
        if local.result == b"pass":
            return replace(local, local=True)
    if finding.result == b"fail" and not finding.explanation and explanation:
        text = _Check(query, lookups).expanded(explanation, query.domain)
        return Finding(b"fail", finding.mechanism, explanation=text, strict=finding.strict, steps=finding.steps)
    return finding


def is_domain(name: bytes) -> bool:
    """Whether ``name`` can have a record: two labels or more, none empty or too long (section 4.3)."""
    labels = name.removesuffix(b".").split(b".")
    return len(labels) > 1 and all(0 < len(label) <= 63 for label in labels) and len(name) <= 253 and name[:1] != b"["


class _Check:
    """One check, over all records that it leads to."""

    def __init__(self, query: Query, lookups: Lookups) -> None:
        self._query = query
        self._lookups = lookups
        self._run = _Run()
        self._expander = Expander(query.ip, query.sender, query.helo, query.receiver, self._validated_name)

    def run(self, domain: bytes) -> Finding:
        """The result for ``domain``. Never raises."""
        return self._guarded(lambda: self._evaluate(domain, first=True))

    def run_terms(self, domain: bytes, terms: bytes) -> Finding:
        """The result of ``terms`` as if they were the record of ``domain``. Never raises."""
        return self._guarded(lambda: self._try(parse_terms(terms), domain, first=True))

    def _guarded(self, evaluate: Callable[[], Finding]) -> Finding:
        try:
            found = evaluate()
        except TemporaryFailure as failure:
            found = Finding(b"temperror", problem=str(failure)[:120] or "no answer")
        except (PermanentError, BadRecord) as error:
            found = Finding(b"permerror", problem=str(error)[:120])
        return replace(found, steps=tuple(self._run.steps))

    def _evaluate(self, domain: bytes, *, first: bool) -> Finding:
        if not is_domain(domain):
            return Finding(b"none", problem="not a domain name")
        record = self._record(domain)
        return Finding(b"none") if record is None else self._try(record, domain, first=first)

    def _record(self, domain: bytes) -> Record | None:
        """The record of ``domain``. Raises BadRecord, PermanentError and TemporaryFailure."""
        try:
            found = [text for text in self._lookups.texts(domain) if is_record(text)]
        except Absent:
            found = []
        if len(found) > 1:
            raise PermanentError("more than one record")
        shown = found[0][:300].decode("ascii", "replace") if found else "no record"
        self._run.steps.append(f"{domain.decode('ascii', 'replace')}: {shown}")
        return parse_record(found[0]) if found else None

    def _try(self, record: Record, domain: bytes, *, first: bool) -> Finding:
        for mechanism in record.mechanisms:
            matches = self._matches(mechanism, domain)
            self._run.steps.append(f"  {mechanism.text.decode('ascii', 'replace')}: {'yes' if matches else 'no'}")
            if matches:
                result = RESULTS[mechanism.qualifier]
                strict = first and mechanism.name == b"all" and result == b"fail"
                text = self._explanation(record, domain) if result == b"fail" and first else b""
                return Finding(result, mechanism.text, explanation=text, strict=strict)
        if not record.redirect:
            return Finding(b"neutral", b"default")
        self._count_term()
        target = self._domain(record.redirect, domain)
        found = self._evaluate(target, first=first)
        if found.result == b"none":
            raise PermanentError("redirect to a domain without a record")
        return found

    # mechanisms

    def _matches(self, mechanism: Mechanism, domain: bytes) -> bool:
        name = mechanism.name
        if name == b"all":
            return True
        if name in (b"ip4", b"ip6"):
            return self._inside(mechanism.network, mechanism)
        self._count_term()
        target = self._domain(mechanism.domain, domain) if mechanism.domain else domain
        if name == b"include":
            return self._included(target)
        if name == b"exists":
            return bool(self._found_addresses(target, Kind.A))
        if name == b"a":
            return any(self._inside(address, mechanism) for address in self._found_addresses(target, self._kind))
        if name == b"mx":
            return self._is_exchanger(target, mechanism)
        return self._validated_name(target) != b"unknown"

    def _included(self, target: bytes) -> bool:
        found = self._evaluate(target, first=False)
        if found.result == b"none":
            raise PermanentError("include of a domain without a record")
        return found.result == b"pass"

    def _is_exchanger(self, target: bytes, mechanism: Mechanism) -> bool:
        try:
            exchangers = self._lookups.exchangers(target) if is_askable(target) else ()
        except Absent:
            exchangers = ()
        if not exchangers:
            self._count_void()
        if len(exchangers) > NAMES_MAX:
            raise PermanentError("more than 10 exchangers")
        for exchanger in exchangers:
            for address in self._found_addresses(exchanger.exchanger, self._kind):
                if self._inside(address, mechanism):
                    return True
        return False

    def _validated_name(self, target: bytes) -> bytes:
        """A name of the client in ``target``, any if that is empty, that leads back to it; else ``unknown``."""
        try:
            names = self._lookups.names(trimmed(self._expander.reverse_name))[:NAMES_MAX]
        except Absent:
            self._count_void()
            return b"unknown"
        except TemporaryFailure:
            return b"unknown"  # section 5.5: a failure here is no match
        inside = [name for name in names if name == target.lower()]
        inside += [name for name in names if not target or name.endswith(b"." + target.lower())]
        for name in inside:
            try:
                if self._query.ip in self._lookups.addresses(name, self._kind):
                    return name
            except (Absent, TemporaryFailure):
                continue
        return b"unknown"

    @property
    def _kind(self) -> Kind:
        return Kind.A if len(self._query.ip) == 4 else Kind.AAAA

    def _found_addresses(self, name: bytes, kind: Kind) -> tuple[bytes, ...]:
        try:
            return self._lookups.addresses(name, kind) if is_askable(name) else ()
        except Absent:
            self._count_void()
            return ()

    def _inside(self, network: bytes, mechanism: Mechanism) -> bool:
        if len(network) != len(self._query.ip):
            return False
        bits = mechanism.bits4 if len(network) == 4 else mechanism.bits6
        shift = 8 * len(network) - bits
        return int.from_bytes(network, "big") >> shift == int.from_bytes(self._query.ip, "big") >> shift

    # texts

    def _domain(self, text: bytes, domain: bytes) -> bytes:
        return trimmed(self._expander.expand(text, domain))

    def _explanation(self, record: Record, domain: bytes) -> bytes:
        """What the domain says to those it fails; nothing where there is any trouble about it (section 6.2)."""
        if not record.explanation:
            return b""
        try:
            texts = self._lookups.texts(self._domain(record.explanation, domain))
        except (Absent, TemporaryFailure, BadRecord):
            return b""
        return self.expanded(texts[0], domain) if len(texts) == 1 else b""

    def expanded(self, text: bytes, domain: bytes) -> bytes:
        """``text`` with its macros; empty where it is malformed or not printable ASCII."""
        try:
            check_macros(text, domain=False, letters=EXPLANATION_LETTERS)
            told = self._expander.expand(text, domain, explaining=True)[:EXPLANATION_MAX]
        except BadRecord:
            return b""
        return told if all(0x20 <= byte <= 0x7E for byte in told) else b""

    # bounds

    def _count_term(self) -> None:
        self._run.terms += 1
        if self._run.terms > TERMS_MAX:
            raise PermanentError("more than 10 look-ups")

    def _count_void(self) -> None:
        self._run.voids += 1
        if self._run.voids > VOIDS_MAX:
            raise PermanentError("more than 2 look-ups without an answer")


def is_askable(name: bytes) -> bool:
    """Whether DNS can be asked for ``name``: no label is empty or too long."""
    return (
        bool(name) and all(0 < len(label) <= 63 for label in name.removesuffix(b".").split(b".")) and len(name) <= 254
    )
