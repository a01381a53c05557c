"""control/relaylimits: who may send how much in which time (qmail-control(5), as relaylimits of rcptcheck-overlimit).

    KEY:LIMIT[,LIMIT...][,REPLY]
    KEY    a user, an address, a network such as 192.0.2.0/24 or 192.0.2., or nothing: all who have no line;
           uid=NAME or uid=NUMBER, or uid= for all others: who queues on this machine, by messages alone
    LIMIT  [messages=|recipients=]N[/SECONDS]; recipients and a day where nothing is said
    REPLY  451, or 550 where the client is not to try again

A line of a network counts all of it together, the line of all others each user and address apart. No limit, or 0, is
none.
"""

import re
from dataclasses import dataclass, replace

from pyqmail.control import parse_lines

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyqmail.policy.networks import Network

DAY_S = 86400
SECONDS_MAX = 90 * DAY_S
MOST_MAX = 1_000_000_000
V6_BITS = 64  # an IPv6 address is counted as the network that one host has
LIMITS_MAX = 4  # of one line
KNOWN_MAX = 1024  # addresses whose line is remembered
MESSAGES, RECIPIENTS = b"messages", b"recipients"
LOCAL = b"uid="  # before the name or number of a local user
REPLIES = (451, 550)
_LIMIT = re.compile(rb"(?:(messages|recipients)=)?([0-9]{1,10})(?:/([0-9]{1,8}))?")


@dataclass(frozen=True, slots=True)
class Limit:
    """``most`` of ``kind`` in ``seconds``."""

    kind: bytes
    most: int
    seconds: int


@dataclass(frozen=True, slots=True)
class Line:
    """What one line says."""

    key: bytes
    limits: tuple[Limit, ...]
    reply: int = REPLIES[0]


def parse_line(text: bytes) -> Line | str:
    """The line, or what is wrong with it."""
    key, colon, rest = text.rpartition(b":")
    if not colon:
        return "there is no colon"
    key = key.strip().lower()
    kind = MESSAGES if key.startswith(LOCAL) else RECIPIENTS
    limits: list[Limit] = []
    reply = REPLIES[0]
    for word in filter(None, (part.strip() for part in rest.split(b","))):
        if word in (b"451", b"550") and limits:
            reply = int(word)
            continue
        found = _LIMIT.fullmatch(word)
        if found is None:
            return "a limit is [messages=|recipients=]N[/SECONDS]"
        limit = Limit(found[1] or kind, int(found[2]), int(found[3] or DAY_S))
        if limit.most > MOST_MAX or not 0 < limit.seconds <= SECONDS_MAX:
            return f"a limit is up to {MOST_MAX} in 1 to {SECONDS_MAX} seconds"
        if limit.kind != kind == MESSAGES:
            return "what a local user queues is counted by messages"
        if limit.most:
            limits.append(limit)
    if len(limits) > LIMITS_MAX:
        return f"there are more than {LIMITS_MAX} limits"
    return Line(key, tuple(limits), reply)


class RelayLimits:
    """The file. ``complaints`` are the lines that do not count: number, text, why."""

    def __init__(self, data: bytes) -> None:
        self.complaints: list[tuple[int, bytes, str]] = []
        self._lines: dict[bytes, Line] = {}
        self._networks: list[tuple[Network, bytes]] | None = None
        self._known: dict[bytes, Line | None] = {}  # by address
        for number, text in enumerate(data.split(b"\n"), start=1):
            for entry in parse_lines(text):
                line = parse_line(entry)
                if isinstance(line, str):
                    self.complaints.append((number, entry, line))
                else:
                    self._lines[line.key] = line

    def __bool__(self) -> bool:
        return any(line.limits for line in self._lines.values() if not line.key.startswith(LOCAL))

    def local_users(self) -> dict[bytes, Line]:
        """The lines of local users by name or number, the empty name for all others."""
        return {key.removeprefix(LOCAL): line for key, line in self._lines.items() if key.startswith(LOCAL)}

    def of_user(self, user: bytes) -> Line | None:
        """What holds for ``user``; the key of the answer is what is counted. None for no limit."""
        user = user.lower()
        return self._found(self._lines.get(user), user)

    def of_address(self, ip: bytes) -> Line | None:
        """The same for a client that is known by its address alone: its own line, that of the smallest network that has
        it, or that of all others, which counts an IPv6 address as its /64."""
        if ip not in self._known:
            if len(self._known) >= KNOWN_MAX:
                self._known.clear()
            self._known[ip] = self._look_up(ip)
        return self._known[ip]

    def _look_up(self, ip: bytes) -> Line | None:
        if ip in self._lines:
            return self._found(self._lines[ip], ip)
        from pyqmail.policy.networks import around, find_networks, parse_address  # they take their time to import

        address = parse_address(ip)
        if address is None:
            return self._found(None, ip)
        if self._networks is None:
            self._networks = find_networks(self._lines)
        for network, key in self._networks:
            if address in network:
                return self._found(self._lines[key], key)
        shared = address if address.version == 4 else around(address, 32, V6_BITS)
        return self._found(None, str(shared).encode())

    def _found(self, line: Line | None, key: bytes) -> Line | None:
        line = self._lines.get(b"") if line is None else line
        return None if line is None or not line.limits else replace(line, key=key)
