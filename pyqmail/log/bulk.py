"""A whole log of multilog summed up quickly: one expression finds its usual lines, all others are read as ever.

What comes out is what parse_line, Joiner and Statistics make of the same lines (tests/log/test_bulk.py). The half of a
log is counted by itself, too: lines whose message or delivery began before it are given to who has counted that.
"""

import os
import pickle
import re
from collections.abc import Iterable, Iterator
from typing import IO

from pyqmail.log import events
from pyqmail.log.joiner import shown
from pyqmail.log.sources import LINE_MAX
from pyqmail.log.stamps import TAI_LABEL, TAI_OFFSET_S, parse_line
from pyqmail.log.statistics import Statistics
from pyqmail.log.twins import Twins
from pyqmail.system.process import fork_child
from pyqmail.system.progress import Progress

CHUNK = 1 << 20
APART_MIN = 32 << 20  # bytes from which on two processes share the work
LABEL_S = TAI_LABEL + TAI_OFFSET_S
Piece = tuple[str, int, int]  # a file, and from where to where
# One line of a log. The last group that has matched says which kind it is.
_LINE = re.compile(
    rb"@([0-9a-f]{16})([0-9a-f]{8}) (?:"
    rb"status: local \d{1,20}/\d{1,20} remote \d{1,20}/\d{1,20}"
    rb"|new msg (\d{1,20})"
    rb"|starting delivery (\d{1,20}): msg (\d{1,20}) to (?:local|remote) ([^\n]*)"
    rb"|delivery (\d{1,20}): (success|failure|deferral):[^\n]*"
    rb"|info msg (\d{1,20}): bytes (\d{1,20}) from <([^\n]*)> qp \d{1,20} uid \d{1,20}"
    rb"|end msg (\d{1,20})"
    rb")\n|([^\n]*)\n"
)
_STATUS, _NEW, _STARTED, _ENDED, _INFO, _LEFT = 2, 3, 6, 8, 11, 12


class Waiting:
    """What is known of a message."""

    __slots__ = ("began", "sender", "size")

    def __init__(self, began: float | None) -> None:
        self.began = began
        self.sender = ""
        self.size = 0


class Bulk:
    """Counts the lines of a log. ``inside``: they begin in its middle; lines of earlier messages become ``strays``."""

    def __init__(self, *, inside: bool = False) -> None:
        self.statistics = Statistics()
        self.seen = False  # anything
        self.understood = False  # a line of ours
        self.strays: list[bytes] = []
        self._inside = inside
        self._twins = Twins()
        self._messages: dict[int, Waiting] = {}
        self._running: dict[int, tuple[Waiting, str]] = {}  # the message and the recipient by delivery

    def feed(self, text: bytes) -> None:
        """Count whole lines."""
        if b"\r" in text:  # a line end, too
            text = text.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        if b' {"' in text:  # JSON, or a text that looks like it
            text = self._twins.without(text)
        for match in _LINE.finditer(text):
            if not self._count(match):
                self.strays.append(match[0])

    def _count(self, match: "re.Match[bytes]") -> bool:
        """Count a line; False for one of a message that began before."""
        kind = match.lastindex
        if kind == _STATUS:
            self.understood = True
            return True
        if kind == _NEW:
            self._messages[int(match[3])] = Waiting(_moment(match))
            return True
        if kind == _STARTED:
            delivery, number, recipient = match.group(4, 5, 6)
            return self._start(int(delivery), int(number), recipient.decode("utf-8", "replace"))
        if kind == _ENDED:
            return self._end(int(match[7]), match[8].decode(), _moment(match))
        if kind == _INFO:
            number, size, sender = match.group(9, 10, 11)
            return self._inform(int(number), int(size), sender.decode("utf-8", "replace"))
        if kind == _LEFT:
            return self._leave(int(match[12]))
        return self._read(match[13].decode("utf-8", "replace"))

    def _read(self, line: str) -> bool:
        """A line of any kind, in the slow way."""
        self.seen = True
        when, event = parse_line(line)
        self.understood |= event is not None
        match event:
            case events.NewMessage(number):
                self._messages[number] = Waiting(when)
            case events.MessageInfo(number, size, sender):
                return self._inform(number, size, shown(sender))
            case events.DeliveryStarted(delivery, number, _, recipient):
                return self._start(delivery, number, shown(recipient))
            case events.DeliveryEnded(delivery, result) if result != "mangled":
                return self._end(delivery, result, when)
            case events.MessageEnded(number):
                return self._leave(number)
            case events.Decision():
                self.statistics.add_session(event.result)
            case events.Warn() | events.Alert():
                self.statistics.add_trouble()
        return True

    def _start(self, delivery: int, number: int, recipient: str) -> bool:
        message = self._messages.get(number)
        if message is None:
            if self._inside:
                self._running.pop(delivery, None)  # of a qmail-send that was killed: its numbers begin anew
                return False
            message = self._messages[number] = Waiting(None)
        self._running[delivery] = message, recipient
        return True

    def _end(self, delivery: int, result: str, when: float | None) -> bool:
        found = self._running.pop(delivery, None)
        if found is None:
            return not self._inside
        self.statistics.add_delivery(result, found[1], found[0].began, when)
        return True

    def _inform(self, number: int, size: int, sender: str) -> bool:
        message = self._messages.get(number)
        if message is None:
            if self._inside:
                return False
            message = self._messages[number] = Waiting(None)
        message.size, message.sender = size, sender
        return True

    def _leave(self, number: int) -> bool:
        message = self._messages.pop(number, None)
        if message is None:
            if self._inside:
                return False
            message = Waiting(None)
        self.understood = True
        self.statistics.add_message(message.sender, message.size)
        return True

    def go_on(self, other: "Bulk") -> None:
        """Take up what ``other`` has counted of the lines that come next."""
        self.feed(b"".join(other.strays))
        self.statistics.merge(other.statistics)
        self.seen |= other.seen
        self.understood |= other.understood


