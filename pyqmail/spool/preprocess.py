"""From S4 to S5: info/N, local/N and remote/N made from todo/N (INTERNALS section 3).

The order is the argument.  ``examine`` reads todo/N; ``prepare`` writes the files of a message and only starts their
way to the disk; ``make_durable`` then syncs the files and the directories of a whole batch.  Only after it has
succeeded may qmail-clean be asked to remove todo/N: until then the work is repeated from todo/N after a crash, and
any info/N is ignored.
"""

import os
import time
from collections.abc import Callable, Iterable, Iterator

from pyqmail.formats.todo import Todo, UnknownRecord, format_info, parse_todo
from pyqmail.log.events import MessageInfo, NewMessage, Warn
from pyqmail.policy.classify import Routing, classify
from pyqmail.spool.layout import Layout
from pyqmail.system import files
from pyqmail.values import value

Log = Callable[[NewMessage | MessageInfo], None]
SLICE = 65536  # bytes of an envelope at a time
LONG = 1 << 18  # bytes of an envelope that is prepared in slices; its records that are no recipients have fewer


class PreprocessTrouble(Exception):
    """The message stays in todo; ``warning`` is the log line."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.warning = Warn(text.encode())


class LongTodo(Exception):
    """An envelope that would keep everything else waiting: it is for ``prepare_long``."""


@value
class New:
    """A message as todo/N tells it: the channels with their recipients in order, ``born`` when it was first seen."""

    number: int
    size: int
    todo: Todo
    born: float
    channels: dict[str, list[bytes]]

    def log(self, log: Log) -> None:
        """The two lines of a new message."""
        log(NewMessage(self.number))
        todo = self.todo
        log(MessageInfo(self.number, self.size, todo.sender, todo.pid, todo.uid))


@value
class Prepared:
    """A message whose files are written and not yet durable: (path below the queue, descriptor) of each."""

    number: int
    channels: tuple[str, ...]
    opened: tuple[tuple[str, int], ...]

    def close(self) -> None:
        """Give the descriptors back."""
        for _, fd in self.opened:
            os.close(fd)


def _read_todo(layout: Layout, number: int) -> bytes:
    try:
        fd = files.open_read(layout.todo(number))
    except OSError:
        raise PreprocessTrouble(f"unable to open todo/{number}") from None
    try:
        data = b""
        while chunk := os.read(fd, SLICE):
            data += chunk
            if len(data) > LONG:
                raise LongTodo
            if len(chunk) < SLICE:  # of a file only the last one is short
                break
        return data
    except OSError:
        raise PreprocessTrouble(f"trouble reading todo/{number}") from None
    finally:
        os.close(fd)


def _clear(layout: Layout, number: int) -> None:
    for part in ("local", "remote", "info"):
        try:
            files.unlink_if_present(layout.part(part, number))
        except OSError:
            raise PreprocessTrouble(f"unable to unlink {layout.relative(part, number)}") from None


def _create(layout: Layout, part: str, number: int) -> int:
    try:
        return files.create_exclusive(layout.part(part, number))
    except OSError:
        raise PreprocessTrouble(f"unable to create {layout.relative(part, number)}") from None


def _write(layout: Layout, part: str, number: int, fd: int, data: bytes) -> None:
    try:
        files.write_all(fd, data)
    except OSError:
        raise PreprocessTrouble(f"trouble writing to {layout.relative(part, number)}") from None
    files.start_writeback(fd)


def prepare_long(
    layout: Layout, number: int, routing: Routing, log: Log, learn: Callable[[bytes], float | None]
) -> Iterator[Prepared | None]:
    """What ``examine`` and ``prepare`` do, for any number of recipients: None after each slice, at last the message.

    ``learn`` gets the token of its facts, or nothing, tells its birth if that was elsewhere, and may raise
    PreprocessTrouble.
    Neither its time for a slice nor its memory depends on the length of the envelope. Raises PreprocessTrouble.
    """
    try:
        size = os.stat(layout.mess(number)).st_size
    except OSError:
        raise PreprocessTrouble(f"unable to stat {layout.relative('mess', number)}") from None
    _clear(layout, number)
    opened = {"info": _create(layout, "info", number)}
    head: list[bytes] = []
    room = LONG
    try:
        for records in _slices(layout, number):
            lists: dict[str, list[bytes]] = {}
            for record in records:
                if record.startswith(b"T"):
                    channel, address = classify(record[1:], routing)
                    lists.setdefault(channel, []).append(b"T" + address + b"\0")
                else:
                    head.append(record + b"\0")
                    room -= len(head[-1])
                    if room < 0:  # zeros, say, that a crash or who writes there has left
                        raise UnknownRecord("too much that is no recipient")
            for name, texts in lists.items():
                if name not in opened:
                    opened[name] = _create(layout, name, number)
                _write(layout, name, number, opened[name], b"".join(texts))
            yield None
        todo = parse_todo(b"".join(head))
        birth = learn(todo.facts)
        _write(layout, "info", number, opened["info"], format_info(todo))
        if birth is not None:
            os.utime(opened["info"], (birth, birth))
    except BaseException as error:
        for fd in opened.values():
            os.close(fd)
        if not isinstance(error, UnknownRecord):
            raise
        log(NewMessage(number))
        raise PreprocessTrouble(f"unknown record type in todo/{number}") from None
    New(number, size, todo, time.time(), {}).log(log)
    channels = tuple(sorted(opened.keys() - {"info"}))
    yield Prepared(number, channels, tuple((layout.relative(name, number), fd) for name, fd in opened.items()))


def _slices(layout: Layout, number: int) -> Iterator[list[bytes]]:
    """The records of todo/N, as many at a time as come with one read. Raises PreprocessTrouble, UnknownRecord."""
    try:
        fd = files.open_read(layout.todo(number))
    except OSError:
        raise PreprocessTrouble(f"unable to open todo/{number}") from None
    rest = b""
    try:
        while chunk := os.read(fd, SLICE):
            *records, rest = (rest + chunk).split(b"\0")
            if len(rest) > LONG:
                raise UnknownRecord("a record without end")
            yield records
    except OSError:
        raise PreprocessTrouble(f"trouble reading todo/{number}") from None
    finally:
        os.close(fd)
    if rest:
        raise UnknownRecord("the last record does not end")


def examine(layout: Layout, number: int, routing: Routing, log: Log) -> New:
    """What todo/N says, with each recipient in its channel. Raises PreprocessTrouble, LongTodo."""
    data = _read_todo(layout, number)
    try:
        size = os.stat(layout.mess(number)).st_size
    except OSError:
        raise PreprocessTrouble(f"unable to stat {layout.relative('mess', number)}") from None
    try:
        todo = parse_todo(data)
    except UnknownRecord:
        log(NewMessage(number))
        raise PreprocessTrouble(f"unknown record type in todo/{number}") from None
    channels: dict[str, list[bytes]] = {}
    for recipient in todo.recipients:
        channel, address = classify(recipient, routing)
        channels.setdefault(channel, []).append(address)
    return New(number, size, todo, time.time(), channels)


def prepare(layout: Layout, new: New, log: Log | None, birth: float | None = None) -> Prepared:
    """Write the files of ``new``, not yet synced. Raises PreprocessTrouble.

    ``log`` is None for a message that has been announced already. ``birth`` is None for one that is born now.
    """
    number = new.number
    _clear(layout, number)
    opened = [(layout.relative("info", number), _create(layout, "info", number))]
    try:
        if log is not None:
            new.log(log)
        _write(layout, "info", number, opened[0][1], format_info(new.todo))
        if birth is not None:
            os.utime(opened[0][1], (birth, birth))
        channels = tuple(sorted(new.channels))
        for name in channels:
            fd = _create(layout, name, number)
            opened.append((layout.relative(name, number), fd))
            _write(layout, name, number, fd, b"".join([b"T" + address + b"\0" for address in new.channels[name]]))
    except BaseException:
        for _, fd in opened:
            os.close(fd)
        raise
    return Prepared(number, channels, tuple(opened))


def make_durable(layout: Layout, batch: Iterable[Prepared]) -> list[Warn | None]:
    """Sync a batch and close its files; for each message None, or what went wrong."""
    answers: list[Warn | None] = []
    folders: dict[str, list[int]] = {}
    for index, prepared in enumerate(batch):
        answers.append(None)
        for name, fd in prepared.opened:
            folders.setdefault(os.path.dirname(name), []).append(index)
            try:
                if answers[index] is None:
                    files.sync(fd)
            except OSError:
                answers[index] = Warn(b"trouble fsyncing " + name.encode())
        prepared.close()
    for folder, members in folders.items():
        try:
            files.sync_directory(f"{layout.queue}/{folder}")
        except OSError:
            for index in members:
                answers[index] = answers[index] or Warn(b"trouble fsyncing " + folder.encode())
    return answers
