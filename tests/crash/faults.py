"""Faults, one at a time and at every chance: failing system calls, short writes, kill -9, and bugs.

    python -m tests.crash.faults [--every N] [PROGRAM ...]

Each program runs as it is, in a forked child of a process that has imported it, as an ordinary user in a single-user
tree. After the fault it goes on or is started again, another message must come through, and at the end every message
that was acknowledged has been delivered whole, to its own recipients only, and nobody got a bounce for it.
Prints counts; exits 1 when something was wrong.
"""

import argparse
import ctypes
import errno
import gc
import os
import select
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pyqmail import launch
from pyqmail.formats.facts import Facts, format_facts
from pyqmail.intake import client
from pyqmail.local import recipient_workers
from pyqmail.programs import (
    qmail_clean,
    qmail_local,
    qmail_lspawn,
    qmail_queue,
    qmail_queued,
    qmail_rspawn,
    qmail_send,
)
from pyqmail.system.loop import Loop
from pyqmail.warm import helper_process
from tests.crash import scenario
from tests.crash.doors import DOORS, Sink
from tests.crash.mail import Ledger, text, whole
from tests.crash.moving import MOVING
from tests.crash.restart import Ended, Restart, Stuck
from tests.crash.trip import Trip

ERRORS = (errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EACCES)
ACTIONS = [*(("error", error) for error in ERRORS), ("short", 0), ("kill", 0), ("killed", 0)]
BUGS = [("bug", 0)]
HASTE = 400  # how much faster time passes in qmail-send
PATIENCE_S = 60.0  # a busy machine starts a program in some of them; nothing that is right is silent so long
MOST = 5000
PR_SET_CHILD_SUBREAPER = 36  # prctl(2)
PERMANENT_QUEUE = range(11, 41)  # exit codes of qmail-queue that make its callers give up


@dataclass(slots=True)
class Result:
    """What the faults in one program did."""

    program: str
    faults: int = 0
    restarts: int = 0
    wrong: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """For people."""
        head = f"{self.program}: {self.faults} faults, {self.restarts} restarts: {len(self.wrong)} wrong"
        return [head, *self.wrong[:20]]


def hurry() -> None:
    """Let time pass quickly in this process."""
    monotonic, clock, run_once = time.monotonic, time.time, Loop.run_once
    began, today = monotonic(), clock()
    time.monotonic = lambda: began + (monotonic() - began) * HASTE
    time.time = lambda: today + (clock() - today) * HASTE

    def turn(self: Loop, timeout: float | None = None) -> None:
        run_once(self, 0.01 if timeout is None else min(timeout, 0.01))

    Loop.run_once = turn  # type: ignore[method-assign]