def _moment(match: "re.Match[bytes]") -> float:
    seconds, fraction = match.group(1, 2)
    return int(seconds, 16) - LABEL_S + int(fraction, 16) / 1e9


def is_of_multilog(log: str) -> bool:
    """Whether ``log``, a directory or a file, begins as multilog begins lines. Raises OSError."""
    with _open(files_of(log)[0]) as file:
        return file.read(1) == b"@"


def files_of(log: str) -> list[str]:
    """The files of a log in their order: those of a directory of multilog or svlogd, or the one. Raises OSError."""
    if not os.path.isdir(log):
        return [log]
    old = sorted(f"{log}/{name}" for name in os.listdir(log) if name.startswith("@"))
    return [*old, f"{log}/current"]


def halves(files: Iterable[str]) -> tuple[list[Piece], list[Piece]]:
    """What two processes read: about half of the bytes each, in order, cut between two lines. Raises OSError."""
    pieces = [(path, 0, os.stat(path).st_size) for path in files]
    left = sum(size for _, _, size in pieces) // 2
    first: list[Piece] = []
    while pieces and left > 0:
        path, start, end = pieces.pop(0)
        if end <= left or path.endswith(".gz"):
            first.append((path, start, end))
            left -= end
            continue
        with open(path, "rb") as file:
            file.seek(left)
            while (part := file.readline(CHUNK)) and not part.endswith(b"\n"):
                pass  # a torn log may have no line end for long
            cut = file.tell()
        first.append((path, start, cut))
        return first, [(path, cut, end), *pieces]
    return first, pieces


def texts_of(pieces: Iterable[Piece]) -> Iterator[bytes]:
    """All of it, in parts of whole lines, of which one has at most LINE_MAX and CHUNK. Raises OSError."""
    for path, start, end in pieces:
        try:
            file = _open(path)
        except FileNotFoundError:
            continue  # the logger has removed it
        with file:
            file.seek(start)
            left = end - start if not path.endswith(".gz") else 1 << 62
            rest = b""
            while left > 0 and (data := file.read(min(CHUNK, left))):
                left -= len(data)
                whole, newline, after = data.rpartition(b"\n")
                if newline:
                    yield rest + whole + newline
                    rest = after
                elif len(rest) < LINE_MAX:
                    rest += data  # of a line that has no end the beginning counts
            if rest:
                yield rest + b"\n"


def _open(path: str) -> IO[bytes]:
    if not path.endswith(".gz"):
        return open(path, "rb", buffering=0)
    import gzip

    return gzip.open(path, "rb")  # type: ignore[return-value]


def told(pieces: list[Piece], what: str) -> Iterator[bytes]:
    """As texts_of, and a terminal is told how far it is; what is compressed counts as long as it comes."""
    progress = Progress(what, sum(end - start for _, start, end in pieces) >> 20)
    done = 0
    try:
        for text in texts_of(pieces):
            progress.tell(done >> 20)
            done += len(text)
            yield text
    finally:
        progress.end()


def sum_up(log: str) -> Bulk:
    """All of ``log``, by two processes if it is long and there are two processors. Raises OSError."""
    files = files_of(log)
    first, second = halves(files)
    whole = Bulk()
    size = sum(end - start for _, start, end in (*first, *second))
    if size < APART_MIN or len(os.sched_getaffinity(0)) < 2:
        for text in told([*first, *second], "MiB of the log"):
            whole.feed(text)
        return whole
    reader, writer = os.pipe()
    pid = fork_child(lambda: os.close(reader), lambda: _count_apart(second, writer))
    os.close(writer)
    with open(reader, "rb") as answer:
        for text in told(first, "MiB of one half"):
            whole.feed(text)
        data = answer.read()
    if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) != 0:
        for text in texts_of(second):  # it was killed, or could not read: who is left does it, and says why
            whole.feed(text)
        return whole
    whole.go_on(pickle.loads(data))  # noqa: S301  # from our own child
    return whole


def _count_apart(pieces: list[Piece], writer: int) -> int:
    half = Bulk(inside=True)
    for text in texts_of(pieces):
        half.feed(text)
    with open(writer, "wb") as answer:
        pickle.dump(half, answer, pickle.HIGHEST_PROTOCOL)
    return 0
