"""qmail-q xfer and qmail-xferd, two nodes as two trees: a fault on either side, and another run without one.

After a fault each recipient is still to be tried here, or its message is in the other node's queue; after the next run
it is there, with its birth and its hold. It is there once where the sending side was struck; where the taking side was,
a message may come twice, if the fault came between its queue's word and the note of it.
"""

import os
import select
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pyqmail.admin.draining
import pyqmail.intake.direct
import pyqmail.spool.facts
import pyqmail.spool.transfers  # noqa: F401  before the forks, as all that these programs import late
from pyqmail.formats.facts import FAILURE, Facts, RecipientFacts, format_facts, parse_facts
from pyqmail.formats.netstring import format_netstring, format_netstrings, parse_netstrings
from pyqmail.formats.todo import RecipientParser, parse_todo
from pyqmail.programs import qmail_q, qmail_xferd
from pyqmail.spool.layout import MARK
from tests.certificates import self_signed, signed_by
from tests.crash import scenario
from tests.crash.mail import text, token_of, whole
from tests.crash.scenario import SPLIT
from tests.crash.trip import Trip

if TYPE_CHECKING:
    from tests.crash.faults import Bench

BIRTH = 1_700_000_000
WISH = RecipientFacts(b"carl@far.example", frozenset((FAILURE,)), b"rfc822;carl@far.example")
# token: local/N, remote/N (as they lie there, D is done), held
MESSAGES = {
    "one": (b"Tv-bob@v.example\0", b"", False),
    "two": (b"Tann@here.example\0", b"Ddone@far.example\0Tdora@far.example\0Temil@far.example\0", True),
    "three": (b"", b"Tcarl@far.example\0", False),
}
EXPECTED = Counter(
    [
        ("one", b"bob@v.example"),
        ("two", b"ann@here.example"),
        ("two", b"dora@far.example"),
        ("two", b"emil@far.example"),
        ("three", b"carl@far.example"),
    ]
)
LONGEST_S = 20.0


