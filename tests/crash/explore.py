"""The explorer: record a life of the queue, cut the power everywhere, restart on all that the disk may then hold.

    python -m tests.crash.explore [--effort N] [--only LIFE] [--limit STATES] [--jobs N] [--peer]

Each life is lived with unnamed files, where there are none (``named``), and where they can be opened but not be given a
name (``copied``). Prints counts; exits 1 when a message was lost, cut short, delivered to a stranger or delivered again
after its removal was durable. The model is in tests/crash/disk.py.

``--peer`` does the same to the notqmail in $NOTQMAIL_HOME and says what it loses (tests/crash/peer.py).
"""

import argparse
import itertools
import multiprocessing
import os
import random
import re
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.crash import scenario
from tests.crash.disk import Disk, Tree, digest, write
from tests.crash.mail import Ledger, text, token_of, whole
from tests.crash.refusal import refuse
from tests.crash.restart import DEADLINE_S, Restart, Stuck, warm
from tests.crash.trace import Operation, Reader, record

SEED = 20261123
AS_THEY_COME = 100  # states: most syncs that are left out show that soon
LIVES = {  # the scenario, and what the kernel refuses
    "scripted": ("scripted", ""),
    "mailbox": ("mailbox", ""),
    "scripted-named": ("scripted", "open"),
    "mailbox-named": ("mailbox", "open"),
    "scripted-copied": ("scripted", "link"),
    "mailbox-copied": ("mailbox", "link"),
}
UNREAD = re.compile("/queue/(lock|pid)/|/Maildir/tmp/")
Life = tuple[str, list[Operation]]  # where it was lived, and what happened


@dataclass(frozen=True, slots=True)
class State:
    """A disk after a cut, and what was promised before it."""

    cut: int
    kind: str
    tree: Tree
    ledger: Ledger
    free: tuple[int, ...]  # numbers whose inode may be used again


@dataclass(slots=True)
class Result:
    """What one run of the explorer found."""

    operations: int = 0
    cuts: int = 0
    made: int = 0
    states: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """For people."""
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(self.states.items()))
        total = sum(self.states.values())
        return [
            f"{self.operations} file operations, {self.cuts} cuts, {self.made} states, {total} of them different"
            f" and restarted ({kinds}): {len(self.wrong)} wrong",
            *self.wrong[:20],
        ]


def record_life(name: str, where: Path) -> Life:
    """Record life ``name`` in a new tree below ``where``; the tree's path and the operations."""
    scene, refused = LIVES[name]
    home = where / name
    home.mkdir()
    scenario.make_home(home)
    output = where / f"{name}.strace"
    command = [sys.executable, str(scenario.__file__), str(home), scene]
    record(command, output, before=refuse(refused) if refused else None)
    return str(home), read_life(output, str(home), home)


def read_life(output: Path, home: str, tree: Path) -> list[Operation]:
    """The operations that strace saw below ``home``, which lies at ``tree`` now, in the order in which they ended.

    The record must explain what lies in the tree at the end, or it has missed something.
    """
    reader = Reader([f"{home}/queue", f"{home}/home"], f"{home}/marks")
    operations = reader.read(output)
    files = {
        os.path.join(home, os.path.relpath(folder, tree), file)
        for part in ("queue", "home")
        for folder, _, names in os.walk(tree / part)
        for file in names
    }
    files = {path for path in files if "/lock/" not in path and "/.qmail" not in path}
    names = {path: file for path, file in reader.names.items() if "/lock/" not in path and "/.qmail" not in path}
    assert files == set(names), "the record is not what happened"
    for path, file in names.items():
        assert Path(str(tree) + path.removeprefix(home)).read_bytes() == bytes(file.content), path
    return sorted(operations, key=lambda operation: operation.ended)


