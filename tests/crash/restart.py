"""Starting qmail-send on a queue, delivering whatever it asks for, and saying what was wrong. Many times a second.

The spawners and qmail-clean are played here, on pipes. qmail-send itself is the real program, in a forked child of a
process that has imported it. Nothing here reads the queue by code of the package.
"""

import ctypes
import gc
import os
import re
import select
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from pyqmail.formats.netstring import format_netstring, format_netstrings
from tests.crash.mail import FAILS, Ledger, text, token_of
from tests.crash.scenario import SPLIT

DEADLINE_S = 20.0
PAST_S = 60  # how old the files of a crash are
DIRECTORIES = ["todo", "intd", "bounce", "lock", "pid"]
SPLIT_PARTS = ("mess", "info", "local", "remote", "pyqmail/facts")
_PR_SET_PDEATHSIG = 1
BOUNCER = """#!/bin/sh
set -e
cd "$QMAIL_HOME/queue"
cat > pid/$$ && cat <&1 > intd/$$
[ "$(tail -c 2 intd/$$ | od -An -tx1)" = " 00 00" ] || exit 54
number=$(stat -c %i pid/$$)
mv pid/$$ mess/$((number % SPLIT))/$number
{ printf 'u0\\0p1\\0'; head -c -1 intd/$$; } > intd/$number.new
rm intd/$$
mv intd/$number.new todo/$number
dd if=/dev/zero of=lock/trigger bs=1 count=1 oflag=nonblock 2>/dev/null || true
"""


class Stuck(Exception):
    """qmail-send did not finish with the queue."""


class Ended(Stuck):
    """qmail-send ended by itself."""