class Nodes:
    """The tree of ``bench``, which sends, and another one beside it, which takes in."""

    def __init__(self, bench: "Bench") -> None:
        self.bench = bench
        self.here, self.there = bench.home, bench.home.parent / "there"
        self.listener = socket.create_server(("127.0.0.1", 0))
        if not self.there.exists():
            self.there.mkdir()
            scenario.make_home(self.there, os.getuid())
            (self.there / "bin/qmail-queue").unlink()  # qmail-xferd's fork writes the queue, with the fault prepared
            authority = self_signed(bench.home.parent, "authority.test")
            for home, name in ((self.here, "here.test"), (self.there, "there.test")):
                pem = signed_by(authority, bench.home.parent, name)
                (home / "control/servercert.pem").write_bytes(pem.read_bytes())
                (home / "control/servercert.pem").chmod(0o400)
                (home / "control/xferca.pem").write_bytes(authority.with_suffix(".crt").read_bytes())
        peers = f"here.test\nthere.test:127.0.0.1:{self.listener.getsockname()[1]}\n"
        for home in (self.here, self.there):
            (home / "control/xferpeers").write_text(peers)

    def begin(self) -> None:
        """All messages are here, and none there."""
        self.empty()
        for token, (local, remote, held) in MESSAGES.items():
            self._put(token, local, remote, held=held)

    def empty(self) -> None:
        """No message is anywhere, and nothing is known of any."""
        for home in (self.here, self.there):
            (home / "queue/pyqmail/transfers").mkdir(exist_ok=True)
            for path in (home / "queue").rglob("*"):
                if path.is_file() and path.name not in ("sendmutex", "tcpto"):
                    path.unlink()

    def _put(self, token: str, local: bytes, remote: bytes, *, held: bool) -> None:
        queue = self.here / "queue"
        new = queue / f"pid/{token}"
        new.write_bytes(b"Received: (qmail)\n" + text(token))
        number = new.stat().st_ino
        mess = queue / f"mess/{number % SPLIT}/{number}"
        new.rename(mess)
        info = queue / f"info/{number % SPLIT}/{number}"
        info.write_bytes(f"F{token}@far.example\0".encode())
        os.utime(info, (BIRTH, BIRTH))
        for name, data in (("local", local), ("remote", remote)):
            if data:
                (queue / f"{name}/{number % SPLIT}/{number}").write_bytes(data)
        if held:
            (queue / "pyqmail/orders").write_text(f"hold {number} {BIRTH}\n")
        if token == "three":
            facts = format_facts(Facts(envid=b"id", recipients=(WISH,)), b"three@far.example")
            size = b"%d" % mess.stat().st_size
            words = [b"facts 1", b"t", b"Received: (qmail)", size, facts]
            (queue / f"pyqmail/facts/{number % SPLIT}/{number}").write_bytes(format_netstring(format_netstrings(words)))
            mess.chmod(0o644 | MARK)

    def run(self, sending: Trip | None, taking: Trip | None) -> int | None:
        """Move everything; the exit code of qmail-q, negative for a signal, None where it does not end."""
        bench = self.bench
        kept = bench.offspring()  # a qmail-send that serves the queue
        environ = {**bench.environ, b"QMAIL_HOME": os.fsencode(self.there), b"TCPREMOTEIP": b"127.0.0.1"}
        words = [b"qmail-q", b"xfer", b"there.test"]
        sender = bench.child(sending, lambda: qmail_q.main(words, bench.environ), {})
        watch = os.pidfd_open(sender)
        deadline = time.monotonic() + LONGEST_S
        ready: list[object] = []
        while watch not in ready and time.monotonic() < deadline:
            ready = select.select([self.listener, watch], [], [], 1.0)[0]
            if self.listener in ready:
                line = self.listener.accept()[0]
                bench.child(
                    taking, lambda: qmail_xferd.main([b"qmail-xferd"], environ), {0: line.fileno(), 1: line.fileno()}
                )
                line.close()
        os.close(watch)
        code = bench.ended(sender, 0.5)
        while bench.offspring() - kept and time.monotonic() < deadline:  # a qmail-queue may outlive who has started it
            os.waitpid(-1, os.WNOHANG)
            select.select([], [], [], 0.001)
        bench.end_offspring(kept)
        return code

    def left(self) -> set[tuple[str, bytes]]:
        """Token and recipient, as its sender knows it, of all that is still to be tried here."""
        queue = self.here / "queue"
        found = set()
        for channel in ("local", "remote"):
            for path in queue.glob(f"{channel}/*/*"):
                token = token_of((queue / f"mess/{path.parent.name}/{path.name}").read_bytes())
                for _, mark, address in RecipientParser().feed(path.read_bytes()):
                    if mark == b"T" and token is not None:
                        found.add((token, address.removeprefix(b"v-")))
        return found

    def arrived(self) -> Iterator[tuple[str, bytes, Facts]]:
        """Token, recipient and facts of all that is in the other queue."""
        queue = self.there / "queue"
        for path in (queue / "todo").iterdir():
            todo = parse_todo(path.read_bytes())
            token, facts = self.message(int(path.name))
            assert todo.sender == f"{token}@far.example".encode()
            for recipient in todo.recipients:
                yield token, recipient, facts
        for number in self.preprocessed():
            token, facts = self.message(number)
            for channel in ("local", "remote"):
                part = queue / f"{channel}/{number % SPLIT}/{number}"
                for _, mark, address in RecipientParser().feed(part.read_bytes()) if part.exists() else ():
                    if mark == b"T":
                        yield token, address.removeprefix(b"v-"), facts

    def preprocessed(self) -> Iterator[int]:
        """The numbers of the messages in the other queue that have left todo/."""
        queue = self.there / "queue"
        for path in queue.glob("info/*/*"):
            if path.read_bytes().endswith(b"@far.example\0") and not (queue / "todo" / path.name).exists():
                yield int(path.name)

    def message(self, number: int) -> tuple[str, Facts]:
        """Token and facts of ``number`` in the other queue, which is whole."""
        split = f"{number % SPLIT}/{number}"
        data = (self.there / "queue/mess" / split).read_bytes()
        (inner,) = parse_netstrings((self.there / "queue/pyqmail/facts" / split).read_bytes())
        token = token_of(data)
        assert token is not None and whole(data)
        return token, parse_facts(parse_netstrings(inner)[4])

    def astray(self) -> list[str]:
        """What is wrong with what has arrived."""
        wrong = []
        for token, recipient, facts in self.arrived():
            moved = facts.transfer
            if (token, recipient) not in EXPECTED:
                wrong.append(f"{recipient!r} has message {token}")
            if moved is None or (moved.birth, moved.held) != (BIRTH, MESSAGES[token][2]):
                wrong.append(f"message {token} has lost its age or its hold: {moved}")
            if token == "three" and (facts.envid, facts.recipients) != (b"id", (WISH,)):
                wrong.append(f"its facts are {facts}")
        return wrong

    def audit(self, sending: Trip | None, taking: Trip | None) -> list[str]:
        """One run with a fault and one without; what is wrong."""
        self.begin()
        self.run(sending, taking)
        there = Counter((token, recipient) for token, recipient, _ in self.arrived())
        wrong = self.astray() + [f"lost: {one}" for one in EXPECTED.keys() - there.keys() - self.left()]
        code = self.run(None, None)
        there = Counter((token, recipient) for token, recipient, _ in self.arrived())
        if code != 0 or self.left():
            wrong.append(f"the next run ends with {code} and leaves {self.left()}")
        wrong += self.astray() + [f"never arrived: {one}" for one in EXPECTED - there]
        if taking is None:
            wrong += [f"twice: {one}" for one in there - EXPECTED]
        self.listener.close()
        return wrong


def send_away(bench: "Bench", trip: Trip) -> list[str]:
    """qmail-q xfer, on a stopped queue."""
    return Nodes(bench).audit(trip, None)


def take_in(bench: "Bench", trip: Trip) -> list[str]:
    """qmail-xferd, and the qmail-queue that it starts."""
    return Nodes(bench).audit(None, trip)


def kills(scene: "Callable[[Bench, Trip], list[str]]", bench: "Bench", every: int = 1) -> tuple[int, list[str]]:
    """``scene`` with a kill before each ``every``-th change that it makes to the disk or the network: how many, and
    what is wrong."""
    made, wrong = 0, []
    for first, change in enumerate(("write", "fsync", "rename", "unlink", "link")):
        for number in range(1 + first % every, 1000, every):
            trip = Trip(number, "kill", where=change + " ")
            found = scene(bench, trip)
            if not trip.fired:
                break
            made += 1
            wrong += [f"{trip}: {one}" for one in found]
    return made, wrong


MOVING = {"qmail-q xfer": send_away, "qmail-xferd": take_in}
