"""All checks, domain by domain, each with its own bound of time and questions."""

from collections.abc import Iterator

from pyqmail.admin.dnscheck.domain import DomainCheck, exchangers
from pyqmail.admin.dnscheck.finding import Finding
from pyqmail.admin.dnscheck.host import host_findings, is_here, outgoing, tlsa_findings
from pyqmail.admin.dnscheck.subject import read_subject
from pyqmail.admin.rights import drop_rights
from pyqmail.mailauth.lookups import Absent, CachedLookups, TemporaryFailure, look_up_within

BUDGET_S = 20.0  # for the questions about one domain, and about the host


def look(home: str, named: tuple[bytes, ...] = ()) -> Iterator[Finding]:
    """What there is to say of this host and of ``named``, or of all our domains. This process is root no longer then.

    Raises ControlUnreadable, AccountMissing and OSError.
    """
    subject = read_subject(home, named)
    drop_rights(home)
    lookups = CachedLookups(look_up_within(home, BUDGET_S))
    everybody = outgoing(subject, lookups)
    yield from host_findings(subject, everybody, lookups)
    hosts: dict[bytes, None] = {}
    for domain in subject.domains:
        lookups = CachedLookups(look_up_within(home, BUDGET_S))
        bound = subject.sources.bindings or {}
        own = tuple(address for address in bound.get(domain, ()) if address) or everybody
        yield from DomainCheck(domain, subject, own, lookups).findings()
        try:
            hosts |= dict.fromkeys(exchangers(domain, lookups))
        except (Absent, TemporaryFailure):
            continue
    for host in hosts:
        lookups = CachedLookups(look_up_within(home, BUDGET_S))
        if is_here(host, subject, everybody, lookups):
            yield from tlsa_findings(host, subject, lookups)
