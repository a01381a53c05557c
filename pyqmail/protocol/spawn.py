"""The wire between qmail-send and its spawners, both ends (qmail-lspawn(8), qmail-rspawn(8)).

    command   qmail-send -> spawner   slot, message ``S/N`` NUL, sender NUL, recipient NUL
    report    spawner -> qmail-send   slot, one letter, text NUL

``slot`` is one unsigned byte, the reference's "delnum".  A NUL in that place is slot 0 and ends nothing.

A spawner begins with one byte: its limit of slots, 1 to 255.  Between our own programs there may be more.
qmail-send may send one *probe*: a command for slot 255, which no legal limit admits.  A foreign spawner answers with
its ordinary Z for a slot out of range.  Ours answers with the letter W and its real limit in decimal, and from the
next byte on both directions are *wide*: a slot is two bytes, high byte first.  qmail-send sends nothing between the
probe and its answer, so no narrow bytes can be taken for wide ones.

A probe whose sender field says ``together`` asks for more: a spawner that can deliver to several recipients at once
adds to its limit a blank and how many.  From then on both directions are wide and *joint*: a command for several
recipients uses one slot, and each report says which of them it is about.

    command   slot, message ``S/N*COUNT`` NUL, sender NUL, COUNT times recipient NUL
    report    slot, one letter, ``FIRST-LAST `` and text NUL, places among its recipients, counted from 0

A slot is in use until each of its recipients is reported.

A probe whose recipient field says ``end`` asks whether running deliveries can be ended: a spawner that can adds the
word ``end`` to its answer.  From then on a command whose message is ``end``, with nothing in its other fields, ends
what runs in its slot, which is reported as ever; where the slot is not in use it means nothing, and has no report.
"""

from collections.abc import Sequence

from pyqmail.values import value

LIMIT_MAX = 255  # one byte
WIDE_LIMIT_MAX = 65535  # two bytes
HEAD_MAX = 64  # bytes of a command in which its slot and its message are whole
PROBE_SLOT = 255  # no limit of one byte admits this slot: slots count from 0
PROBE_MESSAGE = b"wide"  # not digits and slashes, so it could never name a message
PROBE_LETTER = b"W"
PROBE_TOGETHER = b"together"
PROBE_END = b"end"
END_MESSAGE = b"end"  # no message either
TOGETHER_MAX = 100  # recipients of one command: what every server takes at once (RFC 5321 section 4.5.3.1.8)
REPORT_MAX = 10000  # what qmail-send keeps of a report, slot and letter included

SUCCESS = b"K"
DEFERRAL = b"Z"
FAILURE = b"D"


@value
class Command:
    """One delivery asked of a spawner; ``message`` is ``S/N`` as it came, ``others`` are further recipients of it.

    ``place``: where among the recipients of its command this one is.
    """

    slot: int
    message: bytes
    sender: bytes
    recipient: bytes
    out_of_memory: bool = False  # it could not be kept; only the slot is known, and whether it ends what is there
    has_facts: bool = False  # as the file of its message says, once that is open (spool/facts)
    size: int | None = None  # of its message in bytes, once that is open
    others: tuple[bytes, ...] = ()
    place: int = 0

    def opened(self, *, has_facts: bool, size: int) -> "Command":
        """The same, of one recipient, once its message is open (dataclasses.replace takes ten times as long)."""
        return Command(
            self.slot, self.message, self.sender, self.recipient, has_facts=has_facts, size=size, place=self.place
        )

    @property
    def probe(self) -> bool:
        """Whether this asks for wide slots rather than for a delivery."""
        return self.slot == PROBE_SLOT and self.message == PROBE_MESSAGE

    @property
    def asks_for_together(self) -> bool:
        """Whether this probe asks for several recipients in one command, too."""
        return self.sender == PROBE_TOGETHER

    @property
    def asks_for_end(self) -> bool:
        """Whether this probe asks for commands that end a delivery, too."""
        return self.recipient == PROBE_END

    @property
    def ends(self) -> bool:
        """Whether this asks for the end of what runs in its slot, where that was granted."""
        return self.message == END_MESSAGE

    def apart(self) -> "list[Command]":
        """One for each of its recipients."""
        if not self.others:
            return [self]
        recipients = enumerate((self.recipient, *self.others))
        return [Command(self.slot, self.message, self.sender, each, place=place) for place, each in recipients]