class Bench:
    """A tree, and for each program a piece of its life in which a fault happens."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.restart = Restart(home)
        self.restart.patience_s = PATIENCE_S
        self.environ = {b"QMAIL_HOME": os.fsencode(home), b"PATH": os.fsencode(home / "bin") + b":/usr/bin:/bin"}
        self.restarts = 0
        self.sink: Sink | None = None

    # what is forked

    def child(self, trip: Trip | None, run: Callable[[], int], fds: dict[int, int]) -> int:
        """The pid of a child that runs ``run`` with ``fds`` as its descriptors, the fault prepared."""
        pid = os.fork()
        if pid:
            return pid
        code = 111
        try:
            high = {fd: os.dup2(source, 200 + fd) for fd, source in fds.items()}
            for fd, source in high.items():
                os.dup2(source, fd)
            null = os.open("/dev/null", os.O_RDWR)
            for fd in {1, 2} - fds.keys():
                os.dup2(null, fd)
            os.closerange(3, 400)
            gc.freeze()  # garbage of the parent's, collected here, would close what has its numbers now
            sys.stderr = open(2, "w", closefd=False)  # pytest has its own, on a descriptor that is somebody else's now
            if trip is not None:
                trip.install()
            code = run()
        finally:
            sys.setprofile(None)
            os._exit(code & 255)

    @staticmethod
    def ended(pid: int, seconds: float = PATIENCE_S) -> int | None:
        """The exit code of ``pid`` (negative: its signal), or None after ``seconds``; it is dead then too."""
        watch = os.pidfd_open(pid)
        try:
            done = select.select([watch], [], [], seconds)[0]
            if not done:
                os.kill(pid, signal.SIGKILL)
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            return code if done else None
        finally:
            os.close(watch)

    # qmail-send and qmail-clean

    def deliver(self, ledger: Ledger) -> list[str]:
        """Run qmail-send until nothing is left, once more if it ended, the second time without a fault."""
        said, deadline = "", time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            try:
                return self.restart.run(ledger, [(311, "after")])
            except Ended as ended:
                if "already running" in str(ended):
                    continue  # a qmail-queue that outlived it keeps the lock, as in the original
                if said:
                    break
                said = str(ended)
                self.restarts += 1
                self.restart.setup, self.restart.cleaner = hurry, None
            except Stuck as stuck:
                return [f"stuck: {stuck}"]
        return ["without a fault: " + said]

    def messages(self) -> Ledger:
        ledger = Ledger()
        self.restart.empty()
        self.restart.submit(ledger, 301, "one", "ann@here.example")
        facts = format_facts(Facts(smtputf8=True), b"sender-two@far.example")
        self.restart.submit(ledger, 302, "two", "bob@here.example", "carl@far.example", facts=facts)
        self.restart.submit(ledger, 304, "three", "fail-1@here.example", "dora@here.example")
        self.restart.age()
        return ledger

    def send(self, trip: Trip) -> list[str]:
        """qmail-send with three messages, one of which gets a bounce."""
        return self.send_all(trip, self.messages())

    def send_all(self, trip: Trip, ledger: Ledger) -> list[str]:
        """qmail-send, until ``ledger`` is fulfilled."""

        def setup() -> None:
            hurry()
            trip.install()

        self.restart.setup, self.restart.cleaner = setup, None
        return self.deliver(ledger)

    def deliver_rest(self, ledger: Ledger) -> list[str]:
        """What is in the queue, without a fault."""
        self.restart.setup, self.restart.cleaner = hurry, None
        return self.deliver(ledger)

    def clean(self, trip: Trip) -> list[str]:
        """qmail-clean, removing what qmail-send asks it to."""
        self.restart.setup, self.restart.cleaner = hurry, trip.install
        return self.deliver(self.messages())

    # qmail-queued and qmail-queue

    def serve(self, trip: Trip | None) -> int:
        shutil.rmtree(self.home / "run", ignore_errors=True)
        (self.home / "run/send").mkdir(parents=True)
        return self.child(trip, lambda: self.program(qmail_queued.main, "qmail-queued"), {})

    def program(self, main: Callable[..., int], name: str, *args: bytes, **environ: bytes) -> int:
        more = {key.encode(): value for key, value in environ.items()}
        return main([name.encode(), *args], {**self.environ, **more})

    def connect(self, pid: int) -> "socket.socket | None":
        """A connection to the service, None once ``pid`` has ended, and when there is none for long."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            found = client.connect(f"{self.home}/run/qmail-queued.sock", 0)
            if found is not None:
                return socket.socket(fileno=found.detach())
            if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                return None
            select.select([], [], [], 0.002)
        return None

    def _submit(self, ledger: Ledger, service: int, token: str) -> int:
        """qmail-queue's answer, -1 for none."""
        recipient = f"{token}@here.example"
        ledger.note(["try", token, recipient])
        sock = self.connect(service)
        if sock is None:
            return -1
        with sock:
            message, message_pipe = os.pipe()
            envelope, envelope_pipe = os.pipe()
            given = client.hand_over(sock, message, envelope, serial=True)
            os.close(message)
            os.close(envelope)
            for pipe, data in (
                (message_pipe, text(token)),
                (envelope_pipe, f"Fsender-{token}@far.example\0T{recipient}\0\0".encode()),
            ):
                try:
                    os.write(pipe, data)
                except BrokenPipeError:
                    pass
                os.close(pipe)
            sock.settimeout(PATIENCE_S)
            status = client.answer_of(sock)[0] if given else -1
        if status == 0:
            ledger.note(["ack", token])
        return status

    def queued(self, trip: Trip) -> list[str]:
        """qmail-queued, taking two messages."""
        self.restart.empty()
        ledger, wrong = Ledger(), []
        service = self.serve(trip)
        if self._submit(ledger, service, "one") in PERMANENT_QUEUE:
            wrong.append("the sender was told to give up")
        again = self._submit(ledger, service, "two")
        if again != 0 and trip.fired:
            self.ended(service, 0)  # it is gone, or its supervisor is asked to start it again
            self.restarts += 1
            service = self.serve(None)
            again = next((0 for token in ("three", "four", "five") if self._submit(ledger, service, token) == 0), -1)
        if again != 0:
            wrong.append(f"after the fault a submission ends with {again}")
        os.kill(service, signal.SIGTERM)
        if self.ended(service) is None:
            wrong.append("it does not end")
        wrong += self.deliver_rest(ledger)
        envelopes = [path.read_bytes() for path in (self.home / "queue/todo").iterdir()]
        return wrong + [f"todo/ holds {envelopes}"] if wrong else []

    def queue(self, trip: Trip) -> list[str]:
        """qmail-queue, writing the queue itself."""
        self.restart.empty()
        ledger, wrong = Ledger(), []
        for number, (token, fault) in enumerate((("one", trip), ("two", None))):
            ledger.note(["try", token, "ann@here.example"])
            message, envelope = tempfile.TemporaryFile(), tempfile.TemporaryFile()
            message.write(text(token))
            envelope.write(f"Fsender-{token}@far.example\0Tann@here.example\0\0".encode())
            for file in (message, envelope):
                file.seek(0)
            run = self.launched("pyqmail.programs.qmail_queue", 81, [b"qmail-queue"])
            code = self.ended(self.child(fault, run, {0: message.fileno(), 1: envelope.fileno()}))
            message.close()
            envelope.close()
            if code == 0:
                ledger.note(["ack", token])
            elif code is None or code in PERMANENT_QUEUE or number:
                wrong.append(f"exit {code}")
        return wrong + self.deliver_rest(ledger)

    def launched(self, module: str, crash: int, argv: list[bytes], **environ: bytes) -> Callable[[], int]:
        """What a launcher does."""

        def run() -> int:
            sys.argv = [os.fsdecode(word) for word in argv]
            for key, value in {**self.environ, **{name.encode(): value for name, value in environ.items()}}.items():
                os.environb[key] = value
            launch.run(module, crash)
            return 1

        return run

    # deliveries

    def account(self) -> Path:
        base = self.home / "home"
        shutil.rmtree(base, ignore_errors=True)
        for name in ("new", "tmp", "cur"):
            (base / "Maildir" / name).mkdir(parents=True)
        (base / ".qmail-default").write_text("./Maildir/\n./Mailbox\n")
        return base

    def mailbox(self, base: Path, *, killed: bool, delivered: bool) -> list[str]:
        """What is wrong in the mailboxes."""
        wrong = []
        found = [path.read_bytes() for path in (base / "Maildir/new").iterdir()]
        if not all(whole(data) for data in found) or (delivered and not found):
            wrong.append(f"the Maildir holds {[data[-60:] for data in found]}")
        box = base / "Mailbox"
        data = box.read_bytes() if box.exists() else b""
        if delivered and text("mail") not in data:
            wrong.append("the mbox lacks the message")
        if not killed and data.count(b"Token:") != data.count(text("mail")):
            wrong.append("half a message stays in the mbox")
        return wrong

    def local(self, trip: Trip) -> list[str]:
        """qmail-local, into a Maildir and an mbox."""
        base, wrong = self.account(), []
        for fault in (trip, None):
            with tempfile.TemporaryFile() as message:
                message.write(text("mail"))
                message.seek(0)
                words = (b"--", b"user", os.fsencode(base), b"ann", b"-", b"ann", b"here.example", b"a@b", b"./Mailbox")
                run = self.launched("pyqmail.programs.qmail_local", 111, [b"qmail-local", *words])
                code = self.ended(self.child(fault, run, {0: message.fileno()}))
            allowed = (0, 111, -signal.SIGKILL) if fault is trip else (0,)
            if code not in allowed:
                wrong.append(f"exit {code}")
            wrong += self.mailbox(base, killed=trip.action.startswith("kill"), delivered=code == 0)
        return wrong

    def _spawner(self, trip: Trip | None, main: Callable[..., int], *args: bytes) -> tuple[int, int, int]:
        commands, commands_pipe = os.pipe()
        reports, reports_pipe = os.pipe()
        pid = self.child(trip, lambda: self.program(main, "spawner", *args), {0: commands, 1: reports_pipe})
        os.close(commands)
        os.close(reports_pipe)
        return pid, commands_pipe, reports

    def _ask(self, commands: int, reports: int, recipient: bytes) -> bytes:
        """The letter of the report, empty when the spawner has ended."""
        try:
            os.write(commands, b"\x07" + f"{301 % scenario.SPLIT}/301".encode() + b"\0a@b\0" + recipient + b"\0")
        except BrokenPipeError:
            return b""
        data, deadline = b"", time.monotonic() + PATIENCE_S
        while not data.endswith(b"\0"):
            if not select.select([reports], [], [], max(0.0, deadline - time.monotonic()))[0]:
                return b"?"
            piece = os.read(reports, 4096)
            if not piece:
                return b""
            data = (data + piece).removeprefix(b"\x78")  # the limit, which comes first of all
        return data[1:2]

    def reports(
        self, trip: Trip, main: Callable[..., int], recipient: bytes, good: bytes, *args: bytes
    ) -> tuple[list[str], list[bytes]]:
        """What a spawner says of two deliveries, one more if need be: what is wrong, and the letters."""
        self.messages()
        (self.home / f"queue/mess/{301 % scenario.SPLIT}/301").write_bytes(text("mail"))
        wrong, letters = [], []
        pid, commands, reports = self._spawner(trip, main, *args)
        for _ in range(2):
            letter = self._ask(commands, reports, recipient)
            letters.append(letter)
            if letter == b"" or (letter != good and len(letters) == 2):
                self.restarts += 1
                os.close(commands)
                os.close(reports)
                self.ended(pid, 2)
                pid, commands, reports = self._spawner(None, main, *args)
                letters.append(self._ask(commands, reports, recipient))
                break
        os.close(commands)
        if self.ended(pid) is None:
            wrong.append("it does not end")
        os.close(reports)
        if b"D" in letters or b"?" in letters or letters[-1] != good:
            wrong.append(f"reports {letters}")
        return wrong, letters

    def lspawn(self, trip: Trip) -> list[str]:
        """qmail-lspawn with its workers."""
        base = self.account()
        wrong, letters = self.reports(trip, qmail_lspawn.main, b"ann@here.example", b"K", b"./Mailbox")
        return wrong + self.mailbox(base, killed=True, delivered=b"K" in letters)

    def rspawn(self, trip: Trip) -> list[str]:
        """qmail-rspawn with its workers; the route leads to a closed port."""
        (self.home / "control/smtproutes").write_text(":127.0.0.1:1\n")
        return self.reports(trip, qmail_rspawn.main, b"ann@far.example", b"Z")[0]

    # processes that nobody collects

    @staticmethod
    def offspring() -> set[int]:
        """The children of this process, adopted ones too."""
        return {int(pid) for pid in Path("/proc/thread-self/children").read_text().split()}

    def end_offspring(self, kept: set[int]) -> None:
        """Kill and collect all children but ``kept``, and theirs, which are adopted then."""
        while left := self.offspring() - kept:
            for pid in left:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)


