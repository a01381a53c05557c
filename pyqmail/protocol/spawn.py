"""The wire between qmail-send and its spawners, both ends (qmail-lspawn(8), qmail-rspawn(8)).

    command   qmail-send -> spawner   slot, message ``S/N`` NUL, sender NUL, recipient NUL
    report    spawner -> qmail-send   slot, one letter, text NUL

``slot`` is one unsigned byte, the reference's "delnum".  A NUL in that place is slot 0 and ends nothing.

A spawner begins with one byte: its limit of slots, 1 to 255.  Between our own programs there may be more.
When the byte is 255, qmail-send may send one *probe*: a command for slot 255, which no legal limit admits.  A
foreign spawner answers with its ordinary Z for a slot out of range.  Ours answers with the letter W and its real
limit in decimal, and from the next byte on both directions are *wide*: a slot is two bytes, high byte first.
qmail-send sends nothing between the probe and its answer, so no narrow bytes can be taken for wide ones.
"""

from dataclasses import dataclass

LIMIT_MAX = 255  # one byte
WIDE_LIMIT_MAX = 65535  # two bytes
PROBE_SLOT = 255  # no limit of one byte admits this slot: slots count from 0
PROBE_MESSAGE = b"wide"  # not digits and slashes, so it could never name a message
PROBE_LETTER = b"W"
REPORT_MAX = 10000  # what qmail-send keeps of a report, slot and letter included

SUCCESS = b"K"
DEFERRAL = b"Z"
FAILURE = b"D"


@dataclass(frozen=True, slots=True)
class Command:
    """One delivery asked of a spawner; ``message`` is ``S/N`` as it came."""

    slot: int
    message: bytes
    sender: bytes
    recipient: bytes
    out_of_memory: bool = False  # it could not be kept; only the slot is known
    has_facts: bool = False  # as the file of its message says, once that is open (spool/facts)

    @property
    def probe(self) -> bool:
        """Whether this asks for wide slots rather than for a delivery."""
        return self.slot == PROBE_SLOT and self.message == PROBE_MESSAGE


@dataclass(frozen=True, slots=True)
class Report:
    """One answer from a spawner; ``letter`` is empty when nothing came between the slot and the NUL."""

    slot: int
    letter: bytes
    text: bytes


def _format_slot(slot: int, wide: bool) -> bytes:
    return slot.to_bytes(2 if wide else 1, "big")


def format_command(slot: int, message: bytes, sender: bytes, recipient: bytes, *, wide: bool = False) -> bytes:
    """The bytes that ask a spawner to deliver ``message`` to ``recipient``; no field may hold a NUL."""
    return b"%b%b\0%b\0%b\0" % (_format_slot(slot, wide), message, sender, recipient)


def format_probe() -> bytes:
    """The command that asks a spawner for its wide limit."""
    return format_command(PROBE_SLOT, PROBE_MESSAGE, b"", b"")


def format_report(slot: int, letter: bytes, text: bytes, *, wide: bool = False) -> bytes:
    """The bytes of one report; ``text`` ends at its first NUL."""
    return b"%b%b%b\0" % (_format_slot(slot, wide), letter, text.partition(b"\0")[0])


def format_probe_answer(limit: int) -> bytes:
    """Our spawner's answer to a probe; the spawner goes wide right after it."""
    return format_report(PROBE_SLOT, PROBE_LETTER, b"%d" % limit)


def parse_probe_answer(report: Report) -> int | None:
    """The wide limit in ``report``, or None when the spawner is a foreign one."""
    if report.slot != PROBE_SLOT or report.letter != PROBE_LETTER or not report.text.isdigit():
        return None
    return min(int(report.text[:9]), WIDE_LIMIT_MAX)


class CommandParser:
    """Commands out of any chunking of the bytes; a half-received one waits for more, or is dropped at the end."""

    def __init__(self) -> None:
        self.wide = False
        self._buffer = b""
        self._skipped: tuple[int, int] | None = None  # slot of a command that memory failed for, NULs to its end

    def feed(self, data: bytes) -> list[Command]:
        """The commands completed by ``data``, in order; one that memory failed for says so when it has ended."""
        if self._skipped is None:
            try:
                return self._collect(data)
            except MemoryError:
                start = self._buffer[:2] or data[:2]
                width = 2 if self.wide else 1
                self._skipped = int.from_bytes(start[:width], "big"), 3 - self._buffer[width:].count(b"\0")
                data = data if self._buffer else data[width:]
                self._buffer = b""
        return self._skip(data)

    def _skip(self, data: bytes) -> list[Command]:
        assert self._skipped is not None
        slot, left = self._skipped
        while left and (end := data.find(b"\0")) >= 0:
            data, left = data[end + 1 :], left - 1
        if left:
            self._skipped = slot, left
            return []
        self._skipped = None
        return [Command(slot, b"", b"", b"", out_of_memory=True), *self.feed(data)]

    def _collect(self, data: bytes) -> list[Command]:
        commands: list[Command] = []
        width = 2 if self.wide else 1
        data = self._buffer + data
        start = 0
        while True:
            message_end = data.find(b"\0", start + width)
            sender_end = data.find(b"\0", message_end + 1) if message_end >= 0 else -1
            recipient_end = data.find(b"\0", sender_end + 1) if sender_end >= 0 else -1
            if recipient_end < 0:
                break
            slot = int.from_bytes(data[start : start + width], "big")
            message = data[start + width : message_end]
            sender = data[message_end + 1 : sender_end]
            recipient = data[sender_end + 1 : recipient_end]
            commands.append(Command(slot, message, sender, recipient))
            start = recipient_end + 1
        self._buffer = data[start:]
        return commands


class ReportParser:
    """Reports out of any chunking of untrusted bytes; of each at most ``limit`` bytes are kept."""

    def __init__(self, limit: int = REPORT_MAX) -> None:
        self.wide = False
        self._probed = False
        self._limit = limit
        self._buffer = b""

    def expect_probe_answer(self) -> None:
        """A probe is sent: from the byte after an answer that grants it on, reports are wide."""
        self._probed = True

    def feed(self, data: bytes) -> list[Report]:
        """The reports completed by ``data``, in order.  The NUL that ends one is not counted in its limit."""
        reports: list[Report] = []
        width = 2 if self.wide else 1
        data = self._buffer + data
        start = 0
        while (end := data.find(b"\0", start + width)) >= 0:
            slot = int.from_bytes(data[start : start + width], "big")
            kept = data[start + width : min(end, start + self._limit)]
            report = Report(slot, kept[:1], kept[1:])
            reports.append(report)
            start = end + 1
            if self._probed and slot == PROBE_SLOT:
                self._probed = False
                if parse_probe_answer(report) is not None:
                    self.wide, width = True, 2
        # What is beyond the limit is dropped at once, so that a spawner gone mad cannot fill our memory.
        self._buffer = data[start : start + self._limit]
        return reports
