"""What in the control files of qmail-remote would make mail wait (qmail-showctl --check).

Each takes the home and its control files, yields lines, and raises ControlUnreadable for what cannot be read at all.
"""

import os
import stat
from collections.abc import Iterator

from pyqmail.admin.check_one_file import show_value
from pyqmail.control import Control, ControlUnreadable
from pyqmail.remote.limits import parse_limits
from pyqmail.remote.routes import parse_route
from pyqmail.remote.security import parse_destination
from pyqmail.remote.sources import FILES, read_sources

ALL_WAITS = "qmail-remote defers everything"


def routes(home: str, control: Control) -> Iterator[str]:
    """Routes to nowhere."""
    for key, value in (control.mapping("smtproutes") or {}).items():
        route = parse_route(value)
        if route is not None and (not route.relay or route.port == 0):
            what = "names no host" if not route.relay else "has no usable port"
            yield f"control/smtproutes: the route for {show_value(key)} {what}"
        if route is not None and route.socket and not _is_socket(route.socket):
            yield f"control/smtproutes: {show_value(key)}: {show_value(route.socket)} is no socket, and mail waits"


def _is_socket(path: bytes) -> bool:
    try:
        return stat.S_ISSOCK(os.stat(path).st_mode)
    except OSError:
        return False


def destinations(home: str, control: Control) -> Iterator[str]:
    """Lines that make all mail wait, and files that make some of it wait."""
    for key, value in (control.mapping("tlsdestinations") or {}).items():
        try:
            _, authorities, _, certificate = parse_destination(value)
        except ControlUnreadable as error:
            yield f"{error} in the line for {show_value(key)}: {ALL_WAITS}"
            continue
        for name in (authorities, certificate):
            path = name if name.startswith("/") else f"{control.directory}/{name}"
            if name and not os.path.isfile(path):
                shown = show_value(os.fsencode(name))
                yield f"control/tlsdestinations: {show_value(key)}: {shown} is no file, and mail waits"


def addresses(home: str, control: Control) -> Iterator[str]:
    """Lines that say from where mail leaves, and cannot."""
    for name in FILES:
        control.read(name)
    try:
        read_sources(control)
    except ControlUnreadable as error:
        yield f"{error}: {ALL_WAITS}"


def limits(home: str, control: Control) -> Iterator[str]:
    """Lines that say how much providers get, and do not."""
    lines = control.lines("remotelimits") or ()
    try:
        parse_limits(lines)
    except ControlUnreadable as error:
        yield f"{error}: {ALL_WAITS}"


OUTGOING = (routes, destinations, addresses, limits)
