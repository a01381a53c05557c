"""What became of TLS with each exchanger, told to a collector that reports it to domains who ask (RFC 8460).

The collector is tlsrpt-reporter's; what it gets for each connection is a datagram in JSON as libtlsrpt sends it:

    dpv 1; d the domain; pr its record in DNS; policies: one, with policy-type (1 TLSA, 2 MTA-STS, 9 none),
    policy-domain, policy-string, f (1: this connection failed) and failure-details with t, how many there are: c the
    kind, r and n the server's address and name, f the words of it

Imported only where control/tlsrpt is. Nothing that goes wrong here is of any weight for the message.
"""

import json
import re
import socket
import time
from collections import OrderedDict

from pyqmail.control import ControlUnreadable
from pyqmail.protocol.dns import Answer, Kind
from pyqmail.protocol.host_names import ascii_host
from pyqmail.protocol.smtp_client import NOT_OFFERED, REJECTED
from pyqmail.remote.connection import Connection
from pyqmail.remote.controls import Controls
from pyqmail.remote.security import BY_DANE, BY_DANE_ALONE, BY_STS, Level, Security
from pyqmail.resolver import Resolver, read_servers

KNOWN_S = 3600.0  # that a domain's record is remembered, or that it has none
KNOWN_MAX = 1000
WORDS_MAX = 200  # characters of a failure's text
LOOK_UP_S = 5.0
TLSA, STS, NO_POLICY = 1, 2, 9
STARTTLS_NOT_SUPPORTED, VALIDATION_FAILURE = 201, 205
_RECORD = re.compile(rb"v=TLSRPTv1[ \t]*;")
# what the reason of a failure says, and its kind (RFC 8460 section 4.3)
_KINDS = (
    ("another name", 202),
    ("has expired", 204),
    ("self-signed", 203),
    ("unable to get", 203),
    (NOT_OFFERED.decode(), STARTTLS_NOT_SUPPORTED),
    (REJECTED.decode(), STARTTLS_NOT_SUPPORTED),
)


class Records:
    """The TLSRPT records of domains, remembered."""

    def __init__(self) -> None:
        self._known: OrderedDict[bytes, tuple[bytes, float]] = OrderedDict()

    def of(self, controls: Controls, domain: bytes) -> bytes:
        """The record of ``domain``, empty where none is found. Raises ControlUnreadable and OSError."""
        record, until = self._known.get(domain, (b"", 0.0))
        if time.monotonic() >= until:
            resolver = Resolver(read_servers(controls.control), LOOK_UP_S)
            (found,) = resolver.look_up([(b"_smtp._tls." + domain, Kind.TXT)])
            texts = [text for text in found.texts if _RECORD.match(text)] if isinstance(found, Answer) else []
            record = texts[0] if len(texts) == 1 else b""  # RFC 8460 section 3
            self._known[domain] = record, time.monotonic() + KNOWN_S
            if len(self._known) > KNOWN_MAX:
                self._known.popitem(last=False)
        return record


class Reporter:
    """Tells what became of the connections of one delivery to ``domain``."""

    def __init__(self, controls: Controls, domain: bytes, records: Records) -> None:
        self._controls = controls
        self._domain = ascii_host(domain).lower()
        self._records = records

    def tell(self, connection: Connection, trouble: bytes) -> None:
        """One connection is over, or TLS came to nothing there because of ``trouble``. Never raises."""
        security = connection.place.security
        if security.level is Level.NONE or security.note or not (trouble or connection.offered or connection.secured):
            return
        if not trouble and connection.secured is None:
            trouble = NOT_OFFERED
        try:
            record = self._records.of(self._controls, self._domain)
            if record:
                _send(self._controls.tlsrpt, format_event(self._domain, record, connection, trouble))
        except (OSError, ControlUnreadable):
            return


def format_event(domain: bytes, record: bytes, connection: Connection, trouble: bytes) -> bytes:
    """The datagram about ``connection``; ``trouble`` is empty where there is none."""
    place = connection.place
    policy = _policy(place.security, domain) | {"f": int(trouble != b"")}
    details = []
    if trouble:
        words = _text(trouble)[:WORDS_MAX]
        detail = {"c": kind_of(words), "r": connection.peer.decode(), "n": _text(place.exchanger), "f": words}
        details.append(detail | ({"s": place.source} if place.source else {}))
    policy |= {"t": len(details), "failure-details": details}
    event = {"dpv": "1", "d": _text(domain), "pr": _text(record), "policies": [policy]}
    return json.dumps(event).encode()


def _policy(security: Security, domain: bytes) -> dict[str, object]:
    if security.by in (BY_DANE, BY_DANE_ALONE):
        base = security.names[0] if security.names else domain
        records = [record.whole_text() for record in security.records]
        return {"policy-type": TLSA, "policy-domain": _text(base), "policy-string": records}
    kind = STS if security.by == BY_STS else NO_POLICY
    return {"policy-type": kind, "policy-domain": _text(domain)}


def kind_of(words: str) -> int:
    """The number of a failure's result type."""
    return next((kind for part, kind in _KINDS if part in words), VALIDATION_FAILURE)


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def _send(path: str, event: bytes) -> None:
    """Leave ``event`` with the collector; one that is away or busy misses it. Raises OSError."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
        sock.sendto(event, path)
