"""What a client of qmail-metrics asks and what it is answered, as values."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

HTML, TEXT = "text/html; charset=utf-8", "text/plain; charset=utf-8"


class Way(Enum):
    """How the client came."""

    CLEAR = "TCP in clear"
    TLS = "TLS"
    LOCAL = "a Unix socket"


@dataclass(frozen=True, slots=True)
class Request:
    """One request. ``headers`` by name in lower case; ``query`` and ``form`` hold the last value of each name."""

    method: str
    path: str
    query: Mapping[str, str]
    form: Mapping[str, str]
    headers: Mapping[str, str]
    way: Way
    peer: str

    @property
    def cookies(self) -> dict[str, str]:
        """The cookies by name (RFC 6265)."""
        pairs = (part.strip().partition("=") for part in self.headers.get("cookie", "").split(";"))
        return {name: value for name, equals, value in pairs if equals}


@dataclass(frozen=True, slots=True)
class Response:
    """What the client gets."""

    status: int
    body: bytes
    content_type: str = TEXT
    headers: Mapping[str, str] = field(default_factory=dict)
