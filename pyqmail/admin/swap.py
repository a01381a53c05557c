"""What a C qmail in this tree would bounce or send in clear, line by line (qmail-showctl --check swap).

What it only puts off, as a route to an LMTP server, is not among it: that waits for us to come back.
"""

import os
from collections.abc import Iterator

from pyqmail.admin.check_one_file import show_value
from pyqmail.control import Control, ControlUnreadable
from pyqmail.remote.routes import parse_route
from pyqmail.remote.security import Level, parse_destination

IN_CLEAR = "goes in clear, to any server"


def lost_lines(home: str) -> Iterator[str]:
    """A line for each line of a control file, or file, whose loss does harm. Raises ControlUnreadable."""
    control = Control(home)
    for key, value in (control.mapping("smtproutes") or {}).items():
        harm = _route_harm(value)
        if harm:
            yield f"control/smtproutes: {_domain(key)}: {harm}"
    for key in control.mapping("authsenders") or {}:
        yield f"control/authsenders: mail from {_domain(key)} goes without that relay and password"
    for key, value in (control.mapping("tlsdestinations") or {}).items():
        if _asks(value):
            yield f"control/tlsdestinations: {_domain(key)}: {IN_CLEAR}"
    for name in _files(f"{home}/control/tlshosts"):
        yield f"control/tlshosts: {show_value(os.fsencode(name.removesuffix('.pem')))}: {IN_CLEAR}"
    if control.line("mtasts"):
        yield f"control/mtasts: mail for a domain with a policy {IN_CLEAR}"


def _route_harm(value: bytes) -> str:
    """What becomes of mail by a route, in words; empty: what becomes of it here, or it waits."""
    route = parse_route(value)
    if route is None:
        return ""
    place = value.partition(b"|")[0]
    if place.startswith(b"[") and b":" in place.partition(b"]")[0]:
        return "an IPv6 address is no relay to it, and mail bounces"
    if route.login is None:
        return ""
    if b":" not in place:
        return "the user and password are part of the relay's name to it, and mail bounces"
    return "it gives no password: mail that the relay does not take without one bounces"


def _asks(value: bytes) -> bool:
    """Whether a line of control/tlsdestinations asks for TLS, or nobody can say."""
    try:
        return parse_destination(value)[0] not in (Level.NONE, Level.MAY)
    except ControlUnreadable:
        return True


def _domain(key: bytes) -> str:
    return show_value(key) if key else "everybody else"


def _files(directory: str) -> list[str]:
    try:
        return sorted(name for name in os.listdir(directory) if name.endswith(".pem"))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ControlUnreadable(f"{directory}: {error.strerror}") from error
