"""What is recorded: one life of a queue, from submissions through qmail-queued to deliveries, bounces and removals.

    scenario.py HOME scripted|mailbox [GATE]

Runs under strace, as an ordinary user in a single-user tree. What happens outside of the queue is told by lines written
to HOME/marks: ``try`` and ``ack`` around each submission, ``done`` before a delivery is reported to qmail-send.
"""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Protocol

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from pyqmail.formats.facts import Facts, format_facts  # noqa: E402
from pyqmail.intake.client import answer_of, connect, hand_over  # noqa: E402
from tests.crash.gate import tell  # noqa: E402
from tests.crash.mail import FAILS, Ledger, text  # noqa: E402
from tests.programs.sending import BIN, Sending  # noqa: E402

ROOT = BIN.parent

SPLIT = 3
UID = 40321


def make_home(home: Path, uid: int = UID) -> None:
    """A single-user tree: local deliveries are to home/Maildir, and with ``box`` in the name to home/Mailbox."""
    for part in ("mess", "info", "local", "remote", "pyqmail/facts"):
        for remainder in range(SPLIT):
            (home / "queue" / part / str(remainder)).mkdir(parents=True)
    for name in ("queue/todo", "queue/intd", "queue/bounce", "queue/lock", "queue/pid", "control"):
        (home / name).mkdir()
    for name in ("run/send", "users", "bin", "home/Maildir/new", "home/Maildir/tmp", "home/Maildir/cur"):
        (home / name).mkdir(parents=True)
    for program in BIN.iterdir():
        shutil.copy(program, home / "bin" / program.name)  # with home/pyqmail a checkout of its own
    for name in ("pyqmail", ".deps"):
        (home / name).symlink_to(ROOT / name)
    (home / "queue/lock/sendmutex").write_bytes(b"")
    (home / "queue/lock/tcpto").write_bytes(bytes(1024))
    os.mkfifo(home / "queue/lock/trigger", 0o622)
    for name, line in (("conf-users", f"{uid}\n" * 8), ("conf-groups", f"{uid}\n" * 2), ("conf-split", f"{SPLIT}\n")):
        (home / "control" / name).write_text(line)
    for name, line in (("me", "mx.example\n"), ("locals", "here.example\n"), ("virtualdomains", "v.example:v\n")):
        (home / "control" / name).write_text(line)
    (home / "users/assign").write_text(f"+:user:{uid}:{uid}:{home}/home:-::\n.\n")
    (home / "home/.qmail-default").write_text("./Maildir/\n")
    (home / "home/.qmail-box-default").write_text("./Mailbox\n")
    for base, folders, files in os.walk(home):
        for name in (".", *folders, *files):
            os.chown(os.path.join(base, name), uid, uid, follow_symlinks=False)
    home.chmod(0o755)
    os.chmod(home / "home", 0o755)


class Submission(Protocol):
    """Under way; ``wait`` returns qmail-queue's exit code."""

    def wait(self, timeout: float) -> int: ...


class Handed:
    """A message handed to qmail-queued, as the warm programs do."""

    def __init__(self, home: Path, message: int, envelope: int, facts: bytes) -> None:
        sock = connect(f"{home}/run/qmail-queued.sock", 30)
        assert sock is not None and hand_over(sock, message, envelope, serial=True, facts=facts)
        self._sock = sock

    def wait(self, timeout: float) -> int:
        """The answer."""
        self._sock.settimeout(timeout)
        try:
            return answer_of(self._sock)[0]
        finally:
            self._sock.close()


