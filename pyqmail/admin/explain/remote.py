"""What qmail-remote would do with the address, up to the connection."""

import os
import stat
import time

from pyqmail.admin.explain.verdict import DEFERRED, DELIVERABLE, REFUSED, Verdict, say
from pyqmail.failure import MailFailure, PermanentFailure
from pyqmail.formats.printable import visible
from pyqmail.protocol.dns import format_address
from pyqmail.remote import tcpto
from pyqmail.remote.candidates import find_candidates
from pyqmail.remote.controls import Controls, read_controls
from pyqmail.remote.limiter import FILE, Table
from pyqmail.remote.limits import limit_of
from pyqmail.remote.outlasting import Outlasting
from pyqmail.remote.pace import Pace, connections, counted, pause_s
from pyqmail.remote.routes import LMTP, Route, find_route, route_keys
from pyqmail.remote.security import LeftOut, Level, Policies, Security
from pyqmail.spool.layout import Layout


def explain_remote(home: str, address: bytes) -> None:
    """What qmail-remote does, up to the connection. Raises Verdict."""
    controls = read_controls(home)
    host = address.rpartition(b"@")[2]
    routes = controls.directions.routes
    route = find_route(routes, host)
    key = next((key for key in route_keys(host.lower()) if key in routes), None)
    if key is None:
        say("smtproutes", "has no line for it: MX")
    elif route is None:
        say("smtproutes", f"the line for {visible(key)!r} is empty: MX")
    else:
        say("smtproutes", f"the line for {visible(key)!r}: {_where(route)}{_login(route)}")
    if controls.directions.senders:
        say("authsenders", "has routes by sender, which win")
    published = Outlasting().published(controls, host, route)
    destinations = controls.directions.destinations
    policies = Policies(controls.tls, destinations, host, route, extended=controls.ehlo, published=published)
    table, blocked, count = Layout(home, 23).tcpto, 0, 0
    try:
        for candidate in find_candidates(host, route, controls):
            count += 1
            note = ""
            if tcpto_blocked(table, candidate.packed):
                blocked += 1
                note = ", which timed out lately and is not tried for now"
            if candidate.packed:
                where = f"{format_address(candidate.packed)}, preference {candidate.preference}"
                note += _limits(home, controls, candidate.name)
                say("server", f"{where}, {_security(policies, candidate.name)}{note}")
    except MailFailure as failure:
        code = REFUSED if isinstance(failure, PermanentFailure) else DEFERRED
        raise Verdict(code, visible(failure.text)) from failure
    if count == blocked:
        raise Verdict(DEFERRED, "every server timed out lately (qmail-tcpok clears that)")
    raise Verdict(DELIVERABLE, "to the first of the servers above that takes a connection")


def _security(policies: Policies, exchanger: bytes) -> str:
    """What is asked of a connection there. Raises MailFailure and ControlUnreadable."""
    try:
        return security_text(policies.of(exchanger))
    except LeftOut as left_out:
        return "left out: " + visible(left_out.text)


def security_text(security: Security) -> str:
    """What is asked of a connection, in words."""
    names = " and ".join(str(visible(name)) for name in security.names)
    note = f" ({visible(security.note)})" if security.note else ""
    return {
        Level.NONE: "in clear",
        Level.MAY: "TLS where it is offered",
        Level.ENCRYPT: "TLS or nothing",
        Level.VERIFY: f"TLS with a certificate for {names}",
        Level.DANE: "TLS with a certificate as TLSA says: " + "; ".join(each.text() for each in security.records),
    }[security.level] + note


def _limits(home: str, controls: Controls, exchanger: bytes) -> str:
    """What control/remotelimits says of it, and what came of that so far; nothing without a line for it."""
    limit = limit_of(controls.limits, exchanger)
    if limit is None:
        return ""
    try:
        known = Table(home + FILE).read(limit.name)
    except OSError:
        known = Pace()
    now = int(time.time())
    most, wait_s = connections(known, limit), pause_s(known, now) or counted(known, limit, now)[1]
    words = [f"{most} connections at once" if most else "", "fewer than usual" if known.level else ""]
    words += [f"{limit.messages} messages in {limit.seconds} seconds"] if limit.messages else []
    words += [f"and none for {wait_s} seconds"] if wait_s else []
    return f"; {visible(limit.name)} gets " + (", ".join(filter(None, words)) or "what there is")


def _where(route: Route) -> str:
    protocol = " by LMTP" if LMTP in route.options else ""
    return (
        f"{visible(route.socket)}{protocol}" if route.socket else f"{visible(route.relay)} port {route.port}{protocol}"
    )


def _login(route: Route) -> str:
    return f", user {visible(route.login.user)}" if route.login else ""


def tcpto_blocked(table: str, packed: bytes) -> bool:
    """Whether qmail-remote leaves the address out for now; who may not look does not know."""
    try:
        mode = os.stat(table).st_mode if packed else 0
    except OSError:
        return False
    return stat.S_ISREG(mode) and tcpto.check(table, packed) is tcpto.Verdict.BLOCKED
