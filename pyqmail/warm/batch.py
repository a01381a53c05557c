"""Deliveries that wait for each other, so that those of one group can be made together (control/remotebatch).

qmail-send writes the commands of a turn in one piece, so what comes together is read together. A group starts when as
many wait as may go together, or with what has come together when none of it is under way. What comes while one is under
way waits for its end, PATIENCE_S at most, and QUIET_S more for the deliveries that begin where others have ended. So a
lone delivery starts at once, a burst becomes few transactions, and a slow one under way holds nobody up for long.
AT_ONCE full ones of a group start at once; further ones follow as these end, on their connections, and as many again
after each PATIENCE_S.
"""

from collections import deque
from collections.abc import Callable, Hashable, Sequence
from functools import partial

from pyqmail.protocol.spawn import Command
from pyqmail.system.loop import Loop, Timer

QUIET_S = 0.0005
PATIENCE_S = 0.1
AT_ONCE = 4  # where answers are quick more connections cost more than they gain: a worker and a handshake each

Start = Callable[[Hashable, Sequence[Command]], None]


class _Group:
    __slots__ = ("commands", "full", "patience", "running")

    def __init__(self) -> None:
        self.commands: list[Command] = []
        self.full: deque[list[Command]] = deque()
        self.running = 0
        self.patience: Timer | None = None


class Batches:
    """Waiting deliveries by group; ``start(key, commands)`` is called for those that go together."""

    def __init__(self, loop: Loop, start: Start) -> None:
        self._loop = loop
        self._start = start
        self._groups: dict[Hashable, _Group] = {}
        self._joined: dict[Hashable, None] = {}  # groups that have more since the loop last waited
        self._quiet: Timer | None = None

    def add(self, key: Hashable, commands: Sequence[Command], most: int) -> None:
        """More deliveries of the group ``key``, of which ``most`` may go together; ``commands`` are not more."""
        group = self._groups.get(key)
        if group is None:
            group = self._groups[key] = _Group()
        if len(group.commands) + len(commands) > most:
            self._fill(key, group)
        group.commands += commands
        if len(group.commands) >= most:
            self._fill(key, group)
            return
        if not self._joined:
            self._loop.before_wait(self._all_have_come)
        self._joined[key] = None

    def take(self, slot: int) -> list[Command]:
        """Those that wait and have ``slot``: they wait no longer."""
        taken: list[Command] = []
        for key, group in list(self._groups.items()):
            for waiting in (group.commands, *group.full):
                taken += [command for command in waiting if command.slot == slot]
                waiting[:] = [command for command in waiting if command.slot != slot]
            group.full = deque(full for full in group.full if full)
            if not (group.running or group.commands or group.full):
                if group.patience is not None:
                    group.patience.cancel()
                del self._groups[key]
        return taken

    def ended(self, key: Hashable) -> None:
        """One batch of the group ``key`` is over."""
        group = self._groups[key]
        group.running -= 1
        if group.full:
            self._run(key, group, group.full.popleft())
        elif group.commands:
            if self._quiet is not None:
                self._quiet.cancel()
            self._quiet = self._loop.call_later(QUIET_S, self._still)
        elif not group.running:
            del self._groups[key]

    def _all_have_come(self) -> None:
        """Start what has come together, unless it waits for those before it."""
        joined, self._joined = self._joined, {}
        for key in joined:
            group = self._groups.get(key)
            if group is None or not group.commands:
                continue
            if not group.running:
                self._go(key, group)
            else:
                self._be_patient(key, group)

    def _still(self) -> None:
        self._quiet = None
        for key, group in list(self._groups.items()):
            if group.commands and not group.running:
                self._go(key, group)

    def _be_patient(self, key: Hashable, group: _Group) -> None:
        if group.patience is None:
            group.patience = self._loop.call_later(PATIENCE_S, partial(self._go, key, group))

    def _fill(self, key: Hashable, group: _Group) -> None:
        """What waits is as much as may go together."""
        commands, group.commands = group.commands, []
        if group.running < AT_ONCE:
            self._run(key, group, commands)
        else:
            group.full.append(commands)
            self._be_patient(key, group)

    def _go(self, key: Hashable, group: _Group) -> None:
        """Start what waits, as much as may start at once."""
        if group.patience is not None:
            group.patience.cancel()
            group.patience = None
        for _ in range(min(AT_ONCE, len(group.full))):
            self._run(key, group, group.full.popleft())
        if group.full:
            self._be_patient(key, group)
        elif group.commands:
            commands, group.commands = group.commands, []
            self._run(key, group, commands)

    def _run(self, key: Hashable, group: _Group, commands: list[Command]) -> None:
        group.running += 1
        self._start(key, commands)
