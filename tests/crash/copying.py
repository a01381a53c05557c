"""control/shadow, two nodes as two trees and one PostgreSQL: the power of a node fails at every point.

    python -m tests.crash.copying [--every N]

A node is qmail-queued, qmail-shadowd and what uses them, one group of processes. All of them end at once, before or
after an exchange with the database, or before a change of the disk. What was acknowledged then has its row and its
files. After that the machine is started anew, or its disk is gone and the other node adopts what it had: each
acknowledged message is in the queue once, one whose sender has heard nothing at most once, a recipient that is marked
not at all, and the rows are those of what is in the queue. Or the power of the other node fails while it adopts, and
it adopts once more: a message may come twice only if that was between its queue's word and the note of it.
"""

import argparse
import os
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psycopg

from pyqmail import launch
from pyqmail.formats.todo import Todo, parse_todo
from pyqmail.programs import qmail_queued, qmail_shadowd
from pyqmail.protocol import shadow
from pyqmail.shadow import adoption, copies, lease, present, service, small, writer  # noqa: F401  before the forks
from pyqmail.shadow.identity import read_queue_id
from pyqmail.shadow.statement import Statement
from tests.crash import scenario
from tests.crash.faults import Bench, Result, in_tree
from tests.crash.mail import Ledger, text, token_of, whole
from tests.crash.scenario import SPLIT, Handed
from tests.crash.trip import Trip
from tests.postgresql import PASSWORD, postgresql
from tests.shadow.node import load_schema
from tests.waiting import wait_for

ANN, BEN = "ann@here.example", "ben@here.example"
FILL = b"Fill: 0123456789\n" * 40_000  # before a message that needs three rows
TABLES = "shadow_node, shadow_message, shadow_part, shadow_done, shadow_taken"
QUEUED, SHADOWD, ADOPT = "qmail-queued", "qmail-shadowd", "qmail-shadowd --adopt"
EXCHANGE = "exchange"
MIDDLE = {EXCHANGE: 20, "write": 8, "fsync": 4, "link": 4, "unlink": 1}  # a point in the middle of what is done
SHORTLY_S = 0.02
TRIES = 50
LONGEST_S = 60.0


class PowerCut(Trip):
    """The end of the whole group at an exchange with the database or a change of the disk of one process."""

    def install(self) -> None:
        """Let it happen in this process."""
        super().install()
        psycopg.Connection.wait = self._wrapped(EXCHANGE, psycopg.Connection.wait)  # type: ignore[method-assign]
        Statement.send = self._wrapped(EXCHANGE, Statement.send)  # type: ignore[method-assign]
        Statement.receive = self._wrapped(EXCHANGE, Statement.receive)  # type: ignore[method-assign]

    def _kill(self) -> None:
        os.killpg(0, signal.SIGKILL)


@dataclass(frozen=True, slots=True)
class Row:
    """What the database has of a message."""

    owner: str
    identity: bytes
    token: str
    taking: bool
    marked: frozenset[str]


class Told:
    """What the world knows: whose message was acknowledged, who has one, and whose end was told and heard."""

    def __init__(self, path: Path) -> None:
        self.ledger = Ledger()
        self.ended: set[str] = set()
        self.gone: set[str] = set()
        for line in path.read_text().splitlines():
            word, *words = line.split()
            if word in ("ended", "gone"):
                (self.ended if word == "ended" else self.gone).update(words)
            else:
                self.ledger.note([word, *words])
        self.reached = set(self.ledger.reached)
        self.kept = self.ledger.acknowledged - self.ended


