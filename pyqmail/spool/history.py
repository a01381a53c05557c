"""Attempts and last replies of the messages that wait (qmail-q(8)): notes for people, no delivery depends on them.

    queue/pyqmail/CHANNEL/S/N       of qmails, 0600; lines:

        birth SECONDS               of the message: a number used again must not inherit the note
        tried SECONDS               when the last attempt was over
        attempts COUNT              passes that started a delivery
        delayed SECONDS             when its sender was told of its delay; only if that was so, and then synced
        OFFSET REPLY                last reply of the recipient at that offset of its channel file, in safe bytes

A note is written when a pass has left recipients behind, and not synced else. One that cannot be read is no note.
"""

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

from pyqmail.formats.logline import safe
from pyqmail.spool.layout import Layout
from pyqmail.system import files

CHANNELS = ("local", "remote")
REPLY_MAX = 300  # bytes of one reply that are kept
REPLIES_MAX = 1000  # replies of one message and channel that are kept
NOTE_MAX = REPLIES_MAX * (REPLY_MAX + 24)


@dataclass(frozen=True, slots=True)
class Note:
    """What is known of the attempts of one message in one channel."""

    birth: int
    tried: int
    attempts: int
    replies: Mapping[int, bytes]
    delayed: int = 0  # 0: not yet


def format_note(note: Note) -> bytes:
    """The bytes of the file of ``note``."""
    lines = [b"birth %d" % note.birth, b"tried %d" % note.tried, b"attempts %d" % note.attempts]
    lines += [b"delayed %d" % note.delayed] if note.delayed else []
    lines += [b"%d %b" % (offset, reply) for offset, reply in list(note.replies.items())[:REPLIES_MAX]]
    return b"\n".join(lines) + b"\n"


def parse_note(data: bytes) -> Note | None:
    """The note in ``data``; None for anything else."""
    fields = [line.partition(b" ")[::2] for line in data.split(b"\n") if line]
    if [name for name, _ in fields[:3]] != [b"birth", b"tried", b"attempts"]:
        return None
    try:
        birth, tried, attempts = (int(value) for _, value in fields[:3])
        rest = fields[3:]
        delayed = int(rest.pop(0)[1]) if rest and rest[0][0] == b"delayed" else 0
        return Note(birth, tried, attempts, {int(offset): reply for offset, reply in rest}, delayed)
    except ValueError:
        return None


def trimmed(text: bytes) -> bytes:
    """A reply as it is kept: one line of printable bytes, cut if it is long, but for how TLS was at its end."""
    said, newline, how = text.rstrip(b"\n").rpartition(b"\n")
    if not how.startswith(b"tls="):
        return safe((said + newline + how)[:REPLY_MAX].rstrip(b"\n"))
    how = how[: REPLY_MAX // 2]
    return safe(said[: REPLY_MAX - len(newline + how)] + newline + how)


class History:
    """The notes of one queue. Without queue/pyqmail, or with a full disk, nothing is noted and nothing fails."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._top = layout.private

    def prepare(self) -> bool:
        """Make the directories below queue/pyqmail; False if notes cannot be kept."""
        try:
            for channel in CHANNELS:
                for remainder in range(self._layout.split):
                    os.makedirs(f"{self._top}/{channel}/{remainder}", mode=0o700, exist_ok=True)
        except OSError:
            return False
        return True

    def path(self, channel: str, number: int) -> str:
        """The file of the note."""
        return f"{self._top}/{channel}/{number % self._layout.split}/{number}"

    def read(self, channel: str, number: int, birth: int) -> Note | None:
        """The note of a message born at ``birth``; None when there is none."""
        try:
            fd = files.open_read(self.path(channel, number))
        except OSError:
            return None
        try:
            note = parse_note(os.read(fd, NOTE_MAX))
        except OSError:
            return None
        finally:
            os.close(fd)
        return note if note is not None and note.birth == birth else None

    def add(self, channel: str, number: int, replies: Mapping[int, bytes]) -> None:
        """Note one more pass, whose ``replies`` take the place of the last one's for the same recipients."""
        try:
            birth = int(os.stat(self._layout.info(number)).st_mtime)
        except OSError:
            return
        before = self.read(channel, number, birth)
        attempts, merged, delayed = 1, dict(replies), 0
        if before is not None:
            attempts += before.attempts
            merged = {**before.replies, **replies}
            delayed = before.delayed
        self._write(channel, number, Note(birth, int(time.time()), attempts, merged, delayed))

    def note_delay(self, channel: str, number: int, birth: int) -> bool:
        """The sender is being told of the delay of this message: note that on disk; False if it cannot be."""
        before = self.read(channel, number, birth)
        return before is not None and self._write(
            channel, number, replace(before, delayed=int(time.time())), durably=True
        )

    def _write(self, channel: str, number: int, note: Note, *, durably: bool = False) -> bool:
        try:
            fd = os.open(self.path(channel, number), os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            try:
                files.write_all(fd, format_note(note))
                if durably:
                    files.sync(fd)
            finally:
                os.close(fd)
        except OSError:
            return False
        return True

    def forget(self, channel: str, number: int) -> None:
        """The channel of this message is done."""
        try:
            files.unlink_if_present(self.path(channel, number))
        except OSError:
            return

    def sweep(self) -> int:
        """Remove the notes of messages that are gone, as another qmail leaves them; how many. May take seconds."""
        removed = 0
        for channel in CHANNELS:
            for remainder in range(self._layout.split):
                try:
                    names = os.listdir(f"{self._top}/{channel}/{remainder}")
                except OSError:
                    continue
                for name in names:
                    if name.isascii() and name.isdigit() and not os.path.exists(self._layout.info(int(name))):
                        self.forget(channel, int(name))
                        removed += 1
        return removed
