"""What a server offers in its answer to EHLO (RFC 5321 section 4.1.1.1)."""

from collections.abc import Mapping
from dataclasses import dataclass, field

WORDS_MAX = 100  # extensions that are looked at in one answer


@dataclass(frozen=True, slots=True)
class Extensions:
    """The extensions by keyword, upper case, each with its parameters as the server spelled them."""

    offered: Mapping[bytes, tuple[bytes, ...]] = field(default_factory=dict)

    def __contains__(self, keyword: bytes) -> bool:
        return keyword in self.offered

    def limit(self, name: bytes) -> int | None:
        """The limit ``name`` of LIMITS (RFC 9422), such as RCPTMAX; None where there is none, or no number above 0."""
        for word in self.offered.get(b"LIMITS", ()):
            key, _, value = word.partition(b"=")
            if key.upper() == name and value.isdigit() and 0 < len(value) <= 6:
                return int(value) or None
        return None


NOTHING_OFFERED = Extensions()


def parse_extensions(text: bytes) -> Extensions:
    """The extensions in ``text``, the lines of a 250 without their CR; the first is the server's name. Never raises."""
    offered: dict[bytes, tuple[bytes, ...]] = {}
    for line in text.split(b"\n")[1 : WORDS_MAX + 1]:
        words = line[4:].split()
        if words:
            keyword = words[0].upper()
            if keyword.startswith(b"AUTH="):  # as some servers had it before RFC 2554
                keyword, words = b"AUTH", [b"AUTH", words[0][5:], *words[1:]]
            offered[keyword] = offered.get(keyword, ()) + tuple(words[1:])
    return Extensions(offered)
