"""How long the next attempt of somebody has to wait, by the wrong passwords before it (qmail-authd(8)).

Whoever guesses is known by network and user together, by network alone, and, only mildly, by user alone: guessing must
not lock the owner of an account out. Networks are an IPv4 address or a /64.
"""

import ipaddress
from collections import OrderedDict

FORGET_S = 900.0  # after the last wrong password
COUNT_MAX = 1_000_000  # more is no count of ours
KNOWN_MAX = 20_000  # counts in memory; the oldest goes first
PAIR_FREE, NETWORK_FREE, USER_FREE = 1, 5, 10  # wrong passwords that cost nothing
PAIR_MAX_S, NETWORK_MAX_S, USER_MAX_S = 32.0, 32.0, 2.0

Key = tuple[bytes, bytes]  # network and user, either of them empty


def network_of(ip: bytes) -> bytes:
    """The network of an address; what is none counts as one by itself."""
    try:
        address = ipaddress.ip_address(ip.decode("ascii"))
    except ValueError:
        return ip
    if isinstance(address, ipaddress.IPv6Address):
        return address.ipv4_mapped.packed if address.ipv4_mapped else address.packed[:8]
    return address.packed


class Failures:
    """The counts. ``now`` is always in monotonic seconds."""

    def __init__(self) -> None:
        self._known: OrderedDict[Key, tuple[int, float]] = OrderedDict()
        self._right: OrderedDict[Key, None] = OrderedDict()  # the last to be right at the end

    def wait_s(self, network: bytes, user: bytes, now: float) -> float:
        """Seconds that an attempt has to wait before it is looked at."""
        return max(
            _doubling(self._count((network, user), now) - PAIR_FREE, PAIR_MAX_S),
            _doubling(self._count((network, b""), now) - NETWORK_FREE, NETWORK_MAX_S),
            min(USER_MAX_S, 0.1 * max(0, self._count((b"", user), now) - USER_FREE)),
        )

    def failed(self, network: bytes, user: bytes, now: float) -> None:
        """One more wrong password."""
        for key in ((network, user), (network, b""), (b"", user)):
            self._known[key] = (self._count(key, now) + 1, now)
            self._known.move_to_end(key)
        while len(self._known) > KNOWN_MAX:
            self._known.popitem(last=False)

    def succeeded(self, network: bytes, user: bytes) -> None:
        """The right one: this user from there owes nothing any more."""
        self._known.pop((network, user), None)
        self._right[network, user] = None
        self._right.move_to_end((network, user))
        while len(self._right) > KNOWN_MAX:
            self._right.popitem(last=False)

    def was_right(self, network: bytes, user: bytes) -> bool:
        """Whether this user has once been right from there."""
        return (network, user) in self._right

    def saved(self) -> bytes:
        """All counts, a line each: how many, when the last was, network and user in hexadecimal."""
        return b"".join(
            b"%d %.3f %b %b\n" % (count, last, network.hex().encode() or b"-", user.hex().encode() or b"-")
            for (network, user), (count, last) in self._known.items()
        )

    def restore(self, data: bytes, now: float) -> None:
        """Go on with what was ``saved`` since the machine started. Lines that are none count for nothing."""
        for line in data.split(b"\n")[:KNOWN_MAX]:
            try:
                count, last, network, user = line.decode("ascii").split()
                when = float(last)
                key = bytes.fromhex(network.strip("-")), bytes.fromhex(user.strip("-"))
                if 0 < int(count) <= COUNT_MAX and now - FORGET_S < when <= now:
                    self._known[key] = (int(count), when)
            except ValueError:
                continue

    def _count(self, key: Key, now: float) -> int:
        count, last = self._known.get(key, (0, now))
        return count if now - last < FORGET_S else 0


def _doubling(count: int, most_s: float) -> float:
    return min(most_s, 0.5 * 2.0 ** min(count, 16)) if count > 0 else 0.0
