"""How well a connection to one exchanger must be secured (qmail-remote(8)).

    tlsdestinations   the line of the recipient's domain, else that of the relay, but for the wildcards
    tlshosts          NAME.pem: TLS, and a certificate for NAME that these authorities have signed
    tlsdestinations   the word dane, be it for a domain or for all: what TLSA records say, where there are any
    MTA-STS           what the recipient's domain publishes, without a route: a listed exchanger and its certificate
    notlshosts        NAME: no TLS
    tlsdestinations   the wildcards
    nothing           TLS where it is offered, whatever the certificate

What asks for TLS is never given up: not where it is not offered, nor after a handshake that failed.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from enum import Enum

from pyqmail.control import ControlUnreadable
from pyqmail.protocol.smtp_client import Tls
from pyqmail.remote.routes import CLEAR, LMTP, UNVERIFIED, Route, find_route, parse_route, route_keys, sender_key

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyqmail.remote.published import Published
    from pyqmail.remote.tlsa import Tlsa

EXHAUSTIVE = b"exhaustivelist"  # in tlshosts: who has no file there has no TLS
SMTPS_PORT = 465  # RFC 8314 section 3.3
WILDCARDS = (b"", b"*")
# what asked for more: TLSA records that a signed MX leads to, those of an exchanger alone, a policy of MTA-STS
BY_DANE, BY_DANE_ALONE, BY_STS = b"dane", b"dane for an unsigned MX", b"sts"
PUBLISHED = (BY_DANE, BY_DANE_ALONE, BY_STS)


class Level(Enum):
    """What is asked of a connection, by the words of control/tlsdestinations."""

    NONE = b"none"
    MAY = b"may"
    ENCRYPT = b"encrypt"
    VERIFY = b"verify"
    DANE = b"dane"


@dataclass(frozen=True, slots=True)
class Security:
    """What is asked of one connection.

    ``names``: one of them must be in the certificate. ``authorities``: a PEM file of CAs, empty for the system's.
    ``ciphers`` as OpenSSL has them, empty for its own choice. ``certificate``: a PEM file with a key, shown to a server
    that asks; empty: none. ``by``: what asked for it, for the log. ``records``: one of them must describe what the
    server shows. ``note``: why no more is asked, for the log. ``rehearsed``: where it cannot be had, less will do.
    """

    level: Level
    names: tuple[bytes, ...] = ()
    authorities: str = ""
    ciphers: str = ""
    certificate: str = ""
    by: bytes = b""
    records: tuple["Tlsa", ...] = ()
    note: bytes = b""
    rehearsed: bool = False

    def lenient(self, trouble: bytes) -> "Security":
        """What is asked in its place where it was only rehearsed, and came to nothing."""
        note = b"rehearsal: " + self.by + b": " + trouble
        return Security(Level.MAY, ciphers=self.ciphers, certificate=self.certificate, note=note)

    @property
    def must(self) -> bool:
        """Whether the message waits rather than go in clear."""
        return self.level in (Level.ENCRYPT, Level.VERIFY, Level.DANE)

    @property
    def starttls(self) -> Tls:
        """What to do about STARTTLS."""
        if self.level is Level.NONE:
            return Tls.NEVER
        return Tls.MUST if self.must else Tls.MAY


IN_CLEAR = Security(Level.NONE)


@dataclass(frozen=True, slots=True)
class TlsControls:
    """The control files about TLS; ``home`` is the directory of the files that they name."""

    home: str
    hosts: frozenset[bytes] = frozenset()  # names of files in tlshosts
    plain_hosts: frozenset[bytes] = frozenset()  # names of files in notlshosts
    ciphers: str = ""


def destination_key(destinations: Mapping[bytes, bytes], domain: bytes, route: Route | None) -> bytes | None:
    """The key of the line of control/tlsdestinations that counts; None where there is none."""
    if not destinations:
        return None
    return next((key for key in _keys(domain.lower(), route) if key in destinations), None)


def _keys(domain: bytes, route: Route | None) -> Iterator[bytes]:
    for name in (domain, route.relay.lower() if route else b""):
        yield from (key for key in route_keys(name) if key)
    yield from WILDCARDS


Target = tuple[Route | bytes, bytes | None]  # the route or the host, and what says how it must be secured


@dataclass(frozen=True, slots=True)
class Directions:
    """The control files that say where mail goes: smtproutes, authsenders and tlsdestinations."""

    routes: Mapping[bytes, bytes]
    senders: Mapping[bytes, bytes]
    destinations: Mapping[bytes, bytes]

    def route(self, host: bytes, sender: bytes) -> tuple[Route | None, str]:
        """The route for mail of ``sender`` to ``host``, if there is one, and the control file that has it."""
        key = sender_key(self.senders, sender)
        route = parse_route(self.senders[key]) if key is not None else None
        return (route, "authsenders") if route else (find_route(self.routes, host), "smtproutes")

    def target(self, host: bytes, sender: bytes) -> Target:
        """What recipients at ``host`` must share with others to go with them."""
        route, _ = self.route(host, sender)
        return route or host.lower(), destination_key(self.destinations, host, route)

    @property
    def lead_to_lmtp(self) -> bool:
        """Whether some route does."""
        routes = (parse_route(value) for value in (*self.routes.values(), *self.senders.values()))
        return any(route is not None and LMTP in route.options for route in routes)


class LeftOut(Exception):
    """This exchanger is not to be used now; ``text`` is the report where there is no other one.

    ``final``: nor later, for all that is known.
    """

    def __init__(self, text: bytes, *, final: bool = False) -> None:
        super().__init__(text)
        self.text = text
        self.final = final


# RFC 8689 section 4.2.1
NOT_VERIFIABLE = b"Sorry, this message needs REQUIRETLS, and its next server cannot be verified. (#5.7.10)"


class Policies:
    """What one delivery asks of each exchanger that it meets.

    ``published`` is wanted where a line says dane, or MTA-STS is asked for. ``requires_tls``: the message needs a
    verified server (REQUIRETLS).
    """

    requires_tls = False

    def __init__(
        self,
        controls: TlsControls,
        destinations: Mapping[bytes, bytes],
        domain: bytes,
        route: Route | None,
        *,
        extended: bool = True,
        published: "Published | None" = None,
    ) -> None:
        self._controls = controls
        self._destinations = destinations
        self._extended = extended
        self._route = route
        self._published = published
        self._key = destination_key(destinations, domain, route)

    def of(self, exchanger: bytes) -> Security:
        """What is asked of a connection to ``exchanger``, a name.

        Raises ControlUnreadable, LeftOut, and TemporaryFailure where a policy could not be learnt.
        """
        name = exchanger.lower().removesuffix(b".")
        security = self._fit_for_login(self._asked_of(name), name)
        return self._fit_for_requiretls(security, name) if self.requires_tls else security

    def _fit_for_requiretls(self, security: Security, name: bytes) -> Security:
        """``security`` where it verifies a server, whose name somebody vouches for: DNSSEC, MTA-STS or a control file.

        Raises LeftOut.
        """
        if security.level in (Level.VERIFY, Level.DANE) and security.by != BY_DANE_ALONE:
            return security
        if self._route is not None:
            return replace(security, level=Level.VERIFY, names=(name,), records=(), by=b"requiretls")
        raise LeftOut(NOT_VERIFIABLE, final=not security.note)  # a note says what is wrong here

    def _fit_for_login(self, security: Security, name: bytes) -> Security:
        """``security``, or more where we have a password to give, unless the route says otherwise."""
        route = self._route
        verified = security.level in (Level.VERIFY, Level.DANE) and not security.rehearsed
        if route is None or route.login is None or CLEAR in route.options or verified:
            return security
        usual = replace(security, records=(), rehearsed=False, by=b"login")
        if UNVERIFIED not in route.options:
            return replace(usual, level=Level.VERIFY, names=(name,))
        return security if security.must and not security.rehearsed else replace(usual, level=Level.ENCRYPT, names=())

    def _asked_of(self, name: bytes) -> Security:
        controls = self._controls
        line = self._destination(name) if self._key is not None else None
        if line is not None and self._key not in WILDCARDS and line.level is not Level.DANE:
            return line
        if name + b".pem" in controls.hosts:
            authorities = f"{controls.home}/control/tlshosts/{name.decode('ascii', 'surrogateescape')}.pem"
            return Security(Level.VERIFY, (name,), authorities, controls.ciphers, by=b"file")
        if self._published is not None:
            line = self._published.of(name, line or Security(Level.MAY, ciphers=controls.ciphers))
            if line.by in PUBLISHED:
                return line
        if name in controls.plain_hosts or EXHAUSTIVE in controls.hosts or not self._extended:
            return IN_CLEAR
        return line or Security(Level.MAY, ciphers=controls.ciphers)

    def _destination(self, name: bytes) -> Security:
        """What the line of control/tlsdestinations says. Raises ControlUnreadable."""
        assert self._key is not None
        level, authorities, ciphers, certificate = parse_destination(self._destinations[self._key])
        return Security(
            level,
            (name,) if level is Level.VERIFY else (),
            self._path(authorities),
            ciphers or self._controls.ciphers,
            self._path(certificate),
            by=b"file" if level in (Level.ENCRYPT, Level.VERIFY) else b"",
        )

    def _path(self, name: str) -> str:
        return name if not name or name.startswith("/") else f"{self._controls.home}/control/{name}"


def parse_destination(value: bytes) -> tuple[Level, str, str, str]:
    """Level, authorities, ciphers and certificate of ``WORD|AUTHORITIES|CIPHERS|CERTIFICATE``.

    No word is may. Raises ControlUnreadable for a word that is none: what it asks for must not be lost.
    """
    word, authorities, ciphers, certificate, *rest = [*value.split(b"|"), b"", b"", b""]
    try:
        level = Level(word.strip().lower() or Level.MAY.value)
    except ValueError:
        raise ControlUnreadable("control/tlsdestinations: unknown word") from None
    if any(rest):
        raise ControlUnreadable("control/tlsdestinations: too many fields")
    texts = [field.strip().decode("utf-8", "surrogateescape") for field in (authorities, ciphers, certificate)]
    return level, *texts  # type: ignore[return-value]
