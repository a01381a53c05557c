"""notqmail under the same power cuts: the lives of tests/crash/scenario.py, lived by the notqmail in $NOTQMAIL_HOME.

    peer.py HOME scripted|mailbox [GATE]

is a life, for strace or for tests/crash/images.py. notqmail knows no home but the one it was built for, so a tree of
its own is mounted there, for the processes of the test alone; what lies there is not touched. As root. Its daemons run
as root, which makes no difference to what they write; its qmail-queue is qmailq by its setuid bit.

notqmail syncs no directory: under the model of tests/crash/disk.py alone no name of it would ever be durable. So the
kernel is given all the time it needs whenever the queue is empty: what is found lost was lost in the seconds after it
was accepted. The states are judged by starting notqmail's own qmail-send on them.
"""

import ctypes
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.crash import scenario
from tests.crash.disk import write
from tests.crash.explore import Life, Result, State, in_memory, mailboxes, read_life, restarted, sample, states
from tests.crash.mail import Ledger
from tests.crash.restart import Ended, Restart, Stuck
from tests.crash.trace import record

SPLIT = 23  # notqmail's own
QUIET_S = 3.0  # nothing for so long, and qmail-send will do nothing more: it fuzzes its sleeps by a second
FILESYSTEMS = {"ordered": " (ext4, XFS)", "folders": " (btrfs)", "any order": " (what none promises against)"}
FINDINGS = {  # what a complaint means, by what it says
    "again-": "hinder mail accepted after the cut, whose number was used again",
    "never reached": "lose acknowledged mail",
    "half a message": "deliver half a message",
    "is not whole": "have half a message in new/",
    "which is not for it": "deliver to a stranger",
    "whom nobody named": "deliver to a stranger",
    "got the bounce of": "bounce to a stranger",
    "though nobody refused them": "bounce without a reason",
    "without its message": "ask for the delivery of a message that is gone",
    "names none of its recipients": "bounce without saying who was refused",
}
_CLONE_NEWNS, _MS_BIND, _MS_REC, _MS_PRIVATE = 0x20000, 4096, 16384, 1 << 18


def mounted(tree: Path, home: str) -> Callable[[], None]:
    """What a process calls to have ``tree`` at ``home``, it and its children alone. Raises OSError when called."""
    kernel = ctypes.CDLL(None, use_errno=True)

    def mount() -> None:
        if (
            kernel.unshare(_CLONE_NEWNS)
            or kernel.mount(b"none", b"/", None, _MS_REC | _MS_PRIVATE, None)
            or kernel.mount(os.fsencode(tree), os.fsencode(home), None, _MS_BIND, None)
        ):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

    return mount


def make_tree(tree: Path, reference: str) -> None:
    """A notqmail with an empty queue; deliveries as in the single-user tree of our own lives."""
    subprocess.run(["cp", "-a", f"{reference}/bin", str(tree / "bin")], check=True)
    for part in ("mess", "info", "local", "remote"):
        for remainder in range(SPLIT):
            (tree / "queue" / part / str(remainder)).mkdir(parents=True)
    for name in ("todo", "intd", "bounce", "lock", "pid"):
        (tree / "queue" / name).mkdir()
    (tree / "queue/lock/sendmutex").write_bytes(b"")
    (tree / "queue/lock/tcpto").write_bytes(bytes(1024))
    os.mkfifo(tree / "queue/lock/trigger", 0o622)
    for path in (tree / "queue", *(tree / "queue").rglob("*")):
        shutil.chown(path, "qmailq", "qmail")
    for name in ("control", "users", "home/Maildir/new", "home/Maildir/tmp", "home/Maildir/cur"):
        (tree / name).mkdir(parents=True)
    for name, line in (("me", "mx.example\n"), ("locals", "here.example\n"), ("virtualdomains", "v.example:v\n")):
        (tree / "control" / name).write_text(line)
    (tree / "users/assign").write_text(f"+:user:{scenario.UID}:{scenario.UID}:{reference}/home:-::\n.\n")
    (tree / "home/.qmail-default").write_text("./Maildir/\n")
    (tree / "home/.qmail-box-default").write_text("./Mailbox\n")
    for path in (tree / "home", *(tree / "home").rglob("*")):
        os.chown(path, scenario.UID, scenario.UID)
    tree.chmod(0o755)


class Peer(scenario.Scenario):
    """The life of a notqmail."""

    split = SPLIT

    def serve(self) -> None:
        """It has no queue service."""

    def submit(self, token: str, *recipients: str, service: bool = True) -> None:
        """With a gate qmail-send stands still meanwhile: what it syncs next is not what the promise relied on."""
        running = self.sending.pid if self.gate else 0
        if running:
            os.kill(running, signal.SIGSTOP)
        super().submit(token, *recipients, service=service)
        if running:
            os.kill(running, signal.SIGCONT)

    def rest(self) -> None:
        """The kernel writes everything by itself, sooner or later."""
        self.tell("rest")


def record_peer(name: str, where: Path, reference: str) -> Life:
    """Record scenario ``name`` with the notqmail at ``reference``, in a new tree below ``where``."""
    tree, output = where / name, where / f"{name}.strace"
    tree.mkdir()
    make_tree(tree, reference)
    command = [sys.executable, str(Path(__file__).resolve()), reference, name]
    record(command, output, before=mounted(tree, reference))
    return reference, read_life(output, reference, tree)


