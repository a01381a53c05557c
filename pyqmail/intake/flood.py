"""How much one local user may queue in a time: the lines ``uid=`` of control/relaylimits (qmail-queued(8)).

Counted by who shares a part (intake/shares), in the memory of this process: no other machine knows the users of this
one. What is over the limit is refused for now, before anything is received.
"""

import os
import time
from collections.abc import Callable

from pyqmail.control import Control, ControlUnreadable
from pyqmail.intake.shares import PASSWD, parse_uid, start_of
from pyqmail.policy.relay_limits import Line, RelayLimits
from pyqmail.protocol.state import Rule
from pyqmail.state.table import Table
from pyqmail.state.windows import Windows
from pyqmail.system.stamp import Seen, Watched

USERS_MAX = 100_000  # counters; the oldest goes first
SILENT_S = 60.0  # from one line about a user to the next


class Flood:
    """The counters of all local users. ``now`` is in seconds of a clock that only goes forward."""

    def __init__(self, home: str, now: Callable[[], float] = time.monotonic) -> None:
        self._home = home
        self._now = now
        self._lines = Watched(read_lines, lambda home: Seen([f"{home}/control/relaylimits", PASSWD]))
        self._windows = Windows(Table(USERS_MAX))
        self._told: dict[int, float] = {}  # until when nothing is said of a user

    def over(self, uid: int) -> bool:
        """Count one more message of ``uid``; whether that is one too many, which counts for nothing."""
        lines = self._lines.get(self._home)
        line = lines.get(uid) or lines.get(None)
        if line is None or not line.limits:
            return False
        rules = [Rule(limit.kind, 1, limit.most, limit.seconds) for limit in line.limits]
        found = self._windows.take(b"%d" % uid, rules, self._now())
        if found is not None:
            self._tell(uid, found.rule)
        return found is not None

    def _tell(self, uid: int, rule: Rule) -> None:
        now = self._now()
        if self._told.get(uid, 0.0) > now:
            return
        self._told = {known: until for known, until in self._told.items() if until > now} | {uid: now + SILENT_S}
        os.write(2, b"qmail-queued: over limit: uid %d %b %d/%d\n" % (uid, rule.kind, rule.most, rule.seconds))


def flood_of(home: str) -> Flood | None:
    """The counters, where anything is to be counted: who adds the first such line starts qmail-queued again."""
    return Flood(home) if read_lines(home) else None


def read_lines(home: str) -> dict[int | None, Line]:
    """The lines by uid, and with None that of all others; none where the file cannot be read, since mail goes on."""
    try:
        limits = RelayLimits(Control(home).read("relaylimits") or b"")
    except ControlUnreadable:
        return {}
    named = limits.local_users()
    passwd = start_of(PASSWD) if any(named) else b""
    found = {parse_uid(passwd, name) if name else None: line for name, line in named.items()}
    if b"" not in named:
        found.pop(None, None)  # a user whom nobody knows is not everybody
    return found
