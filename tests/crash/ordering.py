"""qmail-q's orders, each confirmed or not: the power fails at every file operation, and qmail-send starts.

    python -m tests.crash.ordering [--effort N] [--only LIFE] [--limit STATES] [--jobs N]

The orders are given to a running qmail-send, or on a stopped queue. After the cut (tests/crash/disk.py)

* a hold, of a message or a domain, that was confirmed is in force, and one that was released is not;
* of what was deleted nobody is tried any more, and nobody is lost whom nobody ordered to delete;
* the sender of what was to be bounced is told of each recipient; all others have their message once.

Prints counts; exits 1 when something was wrong.
"""

import os
import re
import sys
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from pyqmail.programs import qmail_q
from pyqmail.send.holds import Orders, parse_orders
from tests.crash.crossing import audited, command, mark, serve
from tests.crash.disk import write
from tests.crash.explore import Result as Found
from tests.crash.explore import State, read_life, sample, scattered, states
from tests.crash.faults import Bench, Result, as_user
from tests.crash.mail import Ledger, text
from tests.crash.moving import BIRTH
from tests.crash.scenario import ROOT, SPLIT
from tests.crash.trace import Operation, record

LIVES = ("stopped", "running")  # qmail-send
MESSAGES = {  # token: local and remote recipients; the bounced one's would fail anyhow
    "held": (["ann@here.example"], []),
    "freed": (["cid@here.example"], []),  # held from the beginning
    "gone": (["bob@here.example"], ["dora@far.example"]),
    "back": (["fail-1@here.example"], ["fail-2@far.example"]),
    "dear": ([], ["emil@dear.example"]),
}
ORDERS = ("hold dear.example", "hold held", "bounce back", "delete gone", "release freed", "release dear.example")


class Life:
    """What was recorded in the tree ``home``. ``numbers``: those of MESSAGES, by token."""

    def __init__(self, home: Path, operations: list[Operation], numbers: dict[str, int]) -> None:
        self.home = str(home)
        self.operations = operations
        self.numbers = numbers
        self.begun = next(i for i, one in enumerate(operations) if one.content == b"rest\n")


def live(name: str, where: Path) -> None:
    """Give all ORDERS in a new tree below ``where``. Marks say ``ack`` of each when it begins, and when it is done."""

    def run(bench: Bench) -> list[Result]:
        numbers = {token: _put(bench.home, where, token) for token in MESSAGES}
        (bench.home / "queue/pyqmail/orders").write_text(f"hold {numbers['freed']} {BIRTH}\n")
        sending = serve(bench.home) if name == "running" else None
        mark(bench.home, "rest")
        for order in ORDERS:
            do, target = order.split()
            words = [b"qmail-q", do.encode(), str(numbers.get(target, target)).encode()]
            mark(bench.home, f"ack began:{do}:{target}")
            assert bench.ended(bench.child(None, partial(qmail_q.main, words, bench.environ), {})) == 0
            mark(bench.home, f"ack {do}:{target}")
        if sending is not None:
            sending.until(lambda: len(sending.commands["remote"]) == 2)
            for command in sending.commands["remote"]:
                reached = "dear emil@dear.example"
                if command.recipient != b"emil@dear.example":  # which came to be due with its domain
                    assert command.recipient == b"sender-back@far.example"
                    reached = "back " + " ".join(sum(MESSAGES["back"], []))
                mark(bench.home, f"done {reached}")
                sending.report("remote", command.slot, b"K", b"ok")
            mess = bench.home / "queue/mess"
            sending.until(lambda: len(list(mess.glob("*/*"))) == 2)  # one that is held, and one that is not due
            assert sending.finish() == 0
        return []

    as_user(where, run)


def _put(home: Path, where: Path, token: str) -> int:
    """Queue message ``token`` as it is after preprocessing; its number."""
    queue = home / "queue"
    new = queue / f"pid/{token}"
    new.write_bytes(b"Received: (qmail)\n" + text(token))
    number = new.stat().st_ino
    new.rename(queue / f"mess/{number % SPLIT}/{number}")
    os.link(queue / f"mess/{number % SPLIT}/{number}", where / f"mess-{token}")
    info = queue / f"info/{number % SPLIT}/{number}"
    info.write_bytes(f"Fsender-{token}@far.example\0".encode())
    os.utime(info, (BIRTH, BIRTH))
    for channel, names in zip(("local", "remote"), MESSAGES[token], strict=True):
        if names:
            (queue / f"{channel}/{number % SPLIT}/{number}").write_text("".join(f"T{name}\0" for name in names))
    return number


