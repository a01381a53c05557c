"""From strace's record to file operations: what every process of a scenario did to files, in order.

strace is the witness because it shares nothing with the programs: whatever layer they write through, it sees the system
calls. Bytes that reach a file by splice(2) are not in its record, so pipes are followed too.
"""

import os
import re
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

CALLS = (
    "open,openat,creat,link,linkat,unlink,unlinkat,rename,renameat,renameat2,write,pwrite64,writev,ftruncate,truncate,"
    "fsync,fdatasync,splice,lseek,chdir,fchdir,fork,vfork,clone,clone3"
)
_FORKS = ("fork", "vfork", "clone", "clone3")
_LINE = re.compile(r"(\d+) +(?:<\.\.\. )?(\w+)( resumed>|\()(.*)$", re.DOTALL)
_RESULT = re.compile(r"\)\s+= (-?\d+)(?:<(.*?)>(\(deleted\))?)?(?: .*)?$", re.DOTALL)
_ARGUMENT = re.compile(r'"((?:\\x[0-9a-f]{2})*)"|(-?\d+|AT_FDCWD)<([^>]*)>(\(deleted\))?|([^,\s\[\]{}]+)')


@dataclass(frozen=True, slots=True)
class Operation:
    """One file operation that succeeded.

    ``kind`` is name, data, sync or mark. ``began`` and ``ended`` order it: a sync covers what ended before it began.
    """

    kind: str
    began: int
    ended: int
    names: tuple[tuple[str, "File | None"], ...] = ()  # what each path is from now on
    file: "File | None" = None
    content: bytes = b""  # of the file from now on, or the mark
    folder: str = ""  # that was synced


@dataclass(eq=False, slots=True)
class File:
    """A file, whatever names it has or had."""

    serial: int
    content: bytearray = field(default_factory=bytearray)


@dataclass(frozen=True, slots=True)
class _Call:
    pid: int
    name: str
    strings: list[str]
    files: list[str]  # of the descriptors among the arguments
    descriptors: list[str]
    words: list[str]
    result: int
    opened: str
    began: int
    ended: int


def _text(hexed: str) -> str:
    return bytes(int(part, 16) for part in hexed.split("\\x")[1:]).decode("latin-1")


def record(
    command: list[str],
    output: Path,
    environ: dict[str, str] | None = None,
    before: Callable[[], None] | None = None,
) -> None:
    """Run ``command`` and all that it starts under strace, which calls ``before`` first. Raises CalledProcessError."""
    strace = ["strace", "-f", "-qq", "-y", "-xx", "-s", "1000000", "-e", "signal=none", "-e", f"trace={CALLS}"]
    subprocess.run([*strace, "-o", str(output), *command], check=True, env=environ, preexec_fn=before)


def _calls(lines: Iterator[str]) -> Iterator[_Call]:
    begun: dict[int, tuple[int, str, int]] = {}
    for index, line in enumerate(lines):
        found = _LINE.match(line.rstrip("\n"))
        if not found:
            continue
        pid, name, opening, rest = int(found[1]), found[2], found[3], found[4]
        began, marked = index, -1
        if opening != "(":
            began, start, marked = begun.pop(pid, (index, "", -1))
            rest = start + rest
        if rest.endswith("<unfinished ...>"):
            begun[pid] = (index, rest.removesuffix("<unfinished ...>"), marked)
            yield _parse(pid, name + "?", rest, None, index, index)
            continue
        result = _RESULT.search(rest)
        if result:
            yield _parse(pid, name, rest[: result.start()], result, began, index)


def _parse(pid: int, name: str, rest: str, result: "re.Match[str] | None", began: int, ended: int) -> _Call:
    strings, files, descriptors, words = [], [], [], []
    for string, number, path, deleted, word in _ARGUMENT.findall(rest):
        if number:
            files.append(_text(path) + (" (deleted)" if deleted else ""))
            descriptors.append(number)
        elif word:
            words.append(word)
        else:
            strings.append(_text(string))
    opened = _text(result[2] or "") + (" (deleted)" if result[3] else "") if result else ""
    answer = int(result[1]) if result else 0
    return _Call(pid, name, strings, files, descriptors, words, answer, opened, began, ended)


