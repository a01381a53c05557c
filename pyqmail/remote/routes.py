"""control/smtproutes: which relay, if any, takes the mail for a host (qmail-remote(8))."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

SMTP_PORT = 25


@dataclass(frozen=True, slots=True)
class Route:
    """A relay that replaces the MX lookup. An empty relay is legal in the file and names no host at all."""

    relay: bytes
    port: int


def parse_route(value: bytes) -> Route | None:
    """The route in ``value``, ``RELAY`` or ``RELAY:PORT``; None for the empty value, which means: use MX.

    A port that starts with no digit is 0, which no server has. The colons of a bracketed IPv6 literal are its own.
    """
    if not value:
        return None
    bracket = value.find(b"]") if value[:1] == b"[" else -1
    colon = value.find(b":", bracket + 1)
    if colon < 0:
        return Route(value, SMTP_PORT)
    text = value[colon + 1 :]
    digits = text[: len(text) - len(text.lstrip(b"0123456789"))]
    return Route(value[:colon], int(digits[-18:] or b"0") & 0xFFFF)


def route_keys(host: bytes) -> Iterator[bytes]:
    """The keys that apply to ``host``, most special first: itself, each part from a dot on, the empty key."""
    yield host
    dot = host.find(b".", 1)
    while dot >= 0:
        yield host[dot:]
        dot = host.find(b".", dot + 1)
    yield b""


def find_route(routes: Mapping[bytes, bytes], host: bytes) -> Route | None:
    """The route for ``host``; the first key that exists wins, even when its value is empty. Keys are lower case."""
    for key in route_keys(host.lower()):
        if key in routes:
            return parse_route(routes[key])
    return None
