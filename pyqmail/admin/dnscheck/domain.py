"""One of our domains: where its mail goes, who may send for it, its DKIM keys, and what receivers are asked."""

from collections.abc import Iterator, Sequence

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from pyqmail.admin.dnscheck.finding import Finding, shown
from pyqmail.admin.dnscheck.subject import PublicHalf, Subject
from pyqmail.mailauth import dmarc
from pyqmail.mailauth.keys import BadKey, find_key
from pyqmail.mailauth.lookups import Absent, Lookups, TemporaryFailure
from pyqmail.mailauth.spf import check_host, query_for
from pyqmail.mailauth.tags import BadTags, parse_tags
from pyqmail.protocol.dns import Kind

SENDER = b"postmaster"  # whose mail SPF is asked about


def exchangers(domain: bytes, lookups: Lookups) -> tuple[bytes, ...]:
    """The hosts that take its mail, the best first; itself without MX. Raises Absent and TemporaryFailure."""
    try:
        found = sorted(lookups.exchangers(domain), key=lambda mx: mx.preference)
    except Absent as absent:
        if absent.no_name:
            raise
        return (domain,)
    return tuple(mx.exchanger.lower() for mx in found)


def addresses(host: bytes, lookups: Lookups) -> tuple[bytes, ...]:
    """The packed addresses of a host, of both families. Raises TemporaryFailure."""
    found: tuple[bytes, ...] = ()
    for kind in (Kind.A, Kind.AAAA):
        try:
            found += lookups.addresses(host, kind)
        except Absent:
            continue
    return found


class DomainCheck:
    """The checks of one domain of ``subject``, whose mail goes out from ``own`` (text addresses)."""

    def __init__(self, domain: bytes, subject: Subject, own: Sequence[str], lookups: Lookups) -> None:
        self._domain = domain
        self._subject = subject
        self._own = own
        self._lookups = lookups

    def findings(self) -> Iterator[Finding]:
        """One for each check, or more. Never raises."""
        for name, check in (
            ("mx", self._mx), ("spf", self._spf), ("dkim", self._dkim), ("dmarc", self._dmarc),
            ("mta-sts", self._mta_sts),
        ):  # fmt: skip
            try:
                for good, text in check():
                    yield Finding(shown(self._domain), name, good, text)
            except TemporaryFailure:
                yield Finding(shown(self._domain), name, False, "no answer: it cannot be told now")

    def _mx(self) -> Iterator[tuple[bool, str]]:
        try:
            hosts = exchangers(self._domain, self._lookups)
        except Absent:
            yield False, "there is no such name in DNS: nobody can send to it"
            return
        if hosts == (b"",):
            yield False, "the null MX says that it takes no mail"
            return
        names = ", ".join(map(shown, hosts[:10]))
        without = [host for host in hosts[:10] if not addresses(host, self._lookups)]
        for host in without:
            yield False, f"{shown(host)} has no address: mail for it waits, or bounces"
        if hosts == (self._domain,) and not without:
            yield True, f"there is none: mail goes to the address of {names}"
        elif not without:
            yield True, names

    def _spf(self) -> Iterator[tuple[bool, str]]:
        if not self._own:
            yield False, "the address that mail goes out from is not known: control/outgoingip can say it"
        for address in self._own:
            query = query_for(address.encode(), SENDER + b"@" + self._domain, self._subject.helo)
            if query is None:
                continue
            found = check_host(query, self._lookups)
            if found.result == b"temperror":
                raise TemporaryFailure
            if found.result == b"pass":
                yield True, f"mail from {address} passes by {shown(found.mechanism)}"
            elif found.result == b"none":
                yield False, f"there is no record: v=spf1 {_term(address)} -all would let {address} pass"
            else:
                why = found.problem or shown(found.mechanism) or "nothing in the record"
                yield False, f"mail from {address} has the result {found.result.decode()}: {why}"

    def _dkim(self) -> Iterator[tuple[bool, str]]:
        keys = self._subject.keys.get(self._domain, ())
        if isinstance(keys, str):
            yield False, keys
        elif not keys:
            yield False, f"no key in control/domainkeys/{shown(self._domain)}: mail from it is not signed"
        else:
            for key in keys:
                yield self._key(key)

    def _key(self, key: PublicHalf) -> tuple[bool, str]:
        where = f"{shown(key.selector)}._domainkey ({key.kind.decode()})"
        try:
            found = find_key(self._lookups, key.selector, self._domain, key.kind)
        except BadKey as error:
            return False, f"{where}: {error}: its signatures fail"
        if found.key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) != key.der:
            return False, f"{where}: DNS has another key than control/domainkeys: its signatures fail"
        return not found.testing, f"{where}: {found.words}, that of control/domainkeys" + (
            ", but t=y says that it is under test" if found.testing else ""
        )

    def _dmarc(self) -> Iterator[tuple[bool, str]]:
        records = dmarc.walk(self._lookups, self._domain)
        if not records:
            yield False, "there is no record: large receivers ask for one, v=DMARC1; p=none at least"
            return
        first = records[0]
        place = "" if first.domain == self._domain else f" of {shown(first.domain)}"
        reports = "" if first.reports else "; nobody gets reports, since there is no rua="
        yield first.usable, f"the record{place} asks for {first.policy.decode()}{reports}"

    def _mta_sts(self) -> Iterator[tuple[bool, str]]:
        try:
            texts = self._lookups.texts(b"_mta-sts." + self._domain)
        except Absent:
            yield True, "no policy is announced"
            return
        found = [text for text in texts if text.startswith(b"v=STSv1")]
        try:
            good = len(found) == 1 and parse_tags(found[0]).get(b"id", b"").isalnum()
        except BadTags:
            good = False
        host = f"https://mta-sts.{shown(self._domain)}/.well-known/mta-sts.txt"
        yield good, f"a policy is announced, at {host}" if good else "its record is malformed, or not the only one"


def _term(address: str) -> str:
    return f"ip{6 if ':' in address else 4}:{address}"
