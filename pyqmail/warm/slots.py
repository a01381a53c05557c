"""The slots of a spawner that are in use, and the reports by which they become free (protocol/spawn)."""

from collections.abc import Sequence

from pyqmail.protocol.spawn import TOGETHER_MAX, Command, format_joint_report, format_report


class Slots:
    """How many recipients of each slot are not reported yet. ``wide`` and ``joint``: how reports are written."""

    def __init__(self) -> None:
        self.wide = False
        self.joint = False
        self._left: dict[int, int] = {}
        self._ending: set[int] = set()

    def __contains__(self, slot: int) -> bool:
        return slot in self._left

    def __len__(self) -> int:
        return len(self._left)

    def take(self, slot: int, recipients: int) -> None:
        """``slot`` is in use until so many ``recipients`` are reported."""
        self._left[slot] = recipients

    def end(self, slot: int) -> bool:
        """Nothing more is to begin in ``slot`` until it is free; whether it is in use."""
        if slot in self._left:
            self._ending.add(slot)
        return slot in self._left

    def ending(self, slot: int) -> bool:
        """Whether that was said of ``slot``, which is in use still."""
        return slot in self._ending

    def refuse(self, slot: int, report: bytes) -> bytes:
        """The bytes that report on all recipients of a command that no slot was taken for."""
        if self.joint:
            return format_joint_report(slot, report[:1], report[1:], 0, TOGETHER_MAX)
        return format_report(slot, report[:1], report[1:], wide=self.wide)

    def answer(self, commands: Sequence[Command], reports: Sequence[bytes]) -> bytes:
        """The bytes that report on ``commands``, each of one recipient; neighbours with equal reports share one."""
        wire, start = b"", 0
        for at, (command, report) in enumerate(zip(commands, reports, strict=True), 1):
            self._less(command.slot)
            following = commands[at] if at < len(commands) else None
            alike = following is not None and following.slot == command.slot and following.place == command.place + 1
            if self.joint and alike and reports[at] == report:
                continue
            if self.joint:
                first = commands[start].place
                wire += format_joint_report(command.slot, report[:1], report[1:], first, command.place)
            else:
                wire += format_report(command.slot, report[:1], report[1:], wide=self.wide)
            start = at
        return wire

    def _less(self, slot: int) -> None:
        left = self._left[slot] - 1
        if left:
            self._left[slot] = left
        else:
            del self._left[slot]
            self._ending.discard(slot)