@value
class Report:
    """One answer from a spawner; ``letter`` is empty when nothing came between the slot and the NUL.

    It is about the recipients from place ``first`` to ``last`` of the slot's command.
    """

    slot: int
    letter: bytes
    text: bytes
    first: int = 0
    last: int = 0


@value
class Granted:
    """What a spawner of ours has answered to a probe: its limit, and the recipients of one command.

    ``end``: whether it ends deliveries when it is told to.
    """

    limit: int
    together: int = 1
    end: bool = False


def _format_slot(slot: int, wide: bool) -> bytes:
    return slot.to_bytes(2 if wide else 1, "big")


def format_command(slot: int, message: bytes, sender: bytes, recipient: bytes, *, wide: bool = False) -> bytes:
    """The bytes that ask a spawner to deliver ``message`` to ``recipient``; no field may hold a NUL."""
    return b"%b%b\0%b\0%b\0" % (_format_slot(slot, wide), message, sender, recipient)


def format_joint_command(slot: int, message: bytes, sender: bytes, recipients: Sequence[bytes]) -> bytes:
    """The same for several ``recipients`` in one slot, where that was granted."""
    return format_command(slot, b"%b*%d" % (message, len(recipients)), sender, b"\0".join(recipients), wide=True)


def format_end(slot: int) -> bytes:
    """The command that ends what runs in ``slot``, where that was granted."""
    return format_command(slot, END_MESSAGE, b"", b"", wide=True)


def format_probe(*, together: bool = False, end: bool = False) -> bytes:
    """The command that asks a spawner for its wide limit."""
    return format_command(PROBE_SLOT, PROBE_MESSAGE, PROBE_TOGETHER if together else b"", PROBE_END if end else b"")


def format_report(slot: int, letter: bytes, text: bytes, *, wide: bool = False) -> bytes:
    """The bytes of one report; ``text`` ends at its first NUL."""
    return b"%b%b%b\0" % (_format_slot(slot, wide), letter, text.partition(b"\0")[0])


def format_joint_report(slot: int, letter: bytes, text: bytes, first: int, last: int) -> bytes:
    """The same about the recipients from place ``first`` to ``last``, where that was granted."""
    return format_report(slot, letter, b"%d-%d %b" % (first, last, text), wide=True)


def format_probe_answer(limit: int, together: int = 1, *, end: bool = False) -> bytes:
    """Our spawner's answer to a probe; it goes wide right after it, and joint where ``together`` is more than 1."""
    words = [b"%d" % limit, *([b"%d" % together] if together > 1 else []), *([PROBE_END] if end else [])]
    return format_report(PROBE_SLOT, PROBE_LETTER, b" ".join(words))


def parse_probe_answer(report: Report) -> Granted | None:
    """What ``report`` grants, or None when the spawner is a foreign one."""
    numbers = report.text.split(b" ")
    end = numbers[-1] == PROBE_END
    if end:
        numbers.pop()
    known = 1 <= len(numbers) <= 2 and all(number.isdigit() for number in numbers)
    if report.slot != PROBE_SLOT or report.letter != PROBE_LETTER or not known:
        return None
    limit, together = (int(number[:9]) for number in (*numbers, b"1")[:2])
    return Granted(min(limit, WIDE_LIMIT_MAX), min(together, TOGETHER_MAX), end)


