"""qmail-q xfer and qmail-xferd: the power of a node fails at every file operation of both, and the queue moves again.

    python -m tests.crash.crossing [--effort N] [--only LIFE] [--limit STATES] [--jobs N]

strace records a move from one tree to another: the sender's queue is stopped, or its qmail-send runs, or the receiver's
does. After each operation one node has what its disk may then hold (tests/crash/disk.py), and the other one, which goes
on, what its programs see. Then

* each recipient is still to be tried at the sender, or its message is whole at the receiver and its transfer noted;
* what the receiver's qmail-send has preprocessed has its age, and is held where it was;
* what qmail-q has moved, and gone on from, is not tried at the sender again;
* qmail-q xfer moves what is left, and each recipient is at the receiver once; twice, if there was its message without a
  note of it, as a receiver has it whose power fails between the two;
* or a qmail-send that is started at the sender delivers what is left, and nothing that an order says has moved.

Prints counts; exits 1 when something was wrong.
"""

import argparse
import multiprocessing
import os
import random
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from pyqmail.admin.draining import Queue
from pyqmail.formats.facts import Facts
from pyqmail.formats.todo import RecipientParser
from pyqmail.protocol.control import MOVED, Request
from pyqmail.send.control_client import Running
from pyqmail.send.holds import parse_orders
from pyqmail.send.offline import Offline
from tests.crash.disk import Disk, Tree, digest, write
from tests.crash.explore import SEED, UNREAD, State, in_memory, options_of, read_life, sample, scattered
from tests.crash.explore import Result as Outcome
from tests.crash.faults import Bench, Result, as_user, in_tree
from tests.crash.mail import Ledger, token_of
from tests.crash.moving import BIRTH, EXPECTED, MESSAGES, Nodes
from tests.crash.scenario import ROOT, SPLIT
from tests.crash.trace import Operation, record
from tests.programs.sending import Sending

SENDER, RECEIVER = "home", "there"  # what a node is called, and its tree
LIVES = {"stopped": (), "running": (SENDER,), "preprocessed": (RECEIVER,)}  # whose qmail-send runs
DOMAINS = ("here.example", "far.example", "v.example")
Recipient = tuple[str, bytes]  # token, and whom it is for
Auditor = Callable[[Bench], Callable[[State], list[str]]]
Act = Callable[[Queue, Request], tuple[dict[int, str], str]]


@dataclass(frozen=True, slots=True)
class Life:
    """A move as it was recorded below ``where``: the operations of each node in order, and what bytes do not say."""

    where: str
    operations: list[tuple[str, Operation]]
    inodes: dict[str, tuple[int, int]]  # path: mode and mtime, by which a transfer is named
    numbers: tuple[int, ...]  # of the messages at the sender


@dataclass(slots=True)
class Found:
    """What one exploration found."""

    operations: int = 0
    made: int = 0
    states: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """For people."""
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(self.states.items()))
        total = sum(self.states.values())
        head = f"{self.operations} file operations, {self.made} states, {total} of them different and gone on from"
        return [f"{head} ({kinds}): {len(self.wrong)} wrong", *self.wrong[:20]]


def live(name: str, where: Path) -> None:
    """Move the queue of one new tree below ``where`` to another one. The end of each message's move is a mark."""

    def run(bench: Bench) -> list[Result]:
        nodes = Nodes(bench)
        nodes.begin()
        tokens = {}
        for path in (bench.home / "queue/mess").glob("*/*"):
            tokens[int(path.name)] = token_of(path.read_bytes())
            os.link(path, where / f"mess-{path.name}")  # its mode and time may be needed when it has gone
        if RECEIVER in LIVES[name]:  # it delivers nothing
            (nodes.there / "queue/pyqmail/orders").write_text("".join(f"domain {x}\n" for x in DOMAINS))
        served = {node: serve(bench.home.parent / node) for node in LIVES[name]}
        mark(bench.home, "rest")
        Offline.act = _told(Offline.act, bench.home, tokens)  # type: ignore[arg-type,assignment,method-assign]
        Running.act = _told(Running.act, bench.home, tokens)  # type: ignore[arg-type,assignment,method-assign]
        assert nodes.run(None, None) == 0
        for node, sending in served.items():
            folder = bench.home / "queue/mess" if node == SENDER else nodes.there / "queue/todo"
            sending.until(partial(_empty, folder))
            assert sending.finish() == 0
        return []

    as_user(where, run)