class Reader:
    """Turns calls into operations on the paths below ``roots``; writes to ``marks`` become marks."""

    def __init__(self, roots: list[str], marks: str) -> None:
        self.names: dict[str, File] = {}
        self._roots = tuple(root + "/" for root in roots)
        self._marks = marks
        self._deleted: dict[str, File] = {}  # by the path that an open descriptor still shows
        self._pipes: dict[str, bytearray] = {}
        self._ahead: dict[int, int] = {}  # bytes already put into a pipe by a write that has not returned
        self._directories: dict[int, str] = {}
        self._children: dict[tuple[int, int], int] = {}  # by parent, and when it began to fork
        self._positions: dict[tuple[int, str], int] = {}  # of a process's descriptor, where it said so by lseek
        self._appending: set[tuple[int, str]] = set()
        self._serial = 0

    def read(self, path: Path) -> list[Operation]:
        """The operations in strace's ``path``."""
        with path.open(encoding="latin-1") as lines:
            calls = list(_calls(iter(lines)))
        self._children = {(call.pid, call.began): call.result for call in calls if call.name in _FORKS}
        return [operation for call in calls for operation in self._operations(call)]

    def _path(self, call: _Call, name: str, folder: str | None = None) -> str:
        base = folder if folder is not None else self._directories.get(call.pid, "/")
        return os.path.normpath(os.path.join(base, name))

    def _ours(self, path: str) -> bool:
        return path.startswith(self._roots)

    def _new(self) -> File:
        self._serial += 1
        return File(self._serial)

    def _operations(self, call: _Call) -> Iterator[Operation]:
        if call.name in ("write", "write?", "writev", "writev?", "pwrite64", "splice"):
            yield from self._written(call)
        elif call.name.removesuffix("?") in _FORKS:
            if call.began == call.ended:  # a child may act before its parent hears of it
                child = self._children.get((call.pid, call.began), -1)
                self._directories[child] = self._directories.get(call.pid, "/")
        elif call.name.endswith("?") or call.result < 0:
            return
        elif call.name == "chdir":
            self._directories[call.pid] = self._path(call, call.strings[0])
        elif call.name == "fchdir":
            self._directories[call.pid] = call.files[0]
        elif call.name in ("open", "openat", "creat"):
            yield from self._opened(call)
        elif call.name == "lseek":
            self._positions[call.pid, call.descriptors[0]] = call.result
        elif call.name in ("fsync", "fdatasync"):
            yield from self._synced(call)
        elif call.name in ("ftruncate", "truncate"):
            yield from self._truncated(call)
        else:
            yield from self._named(call)

    def _opened(self, call: _Call) -> Iterator[Operation]:
        if call.name == "openat" and not call.strings[0].startswith("/") and "AT_FDCWD" not in call.words:
            self._directories.setdefault(call.pid, call.files[0])
        flags = "|".join(call.words)
        path = call.opened
        if not self._ours(path):
            return
        descriptor = (call.pid, str(call.result))
        self._positions.pop(descriptor, None)
        self._appending.discard(descriptor)
        if "O_APPEND" in flags:
            self._appending.add(descriptor)
        if "O_TMPFILE" in flags:
            self._deleted[path] = self._new()
            return
        if path not in self.names and ("O_CREAT" in flags or call.name == "creat"):
            self.names[path] = file = self._new()
            yield Operation("name", call.began, call.ended, names=((path, file),))
        if "O_TRUNC" in flags or call.name == "creat":
            yield from self._changed(call, self.names[path], b"", whole=True)

    def _file(self, path: str) -> File | None:
        return self._deleted.get(path) if path.endswith(" (deleted)") else self.names.get(path)

    def _changed(
        self, call: _Call, file: File, data: bytes, *, offset: int = -1, whole: bool = False
    ) -> Iterator[Operation]:
        if whole:
            file.content[:] = data
        else:
            at = len(file.content) if offset < 0 else offset
            file.content[at : at + len(data)] = data
        yield Operation("data", call.began, call.ended, file=file, content=bytes(file.content))

    def _written(self, call: _Call) -> Iterator[Operation]:
        target = call.files[-1] if call.name == "splice" else call.files[0] if call.files else ""
        if target.startswith("pipe:"):
            if call.name != "splice":
                self._into_pipe(call, target)
            return
        if call.name.endswith("?") or call.result < 0:
            return
        if call.name == "splice":
            pipe = self._pipes.get(call.files[0], bytearray())
            data, pipe[: call.result] = bytes(pipe[: call.result]), b""
        else:
            data = "".join(call.strings).encode("latin-1")[: call.result]
        if target == self._marks:
            yield Operation("mark", call.began, call.ended, content=data)
        file = self._file(target) if self._ours(target.removesuffix(" (deleted)")) else None
        if file is not None:
            offset = int(call.words[-1]) if call.name == "pwrite64" else self._advanced(call, len(data))
            yield from self._changed(call, file, data, offset=offset)

    def _advanced(self, call: _Call, size: int) -> int:
        """Where the ``size`` bytes of a write go; -1 for the end of the file."""
        descriptor = (call.pid, call.descriptors[-1 if call.name == "splice" else 0])
        if descriptor in self._appending or descriptor not in self._positions:
            return -1
        self._positions[descriptor] += size
        return self._positions[descriptor] - size

    def _into_pipe(self, call: _Call, pipe: str) -> None:
        """A write that blocks is read from before it returns: its bytes are there from its beginning."""
        data = "".join(call.strings).encode("latin-1")
        held = self._pipes.setdefault(pipe, bytearray())
        if call.name.endswith("?"):
            self._ahead[call.pid] = len(data)
            held += data
        elif call.began != call.ended:
            surplus = self._ahead.pop(call.pid, 0) - max(0, call.result)
            if surplus > 0:
                del held[-surplus:]
        else:
            held += data[: max(0, call.result)]

    def _synced(self, call: _Call) -> Iterator[Operation]:
        path = call.files[0]
        file = self._file(path)
        if file is not None:
            yield Operation("sync", call.began, call.ended, file=file)
        elif path in (root.rstrip("/") for root in self._roots) or self._ours(path):
            yield Operation("sync", call.began, call.ended, folder=path)

    def _truncated(self, call: _Call) -> Iterator[Operation]:
        file = self._file(call.files[0] if call.name == "ftruncate" else self._path(call, call.strings[0]))
        if file is not None:
            size = int(call.words[-1])
            yield from self._changed(call, file, bytes(file.content[:size]).ljust(size, b"\0"), whole=True)

    def _named(self, call: _Call) -> Iterator[Operation]:
        folders = call.files if call.name in ("linkat", "unlinkat", "renameat", "renameat2") else [None, None]
        paths = [self._path(call, name, folders[index]) for index, name in enumerate(call.strings)]
        if not self._ours(paths[-1]):
            return
        if call.name in ("unlink", "unlinkat"):
            self._forget(paths[0])
            yield Operation("name", call.began, call.ended, names=((paths[0], None),))
            return
        source = call.files[0] if paths[0].startswith("/proc/") else paths[0]
        file = self._file(source)
        assert file is not None, call
        changes: list[tuple[str, File | None]] = [(paths[1], file)]
        if call.name.startswith("rename"):
            self._forget(paths[1])
            del self.names[source]
            changes.insert(0, (source, None))
        self.names[paths[1]] = file
        yield Operation("name", call.began, call.ended, names=tuple(changes))

    def _forget(self, path: str) -> None:
        file = self.names.pop(path, None)
        if file is not None:
            self._deleted[path + " (deleted)"] = file