class Restart:
    """One home, whose queue is made anew for each state."""

    def __init__(self, home: Path, split: int = SPLIT) -> None:
        self.home = home
        self.split = split
        self.patience_s = DEADLINE_S
        self.patience_renewed = False  # by every byte that qmail-send writes, and while it works
        self.wrong: list[str] = []  # so far
        self.queue = home / "queue"
        (home / "control").mkdir(exist_ok=True)
        for name, line in (("me", "mx.example\n"), ("locals", "here.example\n"), ("conf-split", f"{split}\n")):
            (home / "control" / name).write_text(line)
        (home / "run/send").mkdir(parents=True, exist_ok=True)
        (home / "bouncer").write_text(BOUNCER.replace("SPLIT", str(split)))
        (home / "bouncer").chmod(0o755)
        self.facts: dict[str, bytes] = {}  # the files of what was submitted, by token
        self._ours: dict[int, int] = {}
        self._kernel = ctypes.CDLL(None)
        self.service = False  # bounces go to a qmail-queued that runs, not to the bouncer
        self.setup: Callable[[], None] = lambda: None  # called in qmail-send, before it begins
        self.cleaner: Callable[[], None] | None = None  # called in a real qmail-clean, if there is one
        self._cleaner = 0

    def empty(self) -> None:
        """A queue without messages."""
        shutil.rmtree(self.queue, ignore_errors=True)
        split = [f"{part}/{n}" for part in SPLIT_PARTS for n in range(self.split)]
        for name in (*DIRECTORIES, *split):
            os.makedirs(self.queue / name)
        os.mkfifo(self.queue / "lock/trigger")
        (self.queue / "lock/sendmutex").write_bytes(b"")

    def age(self) -> None:
        """Let everything be due."""
        past = time.time() - PAST_S
        for folder, _, names in os.walk(self.queue):
            for name in names:
                os.utime(os.path.join(folder, name), (past, past))

    def submit(self, ledger: Ledger, number: int, token: str, *recipients: str, facts: bytes = b"") -> bool:
        """Accept a message under ``number`` as qmail-queue does when the inode is free; False when it would refuse.

        ``facts`` are known of it beside its envelope: each delivery must find them.
        """
        mess, todo = self.queue / f"mess/{number % self.split}/{number}", self.queue / f"todo/{number}"
        if mess.exists() or todo.exists():
            return False
        recipients = recipients or (f"{token}-1@here.example", f"{token}-2@here.example")[: 1 + number % 2]
        mess.write_bytes(b"Received: (qmail)\n" + text(token))
        if facts:
            mess.chmod(0o1644)  # which says that there are some
            words = [b"facts 1", b"t", b"Received: (qmail)", b"%d" % mess.stat().st_size, facts]
            self.facts[token] = format_netstring(format_netstrings(words))
            (self.queue / f"pyqmail/facts/{number % self.split}/{number}").write_bytes(self.facts[token])
        envelope = [
            *([b"p0 facts t"] if facts else []),
            b"u1",
            b"p1",
            f"Fsender-{token}@far.example".encode(),
            *(f"T{name}".encode() for name in recipients),
        ]
        whole = self.queue / "pid/envelope"
        whole.write_bytes(b"".join(word + b"\0" for word in envelope))
        whole.rename(todo)  # a qmail-send that runs must not read half of it
        ledger.note(["try", token, *recipients])
        ledger.note(["ack", token])
        return True

    def pull(self) -> None:
        """Pull the trigger."""
        fd = os.open(self.queue / "lock/trigger", os.O_RDWR | os.O_NONBLOCK)
        os.write(fd, b"x")
        os.close(fd)

    def run(self, ledger: Ledger, late: list[tuple[int, str]]) -> list[str]:
        """Deliver until nothing is left; what was wrong. ``late`` are messages accepted once qmail-send runs."""
        pid = self._start()
        wrong: list[str] = []
        self.wrong = wrong
        rest = {1: b"", 3: b"", 5: b"", 0: b""}
        deadline = time.monotonic() + self.patience_s
        try:
            while not (
                self._finished(ledger, rest[0]) and not late and b"status" in rest[0] and not rest[1] and not rest[3]
            ):
                if time.monotonic() > deadline:
                    if self.patience_renewed and _works(pid):
                        deadline = time.monotonic() + self.patience_s
                        continue
                    raise Stuck(rest[0].decode(errors="replace")[-2000:])
                watched = {self._ours[fd]: fd for fd in (0, 1, 3, 5) if fd in self._ours}
                for end in select.select(list(watched), [], [], 0.01)[0]:
                    fd = watched[end]
                    data = os.read(end, 65536)
                    if not data:
                        raise Ended("qmail-send ended: " + rest[0].decode(errors="replace")[-2000:])
                    rest[fd] += data
                    if self.patience_renewed:
                        deadline = time.monotonic() + self.patience_s
                    if fd == 5:
                        rest[5] = self._clean(rest[5])
                    elif fd:
                        rest[fd] = self._spawn(fd, rest[fd], ledger, wrong)
                half = time.monotonic() > deadline - self.patience_s / 2
                if late and b"status" in rest[0] and (half or self._finished(ledger, rest[0])):
                    for number, token in late:
                        self.submit(ledger, number, token)
                    late = []
                    self.pull()
        finally:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            for end in self._ours.values():
                os.close(end)
            if self._cleaner:
                os.waitpid(self._cleaner, 0)
                self._cleaner = 0
        if b"the facts of msg" in rest[0]:  # todo/N names them, so they must be there
            wrong.append(rest[0].decode(errors="replace")[-2000:])
        return wrong + ledger.missing()

    def _start(self) -> int:
        pipes = {fd: os.pipe() for fd in range(7)}
        child_end = {0: 1, 1: 1, 2: 0, 3: 1, 4: 0, 5: 1, 6: 0}
        os.write(pipes[2][1], b"\x78")
        os.write(pipes[4][1], b"\x78")
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            self._become_qmail_send({fd: pipes[fd][end] for fd, end in child_end.items()}, parent)
        self._ours = {fd: pipes[fd][1 - end] for fd, end in child_end.items()}
        for fd, end in child_end.items():
            os.close(pipes[fd][end])
        if self.cleaner is not None:
            self._cleaner = os.fork()
            if self._cleaner == 0:
                self._become_qmail_clean()
            os.close(self._ours.pop(5))
            os.close(self._ours.pop(6))
        return pid

    def _become_qmail_clean(self) -> None:
        code = 111
        try:
            from pyqmail.programs import qmail_clean

            assert self.cleaner is not None
            os.dup2(self._ours[5], 0)
            os.dup2(self._ours[6], 1)
            os.closerange(3, 200)
            gc.freeze()  # garbage of the parent's, collected here, would close what has its numbers now
            self.cleaner()
            code = qmail_clean.main([b"qmail-clean"], {b"QMAIL_HOME": os.fsencode(self.home)})
        finally:
            os._exit(code)

    def _become_qmail_send(self, ends: dict[int, int], parent: int) -> None:
        code = 111
        try:
            self._kernel.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)  # a pool ends its workers without a word
            if os.getppid() != parent:
                return
            high = {fd: os.dup2(end, 100 + fd) for fd, end in ends.items()}
            for fd, end in high.items():
                os.dup2(end, fd)
            os.closerange(7, 200)
            gc.freeze()  # garbage of the parent's, collected here, would close what has its numbers now
            environ = {b"QMAIL_HOME": os.fsencode(self.home)}
            if not self.service:
                environ[b"QMAILQUEUE"] = os.fsencode(self.home / "bouncer")
            self.setup()
            code = self.send({**environ, b"PATH": b"/usr/bin:/bin"})
        except BaseException as error:  # noqa: BLE001 - the parent hears of it through the log
            os.write(0, repr(error).encode())
        finally:
            os._exit(code)

    def send(self, environ: dict[bytes, bytes]) -> int:
        """Be qmail-send, whose descriptors are in place; the exit code."""
        from pyqmail.programs import qmail_send

        return qmail_send.main([b"qmail-send"], environ)

    def _numbers(self, folder: str) -> list[str]:
        return [name for name in os.listdir(self.queue / folder) if name.isdigit()]

    def _finished(self, ledger: Ledger, log: bytes) -> bool:
        left = self._numbers("todo") + [name for n in range(self.split) for name in self._numbers(f"info/{n}")]
        return not left or all(self._never_accepted(name, ledger, log) for name in left)

    def _never_accepted(self, name: str, ledger: Ledger, log: bytes) -> bool:
        """Whether ``name`` is no message that anybody was promised, and qmail-send complains of its files.

        qmail-send may begin with a message before todo/ is synced; the cut may take todo/N and leave a torn local/N.
        """
        try:
            token = token_of((self.queue / f"mess/{int(name) % self.split}/{name}").read_bytes())
        except OSError:
            return False
        return (
            token not in ledger.acknowledged and re.search(rb"warning: [^\n]*/%b[!;]" % name.encode(), log) is not None
        )

    def _clean(self, data: bytes) -> bytes:
        *requests, rest = data.split(b"\0")
        for request in requests:
            kind, _, digits = request.decode().partition("/")
            split = f"{int(digits) % self.split}/{digits}"
            removed = {"foop": f"mess/{split}", "todo": f"todo/{digits}", "fact": f"pyqmail/facts/{split}"}
            (self.queue / "intd" / digits).unlink(missing_ok=True)
            (self.queue / removed[kind]).unlink(missing_ok=True)
            self._say(6, b"+")
        return rest

    def _spawn(self, fd: int, data: bytes, ledger: Ledger, wrong: list[str]) -> bytes:
        while data[1:].count(b"\0") >= 3:
            slot, (message, sender, recipient, data) = data[:1], data[1:].split(b"\0", 3)
            answer = b"D" if recipient.startswith(FAILS) else b"K"
            if answer == b"K":
                try:
                    whole = (self.queue / "mess" / message.decode()).read_bytes()
                    trouble = ledger.deliver(recipient.decode(), sender, whole)
                    trouble = trouble or self._unknown(message.decode(), whole)
                except OSError as error:
                    trouble = f"a delivery to {recipient!r} without its message: {error}"
                wrong += [trouble] if trouble else []
            elif not any(recipient.decode() in names for names in ledger.recipients.values()):
                wrong.append(f"a delivery to {recipient!r}, whom nobody named")
            self._say(fd + 1, slot + answer + b"test\n\0")
        return data

    def _unknown(self, message: str, data: bytes) -> str | None:
        """What is wrong with the facts that a delivery of ``data`` finds, where its message has some."""
        path, kept = self.queue / "pyqmail/facts" / message, self.facts.get(token_of(data) or "")
        if kept and (path.read_bytes() if path.exists() else b"") != kept:
            return f"{message} has not its facts"
        return None

    def _say(self, fd: int, answer: bytes) -> None:
        try:
            os.write(self._ours[fd], answer)
        except BrokenPipeError:
            return  # it has ended meanwhile, as will be seen


def _works(pid: int) -> bool:
    """Whether ``pid`` does anything but sleep, or has a child that may."""
    state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return state != "S" or bool(Path(f"/proc/{pid}/task/{pid}/children").read_text())


def warm() -> None:
    """Import what is to be restarted, before the first fork."""
    import pyqmail.programs.qmail_send  # noqa: F401

    assert "pyqmail.programs.qmail_send" in sys.modules