class PeerRestart(Restart):
    """notqmail's qmail-send, restarted."""

    def send(self, environ: dict[bytes, bytes]) -> int:
        """Become it."""
        os.execve(self.home / "bin/qmail-send", ["qmail-send"], environ)

    def submit(self, ledger: Ledger, number: int, token: str, *recipients: str) -> bool:
        """As its qmail-queue would, which needs a new name in intd/."""
        if (self.queue / f"intd/{number}").exists():
            return False
        return super().submit(ledger, number, token, *recipients)


@dataclass(slots=True)
class Losses:
    """What the states of one life came to, by kind."""

    accepted: int  # messages in the whole life
    found: Result = field(default_factory=Result)
    wrong: dict[str, Counter[str]] = field(default_factory=dict)
    lost: dict[str, set[str]] = field(default_factory=dict)  # messages that did not reach all of their recipients
    cuts: dict[str, set[int]] = field(default_factory=dict)  # after which something was lost
    examples: dict[tuple[str, str], str] = field(default_factory=dict)

    def add(self, state: tuple[str, int, list[str]]) -> None:
        """Count one state: its kind, its cut, and what was wrong."""
        kind, cut, wrong = state
        self.found.states[kind] += 1
        here = self.wrong.setdefault(kind, Counter())
        for line in wrong:
            self.examples.setdefault((kind, finding_of(line)), f"cut {cut}: {line}")
        here.update({finding_of(line) for line in wrong})
        lost = {line.split()[0] for line in wrong if finding_of(line) == FINDINGS["never reached"]}
        self.lost.setdefault(kind, set()).update(lost)
        if lost:
            self.cuts.setdefault(kind, set()).add(cut)

    def lines(self) -> list[str]:
        """For people."""
        found = self.found
        total = sum(found.states.values())
        head = f"{found.operations} file operations, {found.cuts} cuts, {found.made} states, {total} restarted"
        return [head, *self.kinds()]

    def kinds(self) -> list[str]:
        """The same without the heading."""
        lines = []
        for kind, count in sorted(self.found.states.items()):
            lines.append(
                f"{kind}{FILESYSTEMS.get(kind, '')}: {count} states; {len(self.lost[kind])} of {self.accepted} accepted"
                f" messages can be lost, at {len(self.cuts.get(kind, ()))} cuts"
            )
            for finding, times in self.wrong.get(kind, Counter()).most_common():
                lines.append(f"  {times} {finding}, as: {self.examples[kind, finding][:160]}")
        return lines


def finding_of(line: str) -> str:
    """What a complaint means."""
    return next((finding for words, finding in FINDINGS.items() if words in line), line[:60])


_restart: PeerRestart | None = None


def prepare(reference: str, shared: str) -> None:
    """Let this process audit states: a tree in ``shared`` is its ``reference`` from now on."""
    global _restart
    tree = Path(tempfile.mkdtemp(dir=shared))
    tree.chmod(0o755)
    subprocess.run(["cp", "-a", f"{reference}/bin", str(tree / "bin")], check=True)
    mounted(tree, reference)()
    _restart = PeerRestart(Path(reference), SPLIT)
    _restart.patience_s, _restart.patience_renewed = QUIET_S, True


def audit(state: State) -> tuple[str, int, list[str]]:
    """The kind of ``state``, its cut, and what was wrong after a restart on it."""
    assert _restart is not None
    _restart.empty()
    wrong = mailboxes(state)
    queue = {path: content for path, content in state.tree.items() if "/queue/" in path}
    write(queue, str(_restart.home), str(_restart.home))
    _restart.age()
    try:
        wrong += restarted(_restart, state)
    except Ended:
        wrong += ["qmail-send does not start", *_restart.wrong, *state.ledger.missing()]
    except Stuck:
        wrong += ["stay with something in the queue that is never delivered", *_restart.wrong, *state.ledger.missing()]
    return state.kind, state.cut, wrong


def explore_peer(life: Life, *, effort: int, limit: int, jobs: int) -> Losses:
    """Audit the states of ``life``: all, or ``limit`` of them."""
    reference, operations = life
    losses = Losses(sum(operation.content.startswith(b"ack ") for operation in operations if operation.kind == "mark"))
    found = sample(states(operations, losses.found, effort), limit)
    with in_memory() as shared, multiprocessing.get_context("fork").Pool(jobs, prepare, (reference, shared)) as pool:
        for state in pool.imap_unordered(audit, found, chunksize=8):
            losses.add(state)
    return losses


def report(only: str | None, effort: int, limit: int, jobs: int) -> int:
    """Print what notqmail loses; the exit code."""
    reference = os.environ["NOTQMAIL_HOME"]
    for name in [only] if only else ["scripted", "mailbox"]:
        with tempfile.TemporaryDirectory(prefix="pyqmail-crash-") as where:
            os.chmod(where, 0o755)
            losses = explore_peer(record_peer(name, Path(where), reference), effort=effort, limit=limit, jobs=jobs)
        print(f"notqmail, {name}:", *losses.lines(), sep="\n  ", flush=True)
    return 0


def main(argv: list[str]) -> None:
    """Live one life."""
    os.umask(0o022)
    scenario.live(Peer(Path(argv[1]), mailbox=argv[2] == "mailbox", gate="".join(argv[3:])))


if __name__ == "__main__":
    main(sys.argv)
