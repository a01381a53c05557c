"""How well a connection to one exchanger must be secured (qmail-remote(8)).

    tlsdestinations   the line of the recipient's domain, else that of the relay, but for the wildcards
    tlshosts          NAME.pem: TLS, and a certificate for NAME that these authorities have signed
    notlshosts        NAME: no TLS
    tlsdestinations   the wildcards
    nothing           TLS where it is offered, whatever the certificate

What asks for TLS is never given up: not where it is not offered, nor after a handshake that failed.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum

from pyqmail.control import ControlUnreadable
from pyqmail.protocol.smtp_client import Tls
from pyqmail.remote.routes import Route, find_route, route_keys

EXHAUSTIVE = b"exhaustivelist"  # in tlshosts: who has no file there has no TLS
SMTPS_PORT = 465  # RFC 8314 section 3.3
WILDCARDS = (b"", b"*")


class Level(Enum):
    """What is asked of a connection, by the words of control/tlsdestinations."""

    NONE = b"none"
    MAY = b"may"
    ENCRYPT = b"encrypt"
    VERIFY = b"verify"


@dataclass(frozen=True, slots=True)
class Security:
    """What is asked of one connection.

    ``names``: one of them must be in the certificate. ``authorities``: a PEM file of CAs, empty for the system's.
    ``ciphers`` as OpenSSL has them, empty for its own choice. ``certificate``: a PEM file with a key, shown to a server
    that asks; empty: none. ``by``: what asked for it, for the log.
    """

    level: Level
    names: tuple[bytes, ...] = ()
    authorities: str = ""
    ciphers: str = ""
    certificate: str = ""
    by: bytes = b""

    @property
    def must(self) -> bool:
        """Whether the message waits rather than go in clear."""
        return self.level in (Level.ENCRYPT, Level.VERIFY)

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
    destinations: Mapping[bytes, bytes]
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


def find_target(routes: Mapping[bytes, bytes], destinations: Mapping[bytes, bytes], host: bytes) -> Target:
    """What recipients at ``host`` must share with others to go with them."""
    route = find_route(routes, host)
    return route or host.lower(), destination_key(destinations, host, route)


class Policies:
    """What one delivery asks of each exchanger that it meets."""

    def __init__(self, controls: TlsControls, domain: bytes, route: Route | None, *, extended: bool = True) -> None:
        self._controls = controls
        self._extended = extended
        self._key = destination_key(controls.destinations, domain, route)

    def of(self, exchanger: bytes) -> Security:
        """What is asked of a connection to ``exchanger``, a name. Raises ControlUnreadable."""
        controls, name = self._controls, exchanger.lower().removesuffix(b".")
        if self._key is not None and self._key not in WILDCARDS:
            return self._destination(name)
        if name + b".pem" in controls.hosts:
            authorities = f"{controls.home}/control/tlshosts/{name.decode('ascii', 'surrogateescape')}.pem"
            return Security(Level.VERIFY, (name,), authorities, controls.ciphers, by=b"file")
        if name in controls.plain_hosts or EXHAUSTIVE in controls.hosts or not self._extended:
            return IN_CLEAR
        if self._key is not None:
            return self._destination(name)
        return Security(Level.MAY, ciphers=controls.ciphers)

    def _destination(self, name: bytes) -> Security:
        """What the line of control/tlsdestinations says. Raises ControlUnreadable."""
        assert self._key is not None
        level, authorities, ciphers, certificate = parse_destination(self._controls.destinations[self._key])
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