def _empty(folder: Path) -> bool:
    return not any(files for _, _, files in os.walk(folder))


def serve(home: Path) -> Sending:
    """A qmail-send with a real qmail-clean, for which nothing is due."""
    later = time.time() + 86400
    for channel in ("local", "remote"):
        for path in (home / "queue" / channel).glob("*/*"):
            os.utime(path, (later, later))
    sending = Sending(home, split=SPLIT)
    sending.program = [str(home / "bin/qmail-send")]
    sending.start()
    sending.attach_cleaner([str(home / "bin/qmail-clean")])
    sending.until_log("status:")
    return sending


def _told(act: Act, home: Path, tokens: Mapping[int, str | None]) -> Act:
    """``act`` of a queue, after which the record says which messages have moved."""

    def wrapped(queue: Queue, request: Request) -> tuple[dict[int, str], str]:
        answer = act(queue, request)
        for number in (request.ids or ()) if request.do == MOVED else ():
            mark(home, f"ack {tokens[number]}")
        return answer

    return wrapped


def mark(home: Path, line: str) -> None:
    with (home / "marks").open("a") as marks:
        marks.write(line + "\n")


def _inode(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_mode & 0o7777, status.st_mtime_ns


def record_life(name: str, where: Path) -> Life:
    """Record move ``name`` in two new trees below ``where``."""
    output, trees = where / f"{name}.strace", where / name
    trees.mkdir()
    trees.chmod(0o755)
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    record([sys.executable, "-m", "tests.crash.crossing", "--live", name, str(trees)], output, environ)
    operations = []
    for node in (SENDER, RECEIVER):
        home = trees / node
        operations += [(node, operation) for operation in read_life(output, str(home), home)]
    inodes = {str(path): _inode(path) for path in trees.glob("*/queue/**/*")}
    kept = {int(path.name.removeprefix("mess-")): path for path in trees.glob("mess-*")}
    for number, path in kept.items():
        split = f"{number % SPLIT}/{number}"
        inodes[f"{trees}/{SENDER}/queue/mess/{split}"] = _inode(path)
        inodes[f"{trees}/{SENDER}/queue/info/{split}"] = 0o644, BIRTH * 10**9
    return Life(str(trees), sorted(operations, key=lambda one: one[1].ended), inodes, tuple(kept))


def states(life: Life, found: Found, effort: int, left_out: Collection[int] = ()) -> Iterator[State]:
    """Every different pair of queues after every operation. No sync happens whose place is in ``left_out``."""
    disks = {SENDER: Disk(), RECEIVER: Disk()}
    ledger, chooser, begun = Ledger(), random.Random(SEED), False
    seen: set[tuple[str, bytes, int]] = set()
    messages = {number: f"{life.where}/{SENDER}/queue/mess/{number % SPLIT}/{number}" for number in life.numbers}
    for cut, (node, operation) in enumerate(life.operations):
        if operation.content == b"rest\n":
            begun = True
            for disk in disks.values():
                disk.rest()
        elif operation.kind == "mark":
            ledger.note(operation.content.decode().split())
        elif cut not in left_out:
            disks[node].apply(operation)
        if not begun:
            continue
        found.operations += 1
        for struck, other in ((SENDER, RECEIVER), (RECEIVER, SENDER)):
            beside = next(disks[other].states(chooser, 0))[1]  # the first is what the programs see
            for kind, tree in disks[struck].states(chooser, effort):
                found.made += 1
                both = {path: content for path, content in {**tree, **beside}.items() if not UNREAD.search(path)}
                key = (struck, digest(both), len(ledger.acknowledged))
                if key not in seen:
                    seen.add(key)
                    free = tuple(number for number, path in messages.items() if path not in both)
                    name = "sender" if struck == SENDER else "receiver"
                    yield State(cut, f"{name}, {kind}", both, ledger.copy(), free)


class Crossing:
    """Two nodes that are given the queues of a state, and go on."""

    def __init__(self, bench: Bench, life: Life) -> None:
        self.nodes = Nodes(bench)
        self._homes = {SENDER: self.nodes.here, RECEIVER: self.nodes.there}
        self._life = life

    def load(self, tree: Tree) -> None:
        """Let both queues be those of ``tree``."""
        self.nodes.empty()
        for node, home in self._homes.items():
            base = f"{self._life.where}/{node}"
            ours = {path: content for path, content in tree.items() if path.startswith(base + "/")}
            write(ours, base, str(home))
            for path in ours.keys() & self._life.inodes.keys():
                mode, written = self._life.inodes[path]
                os.chmod(str(home) + path.removeprefix(base), mode)
                os.utime(str(home) + path.removeprefix(base), ns=(written, written))

    def audit(self, state: State) -> list[str]:
        """What is wrong with ``state`` and after it."""
        try:
            self.load(state.tree)
            wrong, unnoted = self._at_once(state.ledger)
            wrong += self._moved_again(unnoted)
            if state.kind.startswith("sender"):
                self.load(state.tree)
                wrong += self._delivered(state.free)
        except Exception as error:  # noqa: BLE001 - a queue that nobody can read is wrong too
            wrong = [repr(error)]
        names = [path.removeprefix(self._life.where) for path in state.tree if "/queue/" in path]
        return [f"cut {state.cut} ({state.kind}): {one}; files {names}" for one in wrong]

    def _at_once(self, ledger: Ledger) -> tuple[list[str], Counter[Recipient]]:
        """What is wrong before anything goes on, and what is at the receiver without a note of it."""
        left = {(token, address.removeprefix(b"v-")) for token, address in self._left()}
        taken, unnoted = set[Recipient](), Counter[Recipient]()
        for token, address, facts in self.nodes.arrived():
            if self._noted(facts):
                taken.add((token, address))
            else:
                unnoted[token, address] += 1
        wrong = [f"given up and not taken: {one}" for one in EXPECTED.keys() - taken - left]
        wrong += [f"moved and still to be tried: {one}" for one in left if one[0] in ledger.acknowledged]
        return wrong + self.nodes.astray() + self._unheld(), unnoted

    def _noted(self, facts: Facts) -> bool:
        """Whether the receiver knows that it has taken in the transfer in ``facts``."""
        assert facts.transfer is not None
        note = self.nodes.there / "queue/pyqmail/transfers" / facts.transfer.name.decode()
        return note.exists() and note.read_bytes() == b"+"

    def _unheld(self) -> list[str]:
        """What is wrong with the holds and the age of what the receiver has preprocessed."""
        queue, wrong = self.nodes.there / "queue", []
        orders = queue / "pyqmail/orders"
        held = parse_orders(orders.read_bytes()).held if orders.exists() else {}
        for number in self.nodes.preprocessed():
            token, facts = self.nodes.message(number)
            birth = int((queue / f"info/{number % SPLIT}/{number}").stat().st_mtime)
            if self._noted(facts) and (birth != BIRTH or (held.get(number) == BIRTH) != MESSAGES[token][2]):
                wrong.append(f"message {token} has lost its age or its hold at the receiver: {birth}, {held}")
        return wrong

    def _left(self) -> set[Recipient]:
        """What a qmail-send would try at the sender: less what an order says has moved."""
        queue = self.nodes.here / "queue"
        orders = queue / "pyqmail/orders"
        endings = parse_orders(orders.read_bytes()).endings if orders.exists() else {}
        found = set()
        for path in [*queue.glob("local/*/*"), *queue.glob("remote/*/*")]:
            info = queue / f"info/{path.parent.name}/{path.name}"
            if not info.exists() or endings.get(int(path.name)) == (b"moved", int(info.stat().st_mtime)):
                continue
            token = token_of((queue / f"mess/{path.parent.name}/{path.name}").read_bytes())
            assert token is not None
            found |= {(token, name) for _, mark, name in RecipientParser().feed(path.read_bytes()) if mark == b"T"}
        return found

    def _moved_again(self, unnoted: Counter[Recipient]) -> list[str]:
        """What is wrong after one more qmail-q xfer."""
        code = self.nodes.run(None, None)
        there = Counter((token, recipient) for token, recipient, _ in self.nodes.arrived())
        wrong = [f"the next run ends with {code}"] if code else []
        wrong += [f"the next run leaves {one}" for one in self.nodes.left()]
        wrong += [f"never arrived: {one}" for one in EXPECTED - there]
        return wrong + [f"twice: {one}" for one in there - EXPECTED - unnoted] + self.nodes.astray()

    def _delivered(self, free: tuple[int, ...]) -> list[str]:
        """What is wrong after a qmail-send at the sender, where nothing is held any more and ``free`` come again."""
        ledger = Ledger()
        for token in {token for token, _ in EXPECTED}:
            left = [address.decode() for name, address in self._left() if name == token]
            ledger.note(["try", token, *left])
            ledger.note(["ack", token])
        orders = self.nodes.here / "queue/pyqmail/orders"
        if orders.exists():
            orders.write_bytes(re.sub(rb"(?m)^hold .*\n", b"", orders.read_bytes()))
        wrong = self.nodes.bench.restart.run(ledger, [(number, f"again-{number}") for number in free])
        reached = Counter(ledger.reached)
        return wrong + [f"delivered twice: {one}" for one, count in reached.items() if count > 1]


_auditor: Auditor | None = None
_states: list[State] = []


def _share(first: int, step: int, most_wrong: int) -> list[str]:
    """What is wrong with each ``step``-th state from ``first`` on, in new trees."""

    def run(bench: Bench) -> list[Result]:
        assert _auditor is not None
        result, audit = Result("audit"), _auditor(bench)
        for state in _states[first::step]:
            result.wrong += audit(state)
            if most_wrong and len(result.wrong) >= most_wrong:
                break
        return [result]

    return in_tree(run)[0].wrong


def audited(states: list[State], auditor: Auditor, jobs: int, most_wrong: int = 0) -> list[str]:
    """What ``auditor`` finds wrong with ``states``, until there is so much of it."""
    global _auditor, _states
    _auditor, _states = auditor, states
    with multiprocessing.get_context("fork").Pool(jobs) as pool:
        found = pool.starmap(_share, [(first, jobs, most_wrong) for first in range(jobs)])
    return [one for wrong in found for one in wrong]


def explore(
    life: Life, *, effort: int = 4, limit: int = 0, jobs: int = 2, without: tuple[str, str] | None = None
) -> Found:
    """Audit the states of ``life``: all, or ``limit`` of them.

    ``without`` is a node and a pattern of what that is taken for not having synced, to see that this would show: then
    one wrong state is enough.
    """
    found = Found()
    left_out = {
        place
        for place, (node, one) in enumerate(life.operations)
        if without and one.kind == "sync" and node == without[0] and re.search(without[1], one.folder or "a file")
    }
    assert left_out or not without, without
    first = min(left_out, default=0)  # up to there a disk is the same with that sync and without it
    every = (state for state in states(life, found, effort, left_out) if state.cut >= first)
    chosen = list(scattered(every) if without else sample(every, limit))
    found.states.update(state.kind for state in chosen)
    found.wrong = audited(chosen, lambda bench: Crossing(bench, life).audit, jobs, 1 if without else 0)
    return found


def command(
    about: str,
    lives: Iterable[str],
    live: Callable[[str, Path], None],
    record_life: Callable[[str, Path], object],
    explore: Callable[..., Found | Outcome],
) -> int:
    """Explore each of ``lives`` as the arguments say, or (``--live``) be what is recorded of one."""
    parser = options_of(about, lives)
    parser.add_argument("--live", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.live:
        live(options.live[0], Path(options.live[1]))
        return 0
    wrong = 0
    for name in [options.only] if options.only else lives:
        with in_memory() as where:
            life = record_life(name, Path(where))
            found = explore(life, effort=options.effort, limit=options.limit, jobs=options.jobs)
        print(f"{name}:", *found.lines(), sep="\n  ", flush=True)
        wrong += len(found.wrong)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(command(__doc__, LIVES, live, record_life, explore))
