"""What qmail-verifyd finds out about a sender and a message, as the pairs of its answers (qmail-verifyd(8)).

A sender's answer: ``spf`` and what belongs to it. A message's: ``author`` or ``problem``, ``dkim`` once for each
signature, ``dmarc`` with ``policy`` and what reports need (``aligned``, ``reporting``, ``testing``), ``arc``. Policy is
not here: it is the asker's.
"""

from collections.abc import Callable, Iterable, Mapping

from pyqmail.formats.netstring import NetstringError, format_netstrings, parse_netstrings
from pyqmail.mailauth.arc import ArcVerifier
from pyqmail.mailauth.author import BadAuthor, author_domain
from pyqmail.mailauth.canonical import BadHeader, parse_fields, split_message
from pyqmail.mailauth.dkim import Outcome, Verifier
from pyqmail.mailauth.dmarc import Verdict, evaluate, record_names, walk
from pyqmail.mailauth.lookups import Lookups, TemporaryFailure
from pyqmail.mailauth.spf import Finding, check_host, query_for
from pyqmail.protocol.verification import Pairs

Tell = Callable[[str, str], None]


def tell_nobody(what: str, text: str) -> None:
    """Steps are for who explains."""


def judge_sender(question: Mapping[bytes, bytes], lookups: Lookups, tell: Tell = tell_nobody) -> Pairs:
    """The answer about the client in ``ip`` with ``helo`` that sends from ``sender``; ``tell`` hears each step."""
    sender, helo = question.get(b"sender", b""), question.get(b"helo", b"")
    query = query_for(question.get(b"ip", b""), sender, helo, question.get(b"receiver", b"unknown"))
    if query is None:
        found, domain = Finding(b"none", problem="the client has no address"), b""
    else:
        found = check_host(
            query, lookups, local_rules=question.get(b"rules", b""), explanation=question.get(b"explanation", b"")
        )
        domain = query.domain.lower()
    for step in found.steps:
        tell("spf", step)
    return [
        (b"spf", found.result),
        (b"domain", domain),
        (b"mechanism", found.mechanism),
        (b"problem", found.problem.encode("ascii", "replace")),
        (b"explanation", found.explanation),
        (b"alone", b"1" if found.strict and not has_policy(domain, lookups) else b""),
        (b"local", b"1" if found.local else b""),
    ]


def has_policy(domain: bytes, lookups: Lookups) -> bool:
    """Whether the domain has a DMARC record, so that DKIM may still speak for its mail; yes where nobody can say."""
    try:
        return bool(walk(lookups, domain))
    except TemporaryFailure:
        return True


def judge_message(
    question: Mapping[bytes, bytes], pieces: Iterable[bytes], lookups: Lookups, tell: Tell = tell_nobody
) -> Pairs:
    """The answer about a text; ``spf``, ``domain`` and ``local`` of the question are what its sender's answer said.
    ``tell`` hears each record of the walk, and what aligns.
    """
    try:
        header, body = split_message(pieces)
        fields = parse_fields(header)
        author, problem = author_domain(fields), ""
    except (BadHeader, BadAuthor) as error:
        if isinstance(error, BadHeader):
            return [(b"problem", str(error).encode()), (b"dmarc", b"permerror"), (b"arc", b"none")]
        author, problem = b"", str(error)
    verifier, chain = Verifier(fields, author), ArcVerifier(fields)
    readers = [each for each in (verifier.bodies, chain.bodies) if each.wanted]
    for piece in body if readers else ():
        for reader in readers:
            reader.feed(piece)
    for reader in (verifier.bodies, chain.bodies):
        reader.end()
    lookups.ahead([*verifier.key_names(), *record_names(author)])
    outcomes = verifier.outcomes(lookups)
    answer = [(b"author", author), (b"problem", problem.encode())]
    answer += [(b"dkim", format_outcome(each)) for each in outcomes]
    answer += _dmarc_pairs(verdict := _dmarc(author, question, outcomes, lookups))
    for step in verdict.steps:
        tell("dmarc record", step)
    aligned = b", ".join(verdict.aligned).decode("ascii", "replace")
    tell("alignment", f"{aligned or 'nothing'} for From {author.decode('ascii', 'replace') or '(nobody)'}")
    arc = chain.chain(lookups)
    return [*answer, (b"arc", arc.result), (b"arc-domain", arc.domain), (b"arc-reason", arc.reason.encode())]


def _dmarc(author: bytes, question: Mapping[bytes, bytes], outcomes: list[Outcome], lookups: Lookups) -> Verdict:
    if not author:
        return Verdict(b"permerror", reason="no single author")
    spf = question.get(b"spf", b"none")
    passed = question.get(b"domain", b"") if spf == b"pass" and not question.get(b"local") else b""
    signed = [each.domain for each in outcomes if each.result == b"pass"]
    unsure = spf == b"temperror" or any(each.result == b"temperror" for each in outcomes)
    try:
        return evaluate(author, passed, signed, lookups, unsure=unsure)
    except TemporaryFailure as failure:
        return Verdict(b"temperror", author, reason=str(failure)[:80] or "no answer")


def _dmarc_pairs(verdict: Verdict) -> Pairs:
    published = verdict.record.policy if verdict.record else b""
    reporting = verdict.record.domain if verdict.record and verdict.record.reports else b""
    return [
        (b"dmarc", verdict.result),
        (b"policy", verdict.policy),
        (b"published", published),
        (b"aligned", b" ".join(verdict.aligned)),
        (b"reporting", reporting),
        (b"testing", b"y" if verdict.record and verdict.record.testing else b""),
    ]


def format_outcome(outcome: Outcome) -> bytes:
    """One signature's outcome as a value."""
    return format_netstrings((
        outcome.result, outcome.domain, outcome.selector, outcome.identity, outcome.algorithm, outcome.value[:16],
        outcome.reason.encode("ascii", "replace"), outcome.key.encode(),
    ))  # fmt: skip


def parse_outcome(value: bytes) -> Outcome | None:
    """The outcome in a value; None for anything else."""
    try:
        result, domain, selector, identity, algorithm, signature, reason, key = parse_netstrings(value)
    except (NetstringError, ValueError):
        return None
    return Outcome(
        result,
        domain,
        selector,
        identity,
        algorithm,
        signature,
        reason.decode("ascii", "replace"),
        key.decode("ascii", "replace"),
    )
