"""What DNS says of an exchanger's certificate, signed all the way (DANE: RFC 6698, RFC 7671, RFC 7672).

    address records signed?  --no-->  no DANE
    TLSA _PORT._tcp.NAME     none, or not signed: no DANE
                             none that we can use: TLS, whatever the certificate
                             else: TLS with a certificate that one of them describes
    any answer missing       the exchanger is left out for now

NAME is where the aliases of the exchanger end, else the exchanger. That an answer was signed is the word of a resolver
(AD, RFC 4035 section 3.2.3), asked with the DO bit. It is believed of a server on loopback or in control/dnsservers,
and only after a test: a signed name must come with AD, and one whose signatures are wrong must not come at all.
"""

import ipaddress
import time
from collections.abc import Sequence
from dataclasses import dataclass

from pyqmail.control import Control, ControlUnreadable
from pyqmail.protocol.dns import Answer, Kind, parse_literal
from pyqmail.remote.security import LeftOut
from pyqmail.remote.tlsa import Tlsa, parse_tlsa
from pyqmail.resolver import Found, HardFailure, Resolver, Servers, SoftFailure, read_servers

TEST_NAMES = (b"ietf.org", b"dnssec-failed.org")  # signed; signed wrongly, by those who publish it as a test
PASSED_S, FAILED_S = 3600.0, 300.0  # that the outcome of a test stands

NO_TLSA = b"Sorry, the TLSA records of no exchanger could be looked up. (#4.7.5)"  # RFC 7672 section 2.1.1
NO_SERVER = b"no resolver here may vouch for DNSSEC"
NOT_VALIDATING = b"the resolver does not validate"


@dataclass(frozen=True, slots=True)
class Keys:
    """What an exchanger promises: ``records`` that describe its certificate, maybe none that we can use.

    ``names``: those that a certificate may be for where a record is of its authority, the one to ask the server for
    first. ``via_signed``: the domain's MX records are signed, too.
    """

    records: tuple[Tlsa, ...]
    names: tuple[bytes, ...]
    via_signed: bool


def prepare(control: Control, test: "ResolverTest", domain: bytes, port: int, *, relay: bool) -> "Dane | bytes":
    """What asks for the TLSA records of a delivery, or why nothing can be learnt. Raises ControlUnreadable."""
    try:
        servers = trusted_servers(control)
        trouble = test.trouble(servers, test_names(control))
    except OSError:
        return NOT_VALIDATING
    if trouble or servers is None:
        return trouble
    return Dane(Resolver(servers, dnssec=True), domain, port=port, relay=relay)


def trusted_servers(control: Control) -> Servers | None:
    """The servers whose word on signatures counts, None where there is none. Raises ControlUnreadable."""
    servers = read_servers(control)
    listed = control.exists("dnsservers")
    kept = tuple(server for server in servers.servers if listed or _on_loopback(server[0]))
    return Servers(kept, servers.timeout_s, servers.attempts) if kept else None


def _on_loopback(address: str) -> bool:
    return ipaddress.ip_address(address.partition("%")[0]).is_loopback


def test_names(control: Control) -> tuple[bytes, bytes]:
    """The two names of control/danetest. Raises ControlUnreadable."""
    lines = control.lines("danetest")
    if not lines:
        return TEST_NAMES
    if len(lines) != 2:
        raise ControlUnreadable("control/danetest: not two names")
    return lines[0], lines[1]


class ResolverTest:
    """Whether our resolvers validate; the outcome is remembered by what was asked of whom."""

    def __init__(self) -> None:
        self._known: dict[object, tuple[bytes, float]] = {}

    def trouble(self, servers: Servers | None, names: tuple[bytes, bytes]) -> bytes:
        """Why DANE cannot be used, empty: it can. Raises OSError."""
        if servers is None:
            return NO_SERVER
        why, until = self._known.get((servers, names), (b"", 0.0))
        if time.monotonic() >= until:
            why = b"" if validates(Resolver(servers, dnssec=True), names) else NOT_VALIDATING
            self._known[servers, names] = why, time.monotonic() + (FAILED_S if why else PASSED_S)
        return why


def validates(resolver: Resolver, names: tuple[bytes, bytes]) -> bool:
    """Whether the signed name is vouched for and the other one withheld. Raises OSError."""
    signed, bogus = resolver.look_up([(name, Kind.A) for name in names])
    return is_signed(signed) and (isinstance(bogus, SoftFailure) or is_signed(bogus))


def is_signed(found: Found) -> bool:
    """Whether the resolver vouches for what it found, be it nothing."""
    return not isinstance(found, SoftFailure) and found.authentic


class Dane:
    """The look-ups of one delivery to ``domain``, or with ``relay`` to a relay. ``resolver`` has passed its test."""

    def __init__(self, resolver: Resolver, domain: bytes, *, port: int, relay: bool) -> None:
        self._resolver = resolver
        self._domain = domain.lower().removesuffix(b".")
        self._port = port
        self._mx: Found | None = HardFailure("a relay has none") if relay else None
        self._relay = relay

    def of(self, exchanger: bytes) -> Keys | None:
        """What is promised of ``exchanger``, a name in lower case; None: nothing. Raises LeftOut."""
        if parse_literal(exchanger) is not None:
            return None
        try:
            return self._keys_of(exchanger)
        except OSError as error:  # no socket to ask with
            raise LeftOut(NO_TLSA) from error

    def _keys_of(self, exchanger: bytes) -> Keys | None:
        base = self._base(exchanger)
        if base is None:
            return None
        names = [base] if base == exchanger else [base, exchanger]
        labels = [b"_%d._tcp." % self._port + name for name in names]
        for name, found in zip(names, self._resolver.look_up([(label, Kind.TLSA) for label in labels]), strict=True):
            if isinstance(found, SoftFailure):
                raise LeftOut(NO_TLSA)
            if isinstance(found, Answer) and found.authentic and found.associations:
                return self._keys(name, exchanger, found.associations)
        return None

    def _base(self, exchanger: bytes) -> bytes | None:
        """Where the signed aliases of ``exchanger`` end; None where its addresses are not signed. Raises LeftOut."""
        questions = [(exchanger, Kind.A), (exchanger, Kind.AAAA)]
        if self._mx is None:
            questions.append((self._domain, Kind.MX))
        four, six, *rest = self._resolver.look_up(questions)
        self._mx = rest[0] if rest else self._mx
        answers = [found for found in (four, six) if isinstance(found, Answer) and found.addresses]
        if not answers and (isinstance(four, SoftFailure) or isinstance(six, SoftFailure)):
            raise LeftOut(NO_TLSA)
        return answers[0].owner if answers and all(answer.authentic for answer in answers) else None

    def _keys(self, name: bytes, exchanger: bytes, raw: Sequence[bytes]) -> Keys:
        records = tuple(record for record in map(parse_tlsa, sorted(raw)) if record is not None)
        mx = self._mx
        if isinstance(mx, SoftFailure):
            raise LeftOut(NO_TLSA)
        named = isinstance(mx, Answer) and exchanger in [each.exchanger.lower() for each in mx.mx]
        via_signed = self._relay or (is_signed(mx) and (named or exchanger == self._domain)) if mx else False
        names = (name, exchanger, *((self._domain,) if via_signed and not self._relay else ()))
        return Keys(records, tuple(dict.fromkeys(names)), via_signed)
