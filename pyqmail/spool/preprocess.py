"""From S4 to S5: info/N, local/N and remote/N made from todo/N (INTERNALS section 3).

The order is the argument.  ``prepare`` writes the files of a message and only starts their way to the disk;
``make_durable`` then syncs the files and the directories of a whole batch.  Only after it has succeeded may qmail-clean
be asked to remove todo/N: until then the work is repeated from todo/N after a crash, and any info/N is ignored.
"""

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from pyqmail.formats.logline import safe
from pyqmail.formats.todo import Todo, UnknownRecord, parse_todo
from pyqmail.policy.classify import Routing, classify
from pyqmail.spool.layout import Layout
from pyqmail.system import files

Log = Callable[[bytes], None]


class PreprocessTrouble(Exception):
    """The message stays in todo; ``text`` is the log line."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text.encode()


@dataclass(frozen=True, slots=True)
class Prepared:
    """A message whose files are written and not yet durable: (path below the queue, descriptor) of each."""

    number: int
    channels: tuple[str, ...]
    opened: tuple[tuple[str, int], ...]

    def close(self) -> None:
        """Give the descriptors back."""
        for _, fd in self.opened:
            os.close(fd)


def _read_whole(path: str) -> bytes:
    fd = files.open_read(path)
    try:
        data = b""
        while chunk := os.read(fd, 65536):
            data += chunk
        return data
    finally:
        os.close(fd)


def _read_todo(layout: Layout, number: int) -> bytes:
    try:
        return _read_whole(layout.todo(number))
    except OSError:
        raise PreprocessTrouble(f"warning: unable to open todo/{number}") from None


def _clear(layout: Layout, number: int) -> None:
    for part in ("local", "remote", "info"):
        try:
            files.unlink_if_present(layout.part(part, number))
        except OSError:
            raise PreprocessTrouble(f"warning: unable to unlink {layout.relative(part, number)}") from None


def _parse(number: int, data: bytes) -> Todo:
    try:
        return parse_todo(data)
    except UnknownRecord:
        raise PreprocessTrouble(f"warning: unknown record type in todo/{number}") from None


def _create(layout: Layout, part: str, number: int) -> int:
    try:
        return files.create_exclusive(layout.part(part, number))
    except OSError:
        raise PreprocessTrouble(f"warning: unable to create {layout.relative(part, number)}") from None


def _write(layout: Layout, part: str, number: int, fd: int, data: bytes) -> None:
    try:
        files.write_all(fd, data)
    except OSError:
        raise PreprocessTrouble(f"warning: trouble writing to {layout.relative(part, number)}") from None
    files.start_writeback(fd)


def prepare(layout: Layout, number: int, routing: Routing, log: Log) -> Prepared:
    """Write the files of new message ``number``, not yet synced. Raises PreprocessTrouble."""
    data = _read_todo(layout, number)
    try:
        size = os.stat(layout.mess(number)).st_size
    except OSError:
        raise PreprocessTrouble(f"warning: unable to stat {layout.relative('mess', number)}") from None
    _clear(layout, number)
    opened = [(layout.relative("info", number), _create(layout, "info", number))]
    try:
        log(b"new msg %d" % number)
        todo = _parse(number, data)
        _write(layout, "info", number, opened[0][1], b"F" + todo.sender + b"\0")
        log(b"info msg %d: bytes %d from <%b> qp %d uid %d" % (number, size, safe(todo.sender), todo.pid, todo.uid))
        lists: dict[str, list[bytes]] = {}
        for recipient in todo.recipients:
            channel, address = classify(recipient, routing)
            lists.setdefault(channel, []).append(b"T" + address + b"\0")
        channels = tuple(sorted(lists))
        for name in channels:
            fd = _create(layout, name, number)
            opened.append((layout.relative(name, number), fd))
            _write(layout, name, number, fd, b"".join(lists[name]))
    except BaseException:
        for _, fd in opened:
            os.close(fd)
        raise
    return Prepared(number, channels, tuple(opened))


def make_durable(layout: Layout, batch: Iterable[Prepared]) -> list[bytes | None]:
    """Sync a batch and close its files; for each message None, or the log line of what went wrong."""
    answers: list[bytes | None] = []
    folders: dict[str, list[int]] = {}
    for index, prepared in enumerate(batch):
        answers.append(None)
        for name, fd in prepared.opened:
            folders.setdefault(os.path.dirname(name), []).append(index)
            try:
                if answers[index] is None:
                    files.sync(fd)
            except OSError:
                answers[index] = b"warning: trouble fsyncing " + name.encode()
        prepared.close()
    for folder, members in folders.items():
        try:
            files.sync_directory(f"{layout.queue}/{folder}")
        except OSError:
            for index in members:
                answers[index] = answers[index] or b"warning: trouble fsyncing " + folder.encode()
    return answers
