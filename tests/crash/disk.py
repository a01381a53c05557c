"""What may be on the disk after a power cut: the crash model.

Durable are the bytes of a file at its last fsync, and the names of a directory at its last fsync. Of everything later

* each change of a name (link, unlink, rename, create) may have reached the disk or not, in any order, so that a removed
  name may come back and a new one may be missing (a rename happens whole or not at all);
* of each file the bytes of any later moment may be there, or only a part of them, or zeros of that length.

That is more than any one filesystem does. ext4 and XFS keep names in order (``ordered`` states); btrfs logs each
synced directory by itself (``folders`` states); the rest (``any order``) is what none of them promises against. An
inode may be used again as soon as it has no name and no descriptor, as ext4 and XFS do at once.
"""

import hashlib
import os
import random
from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.crash.trace import File, Operation

Tree = dict[str, tuple[int, bytes]]  # path: which file, and its bytes


@dataclass(slots=True)
class _Bytes:
    durable: bytes = b""
    later: list[tuple[int, bytes]] = field(default_factory=list)  # when, and all bytes from then on


@dataclass(slots=True)
class _Names:
    ended: int
    changes: tuple[tuple[str, File | None], ...]


class Disk:
    """The disk while operations happen to it."""

    def __init__(self) -> None:
        self._names: dict[str, File] = {}  # durable
        self._pending: list[_Names] = []
        self._bytes: dict[int, _Bytes] = {}
        self._horizon = 0  # of a disk that keeps names in order: the last sync took all before it along

    def apply(self, operation: Operation) -> None:
        """Let ``operation`` happen."""
        if operation.kind == "name":
            self._pending.append(_Names(operation.ended, operation.names))
        elif operation.kind == "data":
            assert operation.file is not None
            self._of(operation.file).later.append((operation.ended, operation.content))
        elif operation.kind == "sync" and operation.file is not None:
            state = self._of(operation.file)
            while state.later and state.later[0][0] < operation.began:
                self._horizon = operation.began
                state.durable = state.later.pop(0)[1]
        elif operation.kind == "sync":
            self._sync_folder(operation.folder, operation.began)

    def rest(self) -> None:
        """Let so much time pass that the kernel has written everything by itself."""
        for names in self._pending:
            _change(self._names, names)
        self._pending = []
        for state in self._bytes.values():
            if state.later:
                state.durable = state.later[-1][1]
                state.later = []

    def _of(self, file: File) -> _Bytes:
        return self._bytes.setdefault(file.serial, _Bytes())

    def _sync_folder(self, folder: str, began: int) -> None:
        kept = []
        for names in self._pending:
            if names.ended < began and any(os.path.dirname(path) == folder for path, _ in names.changes):
                _change(self._names, names)
                self._horizon = began
            else:
                kept.append(names)
        self._pending = kept

    def states(self, chooser: random.Random, effort: int) -> Iterator[tuple[str, Tree]]:
        """What the disk may hold if the power fails now; ``effort`` random states beside the systematic ones."""
        count = len(self._pending)
        everything = frozenset(range(count))
        least = sum(names.ended < self._horizon for names in self._pending)
        choices: dict[frozenset[int], str] = {everything: "ordered"}
        for index in range(count):
            choices.setdefault(frozenset(range(index)), "ordered" if index >= least else "any order")
        for folder in {os.path.dirname(path) for names in self._pending for path, _ in names.changes}:
            inside = frozenset(
                index
                for index, names in enumerate(self._pending)
                if any(os.path.dirname(path) == folder for path, _ in names.changes)
            )
            choices.setdefault(inside, "folders")
            choices.setdefault(everything - inside, "folders")
        for index in range(count):
            choices.setdefault(frozenset((index,)), "any order")
            choices.setdefault(everything - {index}, "any order")
        for _ in range(effort if count > 2 else 0):
            choices.setdefault(frozenset(i for i in range(count) if chooser.random() < 0.5), "any order")
        for choice, kind in choices.items():
            names = self._chosen(choice)
            yield from ((kind, tree) for tree in self._filled(names, chooser, effort))

    def _chosen(self, choice: frozenset[int]) -> dict[str, File]:
        names = dict(self._names)
        for index, change in enumerate(self._pending):
            if index in choice:
                _change(names, change)
        return names

    def _filled(self, names: dict[str, File], chooser: random.Random, effort: int) -> Iterator[Tree]:
        """The trees with these names: by what became of the bytes that no sync covers."""
        possible = {file.serial: self._possible(file) for file in names.values()}
        ways = [0] if all(len(options) == 1 for options in possible.values()) else [0, 1, 2, *([3] * (1 + effort // 4))]
        for way in ways:
            pick = {
                serial: chooser.choice(options) if way == 3 else options[min(way, len(options) - 1)]
                for serial, options in possible.items()
            }
            yield {path: (file.serial, pick[file.serial]) for path, file in names.items()}

    def _possible(self, file: File) -> list[bytes]:
        state = self._bytes.get(file.serial)
        if state is None or not state.later:
            return [state.durable if state else b""]
        last = state.later[-1][1]
        half = last[: len(state.durable) + (len(last) - len(state.durable)) // 2]
        kept = state.durable if len(last) >= len(state.durable) else b""
        zeros = kept + bytes(max(0, len(last) - len(kept)))
        options = [last, state.durable, zeros, half, *(content for _, content in state.later[:-1])]
        return list(dict.fromkeys(options))


def _change(names: dict[str, File], change: _Names) -> None:
    for path, file in change.changes:
        if file is None:
            names.pop(path, None)
        else:
            names[path] = file


def digest(tree: Tree) -> bytes:
    """What tells trees apart."""
    heading = hashlib.sha256()
    for path, (_, content) in sorted(tree.items()):
        heading.update(f"{path}\0{len(content)}\0".encode() + content)
    return heading.digest()


def write(tree: Tree, base: str, where: str) -> None:
    """Make the files of ``tree``, whose paths lie below ``base``, below ``where``."""
    first: dict[int, str] = {}
    for path, (serial, content) in tree.items():
        target = where + path.removeprefix(base)
        if serial in first:
            os.makedirs(os.path.dirname(target), exist_ok=True)
            os.link(first[serial], target)
            continue
        first[serial] = target
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with open(target, "wb") as file:
            file.write(content)
