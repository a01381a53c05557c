"""Records of the queue's own files: todo/N (u, p, F, T) and local/N, remote/N (T, D) (INTERNALS; queue layout)."""

from collections.abc import Iterator

from pyqmail.values import value

SHADOW_RECORD = b"p0 shadow "  # and the ID of its copy (qmail-shadowd(8)); in info/N it stands behind the sender
ALONE_RECORD = b"p0 alone  "  # the same where there is no copy
FACTS_RECORD = b"p0 facts "  # and a token: there is more to know of the message (spool/facts); others read pid 0


class UnknownRecord(Exception):
    """A todo file holds a record that is none of u, p, F, T, or ends inside one."""


@value
class Todo:
    """A new message's envelope and who queued it."""

    sender: bytes
    recipients: tuple[bytes, ...]
    uid: int
    pid: int
    facts: bytes = b""  # the token of its facts, if it has any
    shadow: bytes = b""  # the ID of its copy, if there is one


def _number(text: bytes) -> int:
    digits = text[: len(text) - len(text.lstrip(b"0123456789"))]
    return int(digits[:18] or b"0")


def parse_todo(data: bytes) -> Todo:
    """The envelope in todo file ``data``, records in any order. Raises UnknownRecord."""
    sender, uid, pid, facts, shadow = b"", 0, 0, b"", b""
    recipients: list[bytes] = []
    records = data.split(b"\0")
    if records.pop():
        raise UnknownRecord("the last record does not end")
    for record in records:
        match record[:1]:
            case b"T":
                recipients.append(record[1:])
            case b"F":
                sender = record[1:]
            case b"u":
                uid = _number(record[1:])
            case b"p":
                pid = _number(record[1:])
                if record.startswith(FACTS_RECORD):
                    facts = record[len(FACTS_RECORD) :]
                elif record.startswith(SHADOW_RECORD):
                    shadow = record[len(SHADOW_RECORD) :]
            case _:
                raise UnknownRecord(repr(record[:1]))
    return Todo(sender, tuple(recipients), uid, pid, facts, shadow)


def format_info(todo: Todo) -> bytes:
    """What info/N holds of a message: its sender, which is all that another qmail reads, and the ID of its copy."""
    shadow = SHADOW_RECORD + todo.shadow + b"\0" if todo.shadow else b""
    return b"F" + todo.sender + b"\0" + shadow


def parse_info_shadow(data: bytes) -> bytes:
    """The ID of the copy in ``data`` of info/N; nothing where it has none."""
    _, _, rest = data.partition(b"\0")
    record, end, _ = rest.partition(b"\0")
    return record[len(SHADOW_RECORD) :] if end and record.startswith(SHADOW_RECORD) else b""


class RecipientParser:
    """Records of a recipient file, in any chunks: (offset of the mark, mark, address)."""

    def __init__(self) -> None:
        self._rest = b""
        self._offset = 0

    @property
    def incomplete(self) -> bool:
        """Whether bytes of a record have come whose end has not."""
        return bool(self._rest)

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes, bytes]]:
        """The records that ``data`` completes."""
        parts = (self._rest + data).split(b"\0")
        self._rest = parts.pop()
        for part in parts:
            yield self._offset, part[:1], part[1:]
            self._offset += len(part) + 1