class Machine:
    """A node. ``starts`` counts the starts of its machine."""

    def __init__(self, bench: Bench, home: Path, url: str) -> None:
        self.bench = bench
        self.home = home
        self.starts = 0
        self.marks = home.parent / "marks"
        self.url = url
        self.environ = {**bench.environ, b"QMAIL_HOME": os.fsencode(home)}
        if not home.exists():
            home.mkdir()
            scenario.make_home(home, os.getuid())
        for name, line in (("me", home.name), ("shadow", url), ("shadowpassword", PASSWORD)):
            (home / "control" / name).unlink(missing_ok=True)
            (home / "control" / name).write_text(line + "\n")
        (home / "control/shadowpassword").chmod(0o600)
        (home / "queue/pyqmail/transfers").mkdir(exist_ok=True)
        self.burn()

    def burn(self) -> None:
        """All that its queue has is gone, and who it is too."""
        for path in (self.home / "queue").rglob("*"):
            if path.is_file() and path.name not in ("sendmutex", "tcpto"):
                path.unlink()
        self.queue = read_queue_id(f"{self.home}/queue/pyqmail/id")

    def live(self, work: "Callable[[Life], None]", trip: Trip | None = None, struck: str = "") -> None:
        """One start of the machine: everything, and then ``work``, until that is done or the power fails."""
        self.starts += 1
        leader = os.fork()
        if leader == 0:
            code = 1
            try:
                os.setpgid(0, 0)
                Life(self, trip, struck).run(work)
                code = 0
            finally:
                os._exit(code)
        code = self.bench.ended(leader, LONGEST_S)
        with suppress(ProcessLookupError):
            os.killpg(leader, signal.SIGKILL)
        self.bench.end_offspring(set())
        self._wait_for_the_database()
        assert code == 0 or (trip is not None and trip.fired), f"{self.home.name} ends with {code}"

    def _wait_for_the_database(self) -> None:
        """A statement outlives who has sent it: let it end before the next life."""
        alive = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND application_name = %s"
        with psycopg.connect(self.url, password=PASSWORD, autocommit=True) as own:
            wait_for(lambda: own.execute(alive, [SHADOWD]).fetchone() is None, "the end of what was asked for")

    def messages(self) -> Iterator[tuple[str, Todo]]:
        """Token and envelope of what is in its queue."""
        for path in (self.home / "queue/todo").iterdir():
            number = int(path.name)
            data = (self.home / f"queue/mess/{number % SPLIT}/{number}").read_bytes()
            token = token_of(data)
            assert token is not None and whole(data) and (FILL in data) == token.startswith("large")
            yield token, parse_todo(path.read_bytes())


