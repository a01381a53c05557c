"""The two pipes to a spawner: commands in one piece a turn, reports as they come, and its limit (qmail-lspawn(8))."""

import os
from collections.abc import Callable, Sequence

from pyqmail.protocol import spawn
from pyqmail.system.loop import Loop


class SpawnerLink:
    """Sends commands without waiting. ``limit``: the most deliveries at once that the spawner knows how to number.

    ``together``: how many recipients it takes in one command. ``ends``: whether it ends deliveries when it is told to.
    """

    def __init__(
        self,
        loop: Loop,
        commands: int,
        reports: int,
        *,
        reported: Callable[[spawn.Report], None],
        lost: Callable[[], None],
        answered: Callable[[], None],
    ) -> None:
        self.alive = True
        self.limit = 0
        self.together = 1
        self.ends = False
        self._loop = loop
        self._commands = commands
        self._reports = reports
        self._reported = reported
        self._lost = lost
        self._answered = answered
        self._parser = spawn.ReportParser()
        self._gathered: list[bytes] = []  # commands of this turn
        self._out = b""
        self._probing: bool | None = None  # None: not asked yet; True: asked; False: answered

    def start(self, limit: int) -> None:
        """Begin to serve with the spawner's ``limit``."""
        self.limit = limit
        for fd in (self._commands, self._reports):
            os.set_blocking(fd, False)
        self._loop.add_reader(self._reports, self._read)

    @property
    def ready(self) -> bool:
        """Whether a command would go out at once."""
        return self.alive and not self._probing and not self._out

    def widen(self, *, together: bool, ends: bool) -> None:
        """Ask the spawner, which may be ours, for more slots than a byte can number and for more commands; once."""
        if self._probing is not None or not self.alive:
            return
        self._probing = True
        self._parser.expect_probe_answer()
        self._send_gathered()
        self._send(spawn.format_probe(together=together, end=ends))

    def command(self, slot: int, message: bytes, sender: bytes, recipients: Sequence[bytes]) -> None:
        """Have ``message`` delivered, with the other commands of this turn; to one where none may go together."""
        if self._parser.joint:
            self._gather(spawn.format_joint_command(slot, message, sender, recipients))
        else:
            self._gather(spawn.format_command(slot, message, sender, recipients[0], wide=self._parser.wide))

    def end(self, slot: int) -> None:
        """Have what runs in ``slot`` ended by a spawner that ``ends``, and reported."""
        self._gather(spawn.format_end(slot))

    def _gather(self, command: bytes) -> None:
        if not self._gathered:
            self._loop.before_wait(self._send_gathered)
        self._gathered.append(command)

    def _send_gathered(self) -> None:
        gathered, self._gathered = self._gathered, []
        if self.alive and gathered:
            self._send(b"".join(gathered))

    def _send(self, data: bytes) -> None:
        if self._out:
            self._out += data  # behind what the pipe has not taken yet
            return
        try:
            done = os.write(self._commands, data)
        except BlockingIOError:
            done = 0
        except OSError:
            self._read_rest()
            self._die()
            return
        if done < len(data):
            self._loop.add_writer(self._commands, self._flush)
            self._out = data[done:]

    def _flush(self) -> None:
        data, self._out = self._out, b""
        self._loop.remove_writer(self._commands)
        self._send(data)

    def _read_rest(self) -> None:
        """What the spawner had still reported before it closed its commands is done, and gets its marks."""
        while self.alive:
            try:
                data = os.read(self._reports, 65536)
            except OSError:
                return
            if not data:
                return
            self._take(data)

    def _read(self) -> None:
        try:
            data = os.read(self._reports, 65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._die()
            return
        self._take(data)

    def _take(self, data: bytes) -> None:
        for report in self._parser.feed(data):
            if self._probing and report.slot == spawn.PROBE_SLOT:
                self._probing = False
                granted = spawn.parse_probe_answer(report)
                if granted is not None:
                    self.limit, self.together, self.ends = granted.limit, granted.together, granted.end
                self._answered()
            else:
                self._reported(report)

    def _die(self) -> None:
        if not self.alive:
            return
        self.alive = False
        self._loop.remove_reader(self._reports)
        self._loop.remove_writer(self._commands)
        self._lost()
