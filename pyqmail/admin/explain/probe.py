"""qmail-remote --probe HOST: what each server for HOST says, up to the point where a message would begin.

The programs' own code greets, shakes hands, compares certificates and logs in; no message is named or sent, and the
table of servers that timed out is neither asked nor changed.
"""

import os

from pyqmail.admin.certificates import describe
from pyqmail.admin.explain.remote import security_text
from pyqmail.admin.explain.verdict import DEFERRED, DELIVERABLE, REFUSED, say
from pyqmail.failure import MailFailure, PermanentFailure
from pyqmail.formats.printable import visible
from pyqmail.protocol.dns import format_address
from pyqmail.remote.attempts import Attempts, Errand
from pyqmail.remote.candidates import find_candidates
from pyqmail.remote.connection import Connection
from pyqmail.remote.controls import Controls, read_controls
from pyqmail.remote.message import Message
from pyqmail.remote.outlasting import Outlasting
from pyqmail.remote.security import LeftOut, Policies
from pyqmail.remote.sender import EXPOSED
from pyqmail.remote.session import Words, talk
from pyqmail.stream.stream import Secured
from pyqmail.tcp.pem import PemError


def probe(home: str, host: bytes) -> int:
    """Say what each server says; 0 where one would take a message, 100 where it would bounce, else 111.

    Raises ControlUnreadable.
    """
    controls = read_controls(home)
    route, file = controls.directions.route(host, b"")
    if route and route.login and file in controls.exposed:
        say("verdict", visible(EXPOSED % file.encode()))
        return DEFERRED
    lasting = Outlasting()
    published = lasting.published(controls, host, route)
    destinations = controls.directions.destinations
    policies = Policies(controls.tls, destinations, host, route, extended=controls.ehlo, published=published)
    words = Words(controls.helohost, b"", [], Message(0), extended=controls.ehlo)
    target = controls.directions.target(host, b"")
    attempts = Attempts(Errand(home, controls, host, route, target, policies, words), lasting)
    good = 0
    try:
        for candidate in find_candidates(host, route, controls):
            good += _probe_one(attempts, words, controls, lasting, candidate.packed, candidate.name)
    except MailFailure as failure:
        say("verdict", visible(failure.text))
        return REFUSED if isinstance(failure, PermanentFailure) else DEFERRED
    say("verdict", f"{good} would take a message" if good else "nobody would take a message now")
    return DELIVERABLE if good else DEFERRED


def _probe_one(
    attempts: Attempts, words: Words, controls: Controls, lasting: Outlasting, packed: bytes, name: bytes
) -> bool:
    """Say what one server says; whether it would take a message. Raises MailFailure."""
    try:
        place = attempts.place(packed, name)
    except LeftOut as left_out:
        say("server", f"{visible(name)}: left out: {visible(left_out.text)}")
        return False
    where = visible(place.socket) if place.socket else f"{format_address(packed)} port {place.port}"
    say("server", f"{visible(name)}, {where}, {security_text(place.security)}")
    try:
        connection = Connection(place, controls.timeout_connect_s, controls.timeout_remote_s, lasting.handshake)
    except OSError as error:
        say("connection", os.strerror(error.errno) if error.errno else str(error))
        return False
    outcome = talk(connection, words)
    if connection.offered is not None:
        keywords = (b" ".join((keyword, *values)) for keyword, values in connection.offered.offered.items())
        say("offers", visible(b", ".join(keywords)) or "nothing")
    if connection.secured is not None:
        _say_secured(connection.secured)
    for line in outcome.reports[-1][1:].splitlines():
        say("answer", visible(line))
    if outcome.alive:
        connection.quit()
    return outcome.alive


def _say_secured(secured: Secured) -> None:
    say("tls", f"{secured.version}, {secured.cipher}")
    if secured.certificate is None:
        return
    import ssl  # in memory already

    try:
        shown = describe([ssl.DER_cert_to_PEM_cert(secured.certificate).encode()])
    except PemError as error:
        say("certificate", str(error))
        return
    signer = "itself" if shown.self_signed else shown.issuer
    names = ", ".join(shown.names) or "no name"
    say("certificate", visible(f"for {names}, {shown.key}, until {shown.ends:%Y-%m-%d}, signed by {signer}".encode()))