def states(operations: list[Operation], result: Result, effort: int) -> Iterator[State]:
    """Every different state after every cut. What nobody reads again, in pid/ and tmp/, makes no difference."""
    disk, ledger, chooser = Disk(), Ledger(), random.Random(SEED)
    seen: set[tuple[bytes, tuple[int, ...], int, int]] = set()
    numbers: dict[int, tuple[str, set[int]]] = {}  # where a message was, and which files
    result.operations += len(operations)
    for cut, operation in enumerate(operations):
        if operation.kind == "mark" and operation.content == b"rest\n":
            disk.rest()
        elif operation.kind == "mark":
            ledger.note(operation.content.decode().split())
        else:
            disk.apply(operation)
            for path, file in operation.names:
                found = re.fullmatch(r".*/mess/\d+/(\d+)", path)
                if found and file is not None:
                    numbers.setdefault(int(found[1]), (path, set()))[1].add(file.serial)
        result.cuts += 1
        for kind, tree in disk.states(chooser, effort):
            result.made += 1
            there = {serial for serial, _ in tree.values()}  # an inode that still has some name is not free
            tree = {path: content for path, content in tree.items() if not UNREAD.search(path)}
            left = {os.path.basename(path) for path in tree}  # only such numbers may meet what is not theirs
            free = tuple(
                number
                for number, (mess, serials) in numbers.items()
                if str(number) in left and mess not in tree and not serials & there
            )
            key = (digest(tree), free, len(ledger.acknowledged), len(ledger.reached))
            if key in seen:
                continue
            seen.add(key)
            yield State(cut, kind, tree, ledger.copy(), free)


_restart: Restart | None = None
_home = ""


def prepare(home: str, shared: str, patience_s: float) -> None:
    """Let this process audit states of the tree ``home``; ``shared`` is best in memory: our own syncs do not matter."""
    global _restart, _home
    warm()
    _home = home
    _restart = Restart(Path(tempfile.mkdtemp(dir=shared)))
    _restart.patience_s = patience_s


def audit(state: State) -> tuple[str, str]:
    """The kind of ``state``, and what was wrong after a restart on it, or nothing."""
    assert _restart is not None
    _restart.empty()
    wrong = mailboxes(state)
    write({path: content for path, content in state.tree.items() if "/queue/" in path}, _home, str(_restart.home))
    _restart.age()
    try:
        wrong += restarted(_restart, state)
    except Stuck as stuck:
        wrong.append(f"stuck: {stuck}")
    names = [path.removeprefix(_home) for path in state.tree]
    return state.kind, f"cut {state.cut} ({state.kind}): {'; '.join(wrong)}; files {names}" if wrong else ""


def restarted(restart: Restart, state: State) -> list[str]:
    """What was wrong when numbers that are free were used again, before the restart or after it. Raises Stuck."""
    again = [(number, f"again-{number}") for number in state.free]
    if state.cut % 2:
        return restart.run(state.ledger, again)
    for number, token in again:
        restart.submit(state.ledger, number, token)
    return restart.run(state.ledger, [])


def mailboxes(state: State) -> list[str]:
    """Take what lies in the mailboxes as delivered; each file in new/ that is not whole is wrong."""
    wrong = []
    for path, (_, content) in state.tree.items():
        recipients = re.findall(rb"^Delivered-To: (\S+)$", content, re.MULTILINE)
        if "/Maildir/new/" in path:
            if len(recipients) != 1 or not whole(content):
                wrong.append(f"{path} is not whole")
                continue
            wrong += filter(None, [state.ledger.deliver(recipients[0].decode(), b"-", content)])
        elif path.endswith("/home/Mailbox"):
            for part in content.split(b"\nReturn-Path:")[1:]:  # a cut may leave a part of one, or zeros, at the end
                found = re.search(rb"^Delivered-To: (\S+)$", part, re.MULTILINE)
                token = token_of(part)
                if found and token and text(token) in part:
                    data = part[: part.index(text(token)) + len(text(token))]
                    wrong += filter(None, [state.ledger.deliver(found[1].decode(), b"-", data)])
    return wrong


