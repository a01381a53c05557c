"""Which domains share exchangers, and how long those want to be left alone (control/remotelimits, qmail-send(8)).

qmail-remote alone knows the exchangers of a domain. Where it holds a delivery back it says whose they are. From then on
the domain is counted with all others of that provider, and waits in one line with them: until the pause is over, or a
delivery there has ended. When nothing waits for a provider any more its domains are forgotten, since DNS may change.
"""

from collections import OrderedDict

from pyqmail.formats.report import HeldBack
from pyqmail.send.shares import Entry, Shares
from pyqmail.system.loop import Loop, Timer
from pyqmail.system.typed import Generic

DOMAINS_MAX = 10_000  # that are known to share exchangers; the one learnt first makes room
NARROW_S = 60.0  # after which more connections than there were are tried again
BUSY_S = 1.0  # to wait for a connection that no delivery of ours is known to have


class Providers(Generic[Entry]):
    """Learns from reports, and narrows ``shares`` for a while."""

    def __init__(self, loop: Loop, shares: Shares[Entry]) -> None:
        self._loop = loop
        self._shares = shares
        self._of: OrderedDict[bytes, bytes] = OrderedDict()
        self._timers: dict[bytes, Timer] = {}

    def key(self, domain: bytes) -> bytes:
        """What deliveries to ``domain`` are counted by: it, or its provider, which no domain is equal to."""
        return self._of.get(domain, domain)

    def held_back(self, domain: bytes, held: HeldBack) -> None:
        """A delivery to ``domain`` was."""
        key = domain
        if domain not in self._shares.limits:  # else the admin has told it from the others
            key = self._learn(domain, b"@" + held.exchangers)
        if held.pause_s:
            self._narrow(key, 0, held.pause_s)
        elif self._shares.busy(key):
            self._narrow(key, held.connections, NARROW_S)
        else:
            self._narrow(key, 0, BUSY_S, then=held.connections)

    def _learn(self, domain: bytes, key: bytes) -> bytes:
        known = self._of.pop(domain, domain)
        self._of[domain] = key
        if known != key:
            self._shares.join(known, key)
        if len(self._of) > DOMAINS_MAX:
            self._of.popitem(last=False)
        return key

    def _narrow(self, key: bytes, limit: int, seconds: float, *, then: int = 0) -> None:
        """``limit`` for so many seconds, and ``then`` another one for NARROW_S."""
        self._shares.narrow(key, limit)
        self._look_after(key, seconds, then)

    def _look_after(self, key: bytes, seconds: float, then: int) -> None:
        if key in self._timers:
            self._timers[key].cancel()
        self._timers[key] = self._loop.call_later(seconds, lambda: self._over(key, then))

    def _over(self, key: bytes, then: int) -> None:
        if then:
            self._narrow(key, then, NARROW_S)
            return
        self._shares.widen(key)
        if self._shares.waiting(key) or self._shares.busy(key):
            self._look_after(key, NARROW_S, 0)
            return
        del self._timers[key]
        for domain in [domain for domain, provider in self._of.items() if provider == key]:
            del self._of[domain]