class Scenario:
    """The tree with its daemons, and the hand that submits and delivers."""

    split = SPLIT

    def __init__(self, home: Path, *, mailbox: bool, gate: str = "") -> None:
        self.gate = gate
        self.home = home
        self.mailbox = mailbox
        self.marks = os.open(home / "marks", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self.ledger = Ledger()
        self.environ = {"PATH": os.environ["PATH"], "QMAIL_HOME": str(home)}
        self.service = self.serve()
        self.sending = Sending(home, split=self.split)
        self.defer: set[str] = set()

    def serve(self) -> subprocess.Popen[bytes] | None:
        """The queue service; None where there is none, and all is submitted by qmail-queue."""
        return subprocess.Popen([str(self.home / "bin/qmail-queued")], env=self.environ)

    def rest(self) -> None:
        """The queue is empty, and the next message a while away."""

    def mark(self, *words: str) -> None:
        """Tell the record."""
        self.ledger.note(list(words))
        self.tell(" ".join(words))

    def tell(self, line: str) -> None:
        """Write a line of the record that is not for our own books."""
        os.write(self.marks, line.encode() + b"\n")
        if self.gate:
            tell(self.gate, line)

    def start(self) -> None:
        """A qmail-send with a real qmail-clean, and in a mailbox scenario a real qmail-lspawn."""
        self.sending = Sending(self.home, split=self.split)
        self.sending.program = [str(self.home / "bin/qmail-send")]
        self.sending.start(limits=(b"", b"\x78") if self.mailbox else (b"\x78", b"\x78"))
        self.sending.attach_cleaner([str(self.home / "bin/qmail-clean")])
        if self.mailbox:
            program = [str(self.home / "bin/qmail-lspawn"), "./Mailbox"]
            self.spawner = self.sending.attach_spawner("local", program, {})
        self.sending.until_log("status:")

    def begin(
        self, token: str, *recipients: str, envelope: bool = True, service: bool = False, noted: bool = False
    ) -> "Submission":
        """Start a submission, by bin/qmail-queue (which writes this queue itself) or by qmail-queued.

        ``noted``: there is more to know of it than its envelope says, though not how it should bounce.
        """
        self.mark("try", token, *recipients)
        facts = format_facts(Facts(smtputf8=True), f"sender-{token}@far.example".encode()) if noted else b""
        message, message_pipe = os.pipe()
        reader, envelope_pipe = os.pipe()
        client: Submission
        if service and self.service is not None:
            client = Handed(self.home, message, reader, facts)
        else:
            program = [str(self.home / "bin/qmail-queue")]
            environ = {**self.environ, "QMAILFACTS": facts.decode()}
            client = subprocess.Popen(program, stdin=message, stdout=reader, env=environ, stderr=subprocess.DEVNULL)
        os.close(message)
        os.close(reader)
        os.write(message_pipe, text(token))
        os.close(message_pipe)
        if envelope:
            sender = f"sender-{token}@far.example"
            os.write(
                envelope_pipe,
                b"\0".join(f"{x}".encode() for x in (f"F{sender}", *(f"T{r}" for r in recipients), "", "")),
            )
        os.close(envelope_pipe)
        return client

    def submit(self, token: str, *recipients: str, service: bool = True, noted: bool = False) -> None:
        """A submission from its beginning to its acknowledgement."""
        client = self.begin(token, *recipients, service=service, noted=noted)
        assert client.wait(60) == 0
        self.mark("ack", token)

    def deliver(self) -> None:
        """Answer every command that has come."""
        for channel, commands in self.sending.commands.items():
            for command in list(commands):
                commands.remove(command)
                recipient = command.recipient.decode()
                if recipient in self.defer:
                    self.defer.discard(recipient)
                    self.sending.report(channel, command.slot, b"Z", b"later")
                    continue
                if command.recipient.startswith(FAILS):
                    self.sending.report(channel, command.slot, b"D", b"no such user")
                    continue
                data = (self.home / "queue/mess" / os.fsdecode(command.message)).read_bytes()
                before = len(self.ledger.reached)
                wrong = self.ledger.deliver(recipient, command.sender, data)
                assert wrong is None, wrong
                for token, name in self.ledger.reached[before:]:
                    self.tell(f"done {token} {name}")
                self.sending.report(channel, command.slot, b"K", b"ok")

    def settle(self) -> None:
        """Deliver until the queue is empty."""

        def empty() -> bool:
            self.deliver()
            if self.sending.log.count("deferral") and not self.defer:
                os.kill(self.sending.pid, signal.SIGALRM)
            return not any(files for _, _, files in os.walk(self.home / "queue/mess"))

        self.sending.until(empty)
        wrong = self.ledger.missing()
        assert self.mailbox or not wrong, wrong
        self.rest()

    def end(self) -> None:
        """Stop everything; the queue service too."""
        assert self.sending.finish() == 0
        if self.service is not None:
            self.service.terminate()
            self.service.wait(30)


def scripted(life: Scenario) -> None:
    """Every way that a message takes through the queue."""
    life.start()
    life.submit("first", "ann@here.example")
    life.settle()  # from now on a message to one recipient is delivered straight from todo/
    life.submit("fresh", "bob@here.example")
    life.settle()
    life.submit("itself", "ann@here.example", "cid@here.example", service=False)
    life.settle()
    life.submit("three", "ann@here.example", "bob@here.example", "carl@far.example")
    life.settle()
    life.submit("far", "dora@far.example", "emil@far.example")
    life.settle()
    life.submit("near", "fritz@here.example", "gerd@here.example")  # with the inode of the one before
    life.settle()
    life.submit("noted", "gus@here.example", "hal@far.example", noted=True)
    life.settle()
    life.submit("plain", "iris@here.example", "jan@far.example")  # with the inode of the one before
    life.settle()
    life.submit("note", "fail-4@here.example", service=False, noted=True)
    life.settle()
    life.submit("refused", "fail-1@here.example")
    life.settle()
    life.submit("half", "fail-2@here.example", "hans@here.example", "fail-3@far.example")
    life.settle()
    life.submit("ida", "ida@here.example")
    life.settle()
    life.defer = {"jo@here.example", "kurt@far.example"}
    life.submit("later", "jo@here.example")
    life.submit("late", "kurt@far.example", "lea@here.example")
    life.settle()
    clients = {
        f"many-{n}": life.begin(f"many-{n}", f"u{n}@here.example", *(["v@far.example"] * (n % 2)), service=True)
        for n in range(4)
    }
    assert life.begin("broken", "mia@here.example", envelope=False).wait(60) != 0
    for token, client in clients.items():
        assert client.wait(60) == 0
        life.mark("ack", token)
    life.settle()
    assert life.sending.finish() == 0
    life.submit("waiting", "nora@here.example")
    life.submit("waits", "otto@here.example", "paul@far.example")
    life.start()
    life.settle()
    life.end()


def mailbox(life: Scenario) -> None:
    """Local deliveries by qmail-lspawn and qmail-local, into a Maildir and an mbox."""
    subprocess.run([str(life.home / "bin/qmail-newu")], env=life.environ, check=True)
    life.start()
    life.submit("first", "ann@here.example")
    life.settle()
    life.submit("fresh", "bob@here.example")
    life.settle()
    life.submit("box", "box-carl@here.example")
    life.settle()
    life.submit("boxes", "box-dora@here.example", "emil@here.example", "fritz@far.example")
    life.settle()
    clients = {
        f"many-{n}": life.begin(f"many-{n}", f"u{n}@here.example", f"box-{n}@here.example", service=True)
        for n in range(3)
    }
    for token, client in clients.items():
        assert client.wait(60) == 0
        life.mark("ack", token)
    life.settle()
    life.end()
    os.waitpid(life.spawner, 0)


def main(argv: list[str]) -> None:
    """Run one scenario."""
    os.umask(0o022)
    if os.getuid() == 0:
        os.setgroups([])
        os.setresgid(UID, UID, UID)
        os.setresuid(UID, UID, UID)
    live(Scenario(Path(argv[1]), mailbox=argv[2] == "mailbox", gate="".join(argv[3:])))


def live(life: Scenario) -> None:
    """The life that ``life`` is made for, to its end."""
    try:
        (mailbox if life.mailbox else scripted)(life)
    except BaseException:
        if life.service is not None:
            life.service.kill()
        life.sending.kill()
        raise


if __name__ == "__main__":
    main(sys.argv)