def sample(found: Iterable[State], limit: int) -> Iterable[State]:
    """``limit`` of these states, as many of each kind as can be; all without a limit."""
    if not limit:
        return found
    chooser = random.Random(SEED)
    met: Counter[str] = Counter()
    kept: dict[str, list[State]] = {}  # of each kind ``limit`` at most, all with the same chance
    for state in found:
        met[state.kind] += 1
        some = kept.setdefault(state.kind, [])
        if len(some) < limit:
            some.append(state)
        elif (place := chooser.randrange(met[state.kind])) < limit:
            some[place] = state
    taken: list[State] = []
    for index, some in enumerate(sorted(kept.values(), key=len)):
        share = (limit - len(taken)) // (len(kept) - index)
        taken += chooser.sample(some, min(len(some), share))
    return sorted(taken, key=lambda state: state.cut)


def scattered(found: Iterable[State]) -> Iterator[State]:
    """These states: some as they come, and the rest in any order, so that what is late in a life is met soon."""
    found = iter(found)
    yield from itertools.islice(found, AS_THEY_COME)
    rest = list(found)
    random.Random(SEED).shuffle(rest)
    yield from rest


@contextmanager
def in_memory() -> Iterator[str]:
    """A directory for restarts, in memory where there is some."""
    shared = tempfile.mkdtemp(prefix="pyqmail-restart-", dir="/dev/shm" if os.path.isdir("/dev/shm") else None)
    os.chmod(shared, 0o755)
    try:
        yield shared
    finally:
        shutil.rmtree(shared, ignore_errors=True)


def explore(
    life: Life, *, effort: int = 4, limit: int = 0, jobs: int = 2, without: str = "", most_wrong: int = 0
) -> Result:
    """Audit the states of ``life``: all, or ``limit`` of them, until ``most_wrong`` are wrong.

    ``without`` is a pattern of what is taken for not synced, to see that its sync is needed and that this would show.
    """
    result = Result()
    home, operations = life
    left_out = [bool(without and x.kind == "sync" and re.search(without, x.folder or "a file")) for x in operations]
    kept = [operation for operation, out in zip(operations, left_out, strict=True) if not out]
    assert not without or any(left_out), without
    first = left_out.index(True) if without else 0  # up to there a disk is the same with that sync and without it
    found = sample((state for state in states(kept, result, effort) if state.cut >= first), limit)
    found = scattered(found) if most_wrong else found
    patience_s = 3.0 if without else DEADLINE_S
    fork = multiprocessing.get_context("fork")
    with in_memory() as shared, fork.Pool(jobs, prepare, (home, shared, patience_s)) as pool:
        for kind, wrong in pool.imap_unordered(audit, found, chunksize=1 if most_wrong else 8):
            result.states[kind] += 1
            if wrong:
                result.wrong.append(wrong)
            if most_wrong and len(result.wrong) >= most_wrong:
                break
    return result


def options_of(about: str, lives: Iterable[str]) -> argparse.ArgumentParser:
    """What each command that explores ``lives`` can be told."""
    parser = argparse.ArgumentParser(description=about.split("\n")[0])
    parser.add_argument("--effort", type=int, default=40, help="random states at each cut")
    parser.add_argument("--limit", type=int, default=0, help="restart on no more states than this")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--only", choices=list(lives))
    return parser


def main() -> int:
    """The command."""
    parser = options_of(__doc__, LIVES)
    parser.add_argument("--peer", action="store_true", help="what the notqmail in $NOTQMAIL_HOME loses")
    options = parser.parse_args()
    if options.peer and ("NOTQMAIL_HOME" not in os.environ or os.geteuid() != 0):
        parser.error("--peer needs NOTQMAIL_HOME, the home of an installed notqmail, and root")
    if options.peer and options.only not in (None, "scripted", "mailbox"):
        parser.error("notqmail knows no unnamed files")
    if options.peer:
        from tests.crash.peer import report

        return report(options.only, options.effort, options.limit, options.jobs)
    wrong = 0
    for name in [options.only] if options.only else LIVES:
        with tempfile.TemporaryDirectory(prefix="pyqmail-crash-") as where:
            os.chmod(where, 0o755)
            result = explore(
                record_life(name, Path(where)), effort=options.effort, limit=options.limit, jobs=options.jobs
            )
        print(f"{name}:", *result.lines(), sep="\n  ", flush=True)
        wrong += len(result.wrong)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