PROGRAMS = {
    "qmail-send": Bench.send,
    "qmail-clean": Bench.clean,
    "qmail-queued": Bench.queued,
    "qmail-queue": Bench.queue,
    "qmail-local": Bench.local,
    "qmail-lspawn": Bench.lspawn,
    "qmail-rspawn": Bench.rspawn,
    **DOORS,
    **MOVING,
}
assert qmail_clean and qmail_local and qmail_queue and qmail_send  # imported before the forks


def inject(bench: Bench, program: str, every: int, actions: Sequence[tuple[str, int]]) -> Result:
    """Every ``every``-th fault of each of ``actions`` in ``program``, not all beginning with the same."""
    result = Result(program + (" (bugs)" if actions == BUGS else ""))
    for index, (action, error) in enumerate(actions):
        first = 1 + index * 7 % every
        for number in range(first, MOST, every):
            trip = Trip(number, action, error)
            before = bench.restarts
            wrong = PROGRAMS[program](bench, trip)
            if not trip.fired:
                break
            result.faults += 1
            result.restarts += bench.restarts - before
            if wrong:
                result.wrong.append(f"{trip}: {'; '.join(wrong)}")
    return result


def as_user(where: Path, run: Callable[[Bench], list[Result]]) -> list[Result]:
    """What ``run`` finds, in a child that has become the ordinary user of a new tree below ``where``."""
    home = where / "home"
    home.mkdir()
    scenario.make_home(home)
    with open(home / "users/assign", "r+") as assign:
        lines = assign.read()
        assign.seek(0)
        assign.write(f"+void-:user:{scenario.UID}:{scenario.UID}:{home}/void:-::\n" + lines)
    (home / "void").mkdir()
    (home / "control/smtproutes").write_text(":127.0.0.1:1\n")
    os.chown(home / "control/smtproutes", scenario.UID, scenario.UID)
    os.chown(where, scenario.UID, scenario.UID)
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            if os.getuid() == 0:
                os.setgroups([])
                os.setresgid(scenario.UID, scenario.UID, scenario.UID)
                os.setresuid(scenario.UID, scenario.UID, scenario.UID)
            os.chdir("/")
            os.system(f"QMAIL_HOME={home} {home}/bin/qmail-newu")
            client.CONNECT_SECONDS = 2
            recipient_workers.PAUSE_S, helper_process.FIRST_WAIT_S = 0.05, 0.05
            launch.__file__ = f"{home}/pyqmail/launch.py"  # so that what is in memory is known for that of home/bin
            ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
            found = run(Bench(home))
            with os.fdopen(writer, "w") as out:
                for result in found:
                    out.write(repr((result.program, result.faults, result.restarts, result.wrong)) + "\n")
            code = 0
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(code)
    os.close(writer)
    with os.fdopen(reader) as lines:
        found = [Result(*eval(line, {"__builtins__": {}})) for line in lines]
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    return found


def in_tree(run: Callable[[Bench], list[Result]]) -> list[Result]:
    """What ``run`` finds in a new tree."""
    base = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with tempfile.TemporaryDirectory(prefix="pyqmail-faults-", dir=base) as where:
        os.chmod(where, 0o755)
        return as_user(Path(where), run)


def trouble(program: str, every: int, actions: Sequence[tuple[str, int]]) -> Result:
    """Every ``every``-th fault in ``program``, in a tree of its own."""
    return in_tree(lambda bench: [inject(bench, program, every, actions)])[0]


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--every", type=int, default=1, help="chances from one fault to the next")
    parser.add_argument("programs", nargs="*", default=list(PROGRAMS))
    options = parser.parse_args()
    wrong = 0
    for program in options.programs:
        for actions in (ACTIONS, BUGS):
            result = trouble(program, options.every, actions)
            print(*result.lines(), sep="\n  ", flush=True)
            wrong += len(result.wrong)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