class Life:
    """What one group of processes does, seen by its leader."""

    def __init__(self, machine: Machine, trip: Trip | None, struck: str) -> None:
        self.machine = machine
        self.home = machine.home
        self._trip = trip
        self._struck = struck
        self._marks = os.open(machine.marks, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def run(self, work: "Callable[[Life], None]") -> None:
        """Start the node; ``work`` once it has its lease and its queue what it lacked."""
        boot = f"start {self.machine.starts} of {self.home.name}"
        service.boot_id = lambda: boot  # type: ignore[attr-defined]
        writer.AGAIN_S = small.AGAIN_S = lease.AGAIN_S = SHORTLY_S
        launch.__file__ = f"{self.home}/pyqmail/launch.py"
        for socket_name in (self.home / "run").iterdir():
            if socket_name.is_file() or socket_name.is_socket():
                socket_name.unlink()
        self.child(SHADOWD, lambda: qmail_shadowd.main([b"qmail-shadowd"], self.machine.environ))
        self.child(QUEUED, lambda: qmail_queued.main([b"qmail-queued"], self.machine.environ))
        self.database = psycopg.connect(self.machine.url, password=PASSWORD, autocommit=True)
        self.until("SELECT 1 FROM shadow_node WHERE queue = %s AND machine = %s", self.machine.queue, boot)
        self.until_all_is_in_the_queue()
        work(self)

    def child(self, name: str, run: Callable[[], int]) -> int:
        """A process of the group: its pid."""
        return self.machine.bench.child(self._trip if name == self._struck else None, run, {})

    def until(self, sql: str, *values: str) -> None:
        """Wait until the database answers that with a row."""
        wait_for(lambda: self.database.execute(sql, values).fetchone(), sql)  # type: ignore[arg-type]

    def until_all_is_in_the_queue(self) -> None:
        """Wait until nothing that is this node's is still to be taken in, by --adopt or by qmail-shadowd itself."""
        taking = "SELECT 1 FROM shadow_message WHERE owner = %s AND taking"
        self.until(f"SELECT 1 WHERE NOT EXISTS ({taking})", self.machine.queue)

    def tell(self, *words: str) -> None:
        """The world."""
        os.write(self._marks, " ".join(words).encode() + b"\n")

    def submit(self, name: str) -> str:
        """A message to two, again and again until one is accepted: its token."""
        for number in range(TRIES):
            token = f"{name}.{number}"
            self.tell("try", token, ANN, BEN)
            fds = []
            for data in (
                FILL * (name == "large") + text(token),
                f"F{token}@far.example\0T{ANN}\0T{BEN}\0\0".encode(),
            ):
                fd = os.memfd_create(token)
                os.write(fd, data)
                os.lseek(fd, 0, os.SEEK_SET)
                fds.append(os.open(f"/proc/self/fd/{fd}", os.O_RDONLY))
                os.close(fd)
            code = Handed(self.home, fds[0], fds[1], b"").wait(LONGEST_S)
            for fd in fds:
                os.close(fd)
            if code == 0:
                self.tell("ack", token)
                return token
            time.sleep(SHORTLY_S)
        raise AssertionError(f"qmail-queued says {code}")


def accept(life: Life) -> None:
    """Take messages in, and do with them what qmail-send does: one leaves, a recipient of another is reached."""
    first, second, _ = (life.submit(name) for name in ("one", "two", "large"))
    queue = life.home / "queue"
    todo = {todo.sender.split(b"@")[0].decode(): (todo.shadow, path) for path in (queue / "todo").iterdir()
            for todo in [parse_todo(path.read_bytes())]}  # fmt: skip
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as shadowd:
        shadowd.settimeout(LONGEST_S)
        shadowd.connect(str(life.home) + shadow.SOCKET)
        shadowd.send(shadow.format_record(shadow.SERVE))
        identity, path = todo[second]
        life.tell("done", second, ANN)
        shadowd.send(shadow.format_record(shadow.DONE, identity, b"local:0", ANN.encode()))
        life.until("SELECT 1 FROM shadow_done")
        identity, path = todo[first]
        life.tell("done", first, ANN, BEN)
        life.tell("ended", first)
        path.unlink()
        (queue / f"mess/{int(path.name) % SPLIT}/{path.name}").unlink()
        shadowd.send(shadow.format_record(shadow.ENDED, identity))
        while shadow.parse_record(shadowd.recv(shadow.RECORD_MAX)) != [shadow.GONE, identity]:
            pass
        life.tell("gone", first)


def adopt(life: Life) -> None:
    """`qmail-shadowd --adopt`."""
    for _ in range(TRIES):
        pid = life.child(ADOPT, lambda: qmail_shadowd.main([b"qmail-shadowd", b"--adopt"], life.machine.environ))
        if life.machine.bench.ended(pid) == 0:
            life.until_all_is_in_the_queue()
            return
        time.sleep(SHORTLY_S)
    raise AssertionError("--adopt goes on failing")


def rest(_life: Life) -> None:
    """Nothing else."""


class Pair:
    """Two nodes, and what is wrong with them after a fault."""

    def __init__(self, bench: Bench, url: str) -> None:
        self._database = psycopg.connect(url, password=PASSWORD, autocommit=True)
        self._database.execute(f"TRUNCATE {TABLES}")  # type: ignore[arg-type]
        bench.home.with_name("marks").write_text("")
        self.here = Machine(bench, bench.home, url)
        self.other = Machine(bench, bench.home.with_name("other"), url)

    def close(self) -> None:
        """Give the connection back."""
        self._database.close()

    def rows(self) -> list[Row]:
        """What the database has."""
        return [
            Row(str(owner), bytes(identity), token_of(bytes(message)) or "large", taking, frozenset(marked))
            for owner, identity, message, taking, marked in self._database.execute(
                "SELECT owner, replace(id::text, '-', '')::bytea, substr(message, 1, 1000), taking,"
                " ARRAY(SELECT convert_from(recipient, 'UTF8') FROM shadow_done d WHERE d.id = m.id)"
                " FROM shadow_message m"
            )
        ]

    def end_leases(self) -> None:
        """After a while, of whoever does not renew it."""
        self._database.execute("UPDATE shadow_node SET until = now()")

    def promises(self) -> list[str]:
        """What was promised and is not so, right after the power failed."""
        told = Told(self.here.marks)
        there = {token for token, _ in self.here.messages()}
        copied = Counter(row.token for row in self.rows())
        wrong = [f"{token} is not in the queue" for token in told.kept - there]
        wrong += [f"{token} has no row" for token in told.kept if not copied[kind(token)]]
        return wrong + [f"{token} has a row still" for token in told.gone if copied[token]]

    def ended(self, machine: Machine, marked: set[tuple[str, str]], *, twice: bool = False) -> list[str]:
        """What is wrong with the queue of ``machine`` and the rows, once it has taken in what it may."""
        told = Told(self.here.marks)
        found = Counter((token, one.decode()) for token, todo in machine.messages() for one in todo.recipients)
        wrong = []
        for token, recipients in told.ledger.recipients.items():
            for recipient in recipients:
                count, most, least = found.pop((token, recipient), 0), 1, 0
                if token in told.gone or (token, recipient) in marked:
                    most = 0
                elif token in told.kept and (machine is self.here or (token, recipient) not in told.reached):
                    least = 1
                if not least <= count <= (2 * most if twice else most):
                    wrong.append(f"{token} is there {count} times for {recipient}")
        wrong += [f"astray: {one}" for one in found]
        rows, names = self.rows(), {todo.shadow for _, todo in machine.messages()}
        if {row.identity for row in rows} != names or any(row.owner != machine.queue or row.taking for row in rows):
            wrong.append(f"{names} are in the queue, and the database has {rows}")
        return wrong


def kind(token: str) -> str:
    """What a row tells of it: the token of a large one is not in its first bytes."""
    return "large" if token.startswith("large") else token


def started_anew(pair: Pair, trip: Trip, struck: str) -> list[str]:
    """The power fails while messages are taken in, and comes back."""
    pair.here.live(accept, trip, struck)
    wrong = pair.promises()
    pair.end_leases()
    pair.here.live(rest)
    return wrong + pair.ended(pair.here, set())


def burnt(pair: Pair, trip: Trip, struck: str) -> list[str]:
    """The power fails while messages are taken in, and the disk is gone with it."""
    pair.here.live(accept, trip, struck)
    wrong = pair.promises()
    marked = {(row.token, one) for row in pair.rows() for one in row.marked}
    pair.end_leases()
    pair.other.live(adopt)
    return wrong + pair.ended(pair.other, marked)


def adopting(pair: Pair, trip: Trip, struck: str) -> list[str]:
    """The power of the heir fails."""
    pair.here.live(accept)
    marked = {(row.token, one) for row in pair.rows() for one in row.marked}
    pair.end_leases()
    pair.other.live(adopt, trip, struck)
    pair.end_leases()
    pair.other.live(adopt)
    return pair.ended(pair.other, marked, twice=struck != ADOPT)


SCENES: dict[str, tuple[Callable[[Pair, Trip, str], list[str]], tuple[str, ...]]] = {
    "started anew": (started_anew, (SHADOWD, QUEUED)),
    "burnt": (burnt, (SHADOWD, QUEUED)),
    "adopting": (adopting, (ADOPT, SHADOWD, QUEUED)),
}


def cuts(url: str, scene: str, every: int = 1, *, some: bool = False) -> Result:
    """``scene`` with the power cut at each ``every``-th point; ``some``: at one point of each second kind."""
    play, programs = SCENES[scene]
    result = Result(scene)

    def run(bench: Bench) -> list[Result]:
        for first, (struck, where, action) in list(enumerate(points(programs)))[:: 2 if some else 1]:
            for number in [MIDDLE[where]] if some else range(1 + first % every, 1000, every):
                trip, pair = PowerCut(number, action, where=where + " "), Pair(bench, url)
                wrong = play(pair, trip, struck)
                pair.close()
                result.wrong += [f"{struck}, {trip}: {one}" for one in wrong]
                if not trip.fired:
                    break
                result.faults += 1
        return [result]

    return in_tree(run)[0]


def points(programs: tuple[str, ...]) -> Iterator[tuple[str, str, str]]:
    """In which program, at what, and whether before or after it."""
    for program in programs:
        if program == QUEUED:
            yield from ((program, change, "kill") for change in MIDDLE if change != EXCHANGE)
        else:
            yield program, EXCHANGE, "kill"
            yield program, EXCHANGE, "killed"


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--every", type=int, default=1, help="points from one cut to the next")
    every = parser.parse_args().every
    with postgresql() as server:
        load_schema(server)
        results = [cuts(server.url, scene, every) for scene in SCENES]
    for result in results:
        print(*result.lines(), sep="\n  ", flush=True)
    return 1 if any(result.wrong for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