def _recipients(message: bytes) -> tuple[bytes, int]:
    """A joint command's first field taken apart: ``S/N``, and how many recipients follow."""
    name, star, count = message.rpartition(b"*")
    if star and count.isdigit() and 1 <= int(count[:9]) <= TOGETHER_MAX:
        return name, int(count[:9])
    return message, 1


def _places(report: Report) -> Report:
    """A joint report as it is meant; one that says no places is about the first recipient, and says nothing."""
    places, blank, text = report.text.partition(b" ")
    first, dash, last = places.partition(b"-")
    if not (blank and dash and first.isdigit() and last.isdigit()):
        return Report(report.slot, b"", b"")
    return Report(report.slot, report.letter, text, int(first[:9]), int(last[:9]))


class CommandParser:
    """Commands out of any chunking of the bytes; a half-received one waits for more, or is dropped at the end."""

    def __init__(self) -> None:
        self.wide = False
        self.joint = False
        self._buffer = b""
        self._skipped: tuple[Command, int] | None = None  # a command that memory failed for, NULs to its end

    def feed(self, data: bytes) -> list[Command]:
        """The commands completed by ``data``, in order; one that memory failed for says so when it has ended."""
        if self._skipped is None:
            try:
                return self._collect(data)
            except MemoryError:
                start = self._buffer[:HEAD_MAX] + data[: max(0, HEAD_MAX - len(self._buffer))]
                width = 2 if self.wide else 1
                message, nul, _ = start[width:].partition(b"\0")
                if not nul and len(start) < HEAD_MAX:  # which command that is will be known soon
                    self._buffer = start
                    return []
                fields = 2 + (_recipients(message)[1] if self.joint else 1)
                kept = message if message == END_MESSAGE else b""  # it must not be taken for a delivery that failed
                lost = Command(int.from_bytes(start[:width], "big"), kept, b"", b"", out_of_memory=True)
                self._skipped = lost, fields - self._buffer[width:].count(b"\0")
                data = data if len(self._buffer) >= width else (self._buffer + data)[width:]
                self._buffer = b""
        return self._skip(data)

    def _skip(self, data: bytes) -> list[Command]:
        assert self._skipped is not None
        lost, left = self._skipped
        while left and (end := data.find(b"\0")) >= 0:
            data, left = data[end + 1 :], left - 1
        if left:
            self._skipped = lost, left
            return []
        self._skipped = None
        return [lost, *self.feed(data)]

    def _collect(self, data: bytes) -> list[Command]:
        commands: list[Command] = []
        width = 2 if self.wide else 1
        data = self._buffer + data
        start = 0
        while True:
            message_end = data.find(b"\0", start + width)
            sender_end = data.find(b"\0", message_end + 1) if message_end >= 0 else -1
            if sender_end < 0:
                break
            message, count = data[start + width : message_end], 1
            if self.joint:
                message, count = _recipients(message)
            end = sender_end
            for _ in range(count):
                end = data.find(b"\0", end + 1)
                if end < 0:
                    break
            if end < 0:
                break
            slot = int.from_bytes(data[start : start + width], "big")
            sender = data[message_end + 1 : sender_end]
            recipient, *others = data[sender_end + 1 : end].split(b"\0")
            commands.append(Command(slot, message, sender, recipient, others=tuple(others)))
            start = end + 1
        self._buffer = data[start:]
        return commands


class ReportParser:
    """Reports out of any chunking of untrusted bytes; of each at most ``limit`` bytes are kept."""

    def __init__(self, limit: int = REPORT_MAX) -> None:
        self.wide = False
        self.joint = False
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
            reports.append(_places(report) if self.joint else report)
            start = end + 1
            if self._probed and slot == PROBE_SLOT:
                self._probed = False
                granted = parse_probe_answer(report)
                if granted is not None:
                    self.wide, width, self.joint = True, 2, granted.together > 1
        # What is beyond the limit is dropped at once, so that a spawner gone mad cannot fill our memory.
        self._buffer = data[start : start + self._limit]
        return reports
