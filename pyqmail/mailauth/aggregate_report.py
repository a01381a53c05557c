"""An aggregate report as XML (RFC 9990): what was seen of mail that a domain's policy is for, in one day."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

from pyqmail.mailauth.dmarc import Record
from pyqmail.mailauth.report_events import Event

NAMESPACE = "urn:ietf:params:xml:ns:dmarc-2.0"
ROWS_MAX = 10_000  # of one report; the most frequent stay
DOMAINS_MAX = 10_000  # reported on, of one day


@dataclass(frozen=True, slots=True)
class Reporter:
    """Who reports: the name of the host, the address for questions, and the program."""

    name: str
    email: str
    generator: str


@dataclass(frozen=True, slots=True)
class Period:
    """From when to when, in seconds since 1970."""

    begin: int
    end: int


def by_domain(events: Iterable[Event]) -> dict[str, Counter[Event]]:
    """Equal events counted, by the domain whose policy they are about."""
    found: dict[str, Counter[Event]] = {}
    for event in events:
        counts = found.get(event.policy_domain)
        if counts is None:
            if len(found) >= DOMAINS_MAX:
                continue
            counts = found[event.policy_domain] = Counter()
        if event in counts or len(counts) < ROWS_MAX:
            counts[event] += 1
    return found


def report_id(domain: str, period: Period, reporter: Reporter) -> str:
    """The same for the same report, however often it is made.

    What is left of the @ is no other host's either: parsedmarc drops the rest, and takes the hosts of an organization
    for one reporter.
    """
    return f"{period.begin}.{domain}.{reporter.name}@{reporter.name}"


def format_report(record: Record, counts: Counter[Event], period: Period, reporter: Reporter) -> bytes:
    """The whole report, UTF-8."""
    domain = record.domain.decode("ascii", "replace")
    lines = [
        '<?xml version="1.0" encoding="UTF-8"?>',
        f'<feedback xmlns="{NAMESPACE}">',
        _element("version", "1.0"),
        "<report_metadata>",
        _element("org_name", reporter.name),
        _element("email", reporter.email),
        _element("report_id", report_id(domain, period, reporter)),
        f"<date_range>{_element('begin', str(period.begin))}{_element('end', str(period.end))}</date_range>",
        _element("generator", reporter.generator),
        "</report_metadata>",
        "<policy_published>",
        *_policy(record, domain),
        "</policy_published>",
    ]
    for event, count in counts.most_common():
        lines += _record(event, count)
    return "\n".join([*lines, "</feedback>", ""]).encode()


def _policy(record: Record, domain: str) -> Sequence[str]:
    policy = record.policy.decode()
    subdomains = record.subdomains.decode() or policy
    return (
        _element("domain", domain),
        _element("discovery_method", "treewalk"),
        _element("p", policy),
        _element("sp", subdomains),
        _element("np", record.missing.decode() or subdomains),
        _element("adkim", "s" if record.strict_dkim else "r"),
        _element("aspf", "s" if record.strict_spf else "r"),
        _element("testing", "y" if record.testing else "n"),
    )


def _record(event: Event, count: int) -> Sequence[str]:
    lines = [
        "<record><row>",
        _element("source_ip", event.ip),
        _element("count", str(count)),
        "<policy_evaluated>",
        _element("disposition", event.disposition),
        _element("dkim", "pass" if event.dkim else "fail"),
        _element("spf", "pass" if event.spf else "fail"),
    ]
    if event.reason:
        lines.append(f"<reason>{_element('type', event.reason)}</reason>")
    identifiers = _element("envelope_from", event.spf_domain) + _element("header_from", event.author)
    lines += [
        "</policy_evaluated></row>",
        f"<identifiers>{identifiers}</identifiers>",
        "<auth_results>",
    ]
    for domain, selector, result in event.signatures:
        names = _element("domain", domain) + _element("selector", selector)
        lines.append(f"<dkim>{names}{_element('result', result)}</dkim>")
    spf = _element("domain", event.spf_domain) + _element("scope", "mfrom") + _element("result", event.spf_result)
    return [*lines, f"<spf>{spf}</spf>", "</auth_results></record>"]


def _element(name: str, text: str) -> str:
    """``text``, a stranger's perhaps, in an element: nothing but printable ASCII."""
    clean = "".join(char if " " <= char <= "~" else "?" for char in text)
    return f"<{name}>{escape(clean)}</{name}>"