def record_life(name: str, where: Path) -> Life:
    """Record the orders of life ``name`` in a new tree below ``where``."""
    output, tree = where / f"{name}.strace", where / name
    tree.mkdir()
    tree.chmod(0o755)
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    record([sys.executable, "-m", "tests.crash.ordering", "--live", name, str(tree)], output, environ)
    home = tree / "home"
    numbers = {token: (tree / f"mess-{token}").stat().st_ino for token in MESSAGES}
    return Life(home, read_life(output, str(home), home), numbers)


class Audit:
    """A tree that is given the queue of a state, and goes on."""

    def __init__(self, bench: Bench, life: Life) -> None:
        self._life = life
        self._restart = bench.restart
        self._queue = bench.home / "queue"

    def __call__(self, state: State) -> list[str]:
        """What is wrong with ``state`` and after it."""
        try:
            self._load(state)
            ordered = state.ledger.acknowledged
            wrong = self._at_once(ordered)
            wrong += self._delivered(state, ordered)
        except Exception as error:  # noqa: BLE001 - a queue that nobody can read is wrong too
            wrong = [repr(error)]
        names = [path.removeprefix(self._life.home) for path in state.tree]
        return [f"cut {state.cut} ({state.kind}): {one}; files {names}" for one in wrong]

    def _load(self, state: State) -> None:
        self._restart.empty()
        queue = {path: content for path, content in state.tree.items() if "/queue/" in path}
        write(queue, self._life.home, str(self._restart.home))
        for number in self._life.numbers.values():
            info = self._queue / f"info/{number % SPLIT}/{number}"
            if info.exists():
                os.utime(info, (BIRTH, BIRTH))

    def _orders(self) -> Orders:
        path = self._queue / "pyqmail/orders"
        return parse_orders(path.read_bytes() if path.exists() else b"")

    def _at_once(self, ordered: set[str]) -> list[str]:
        """What is wrong with the file of orders."""
        orders, numbers, wrong = self._orders(), self._life.numbers, []
        if ("hold:held" in ordered) and orders.held.get(numbers["held"]) != BIRTH:
            wrong.append("a hold is lost")
        if ("began:release:freed" in ordered) < (numbers["freed"] not in orders.held):
            wrong.append("a hold was lost")
        if ("release:freed" in ordered) and numbers["freed"] in orders.held:
            wrong.append("what was released is held again")
        domain = b"dear.example" in orders.domains
        if "hold:dear.example" in ordered and "began:release:dear.example" not in ordered and not domain:
            wrong.append("the hold of a domain is lost")
        if domain and "release:dear.example" in ordered:
            wrong.append("a domain that was released is held again")
        return wrong

    def _delivered(self, state: State, ordered: set[str]) -> list[str]:
        """What is wrong after a qmail-send for which nothing is held."""
        orders = self._queue / "pyqmail/orders"
        if orders.exists():
            orders.write_bytes(re.sub(rb"(?m)^(hold|domain) .*\n", b"", orders.read_bytes()))
        ledger = Ledger(reached=list(state.ledger.reached))
        for token, (local, remote) in MESSAGES.items():
            deleted = token == "gone" and "delete:gone" in ordered
            ledger.note(["try", token, *([] if deleted else [*local, *remote])])
            if token != "gone" or "began:delete:gone" not in ordered:
                ledger.note(["ack", token])
        wrong = self._restart.run(ledger, [(number, f"again-{number}") for number in state.free])
        # a bounce that is in the queue, and still in bounce/, comes twice
        again = Counter(ledger.reached[len(state.ledger.reached) :])
        return wrong + [f"delivered twice: {one}" for one, count in again.items() if count > 1 and one[0] != "back"]


def explore(life: Life, *, effort: int = 4, limit: int = 0, jobs: int = 2, without: str = "") -> Found:
    """Audit the states of ``life``: all, or ``limit`` of them; ``without`` the syncs of that, until one is wrong."""
    found = Found()
    out = [
        bool(without and one.kind == "sync" and re.search(without, one.folder or "a file")) for one in life.operations
    ]
    assert any(out) or not without, without
    kept = [one for one, left_out in zip(life.operations, out, strict=True) if not left_out]
    every: Iterator[State] = (state for state in states(kept, found, effort) if state.cut > life.begun)
    chosen = list(scattered(every) if without else sample(every, limit))
    found.operations, found.cuts = found.operations - life.begun - 1, found.cuts - life.begun - 1
    found.states.update(state.kind for state in chosen)
    found.wrong = audited(chosen, lambda bench: Audit(bench, life), jobs, 1 if without else 0)
    return found


if __name__ == "__main__":
    sys.exit(command(__doc__, LIVES, live, record_life, explore))
