"""Queues in every state that a qmail can be stopped in, made by running one: notqmail, or this one.

    NOTQMAIL_HOME=... PYTHONPATH=. python3 -m tests.adoption.scenarios

records all of them from notqmail into tests/data/adoption/, which is how the files there came about. notqmail has its
home compiled in, so it runs in a mount namespace of its own where a temporary tree lies over that directory: needs
root. With NOTQMAIL_HOME set, tests/adoption/test_adoption.py also has each qmail take over what the other one leaves.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from tests.adoption.queues import Expected, Queue, copy_tree, format_queue, read_directory, records, write_directory
from tests.programs.sending import BIN, Sending
from tests.waiting import wait_for

DATA = Path(__file__).resolve().parents[1] / "data/adoption"
SPLIT = 23
LOCAL = [b"u%d@here.example" % index for index in range(3)]
REMOTE = [b"r%d@far.example" % index for index in range(3)]
CONTROLS = {
    "me": "mx.example.test\n",
    "locals": "here.example\n",
    "virtualdomains": "v.example:alias-v\n",
    "concurrencylocal": "40\n",
}


class Host:
    """One temporary tree, and how programs of one qmail are run on it."""

    def __init__(self, reference: Path | None, controls: Mapping[str, str] = CONTROLS) -> None:
        """``reference``: the home of the notqmail to run; None for this qmail."""
        self.home = Path(tempfile.mkdtemp(prefix="adopt"))
        self.home.chmod(0o755)
        if reference is not None:
            copy_tree(reference, self.home)
        else:
            (self.home / "control").mkdir()
        for name, text in controls.items():
            (self.home / "control" / name).write_text(text)
        (self.home / "run/send").mkdir(parents=True)
        self.reference = reference
        write_directory(self.home / "queue", {}, SPLIT)
        self.own()

    def own(self) -> None:
        """Everything in the queue belongs to whom it must."""
        for path in (self.home / "queue", *(self.home / "queue").rglob("*")):
            part = path.relative_to(self.home / "queue").parts[:1]
            user = "qmails" if part and part[0] in ("info", "local", "remote", "bounce") else "qmailq"
            if path.name in ("sendmutex", "trigger"):
                user = "qmails"
            shutil.chown(path, "qmailr" if path.name == "tcpto" else user, "qmail")

    def command(self, program: str) -> list[str]:
        """How to run ``program``, in place of this process, by exec."""
        if self.reference is None:
            return [sys.executable, "-ISXutf8", str(BIN / program)]
        script = 'mount --bind "$1" "$2" && exec "$2/bin/$3"'
        return ["unshare", "-m", "sh", "-c", script, "sh", str(self.home), str(self.reference), program]

    def sending(self) -> Sending:
        """A qmail-send of this host, not started."""
        sending = Sending(self.home, split=SPLIT)
        sending.program = self.command("qmail-send")
        return sending

    def close(self) -> None:
        """Remove the tree."""
        shutil.rmtree(self.home)


class Run:
    """A scenario being played: queues messages, answers deliveries, and keeps the books."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.queue = host.home / "queue"
        self.sending = host.sending()
        self.sending.environ["QMAILQUEUE"] = "/bin/false"  # bounces stay where they are
        self.expected = Expected()
        self.senders: dict[int, bytes] = {}

    def put(self, sender: bytes, local: list[bytes] = LOCAL, remote: list[bytes] = REMOTE, virtual: bytes = b"") -> int:
        """Queue a message through qmail-queue; its number."""
        before = set(self.numbers("todo"))
        envelope = b"F" + sender + b"\0"
        names = [*local, *remote, *([virtual] if virtual else [])]
        envelope += b"".join(b"T" + name + b"\0" for name in names) + b"\0"
        process, message, pipe = self.queueing()
        os.write(message, b"Subject: test\n\nhello\n")
        os.close(message)
        os.write(pipe, envelope)
        os.close(pipe)
        assert process.wait(20) == 0
        (number,) = set(self.numbers("todo")) - before
        self.senders[number] = sender
        for name in local:
            self.expected.pending[number, "local", name] += 1
        for name in remote:
            self.expected.pending[number, "remote", name] += 1
        if virtual:
            self.expected.pending[number, "local", b"alias-v-" + virtual] += 1
        return number

    def queueing(self) -> tuple["subprocess.Popen[bytes]", int, int]:
        """A running qmail-queue, and the write ends for its message and envelope."""
        message, message_pipe = os.pipe()
        envelope, envelope_pipe = os.pipe()
        process = subprocess.Popen(
            self.host.command("qmail-queue"),
            stdin=message,
            stdout=envelope,
            env={"PATH": os.environ["PATH"], "QMAIL_HOME": str(self.host.home)},
        )
        os.close(message)
        os.close(envelope)
        return process, message_pipe, envelope_pipe

    def numbers(self, part: str) -> list[int]:
        """The message numbers in ``part``."""
        return [int(path.name) for path in (self.queue / part).rglob("*") if path.is_file()]

    def start(self, commands: int) -> None:
        """Start qmail-send and wait for that many commands."""
        self.sending.start().until_log("status:")
        self.until_commands(commands)

    def until_commands(self, commands: int) -> None:
        """Wait for that many commands in all."""
        self.sending.until(lambda: sum(map(len, self.sending.commands.values())) == commands)

    def answer(self, **letters: bytes) -> None:
        """Report on each outstanding delivery whose box has a letter here, and wait until that is on disk."""
        answered = 0
        for channel, commands in self.sending.commands.items():
            for command in commands:
                box = command.recipient.partition(b"@")[0].decode().replace("-", "_")
                number = int(command.message.rpartition(b"/")[2])
                if box not in letters:
                    continue
                answered += 1
                letter = letters[box]
                self.sending.report(channel, command.slot, letter, b"as told")
                if letter in b"KD":
                    self.expected.pending[number, channel, command.recipient] -= 1
                if letter == b"D":
                    address = command.recipient.removeprefix(b"alias-v-")
                    self.expected.failed[number, self.senders[number], address] += 1
        self.expected.pending += type(self.expected.pending)()  # without zeros
        wanted = self.expected.pending
        whole = re.compile(r"^delivery .*\nstatus: .*\n", re.MULTILINE)
        self.sending.until(lambda: len(whole.findall(self.sending.log)) >= answered and self.on_disk() == wanted)

    def on_disk(self) -> object:
        """The recipients that the channel files say are not done."""
        found = type(self.expected.pending)()
        for channel in ("local", "remote"):
            for path in (self.queue / channel).glob("*/*"):
                for record in records(path.read_bytes()):
                    if record.startswith(b"T"):
                        found[int(path.name), channel, record[1:]] += 1
        return found

    def kill(self) -> None:
        """The power fails."""
        self.sending.kill()


def being_written(run: Run) -> None:
    """Two messages that nobody finished queueing, one without envelope and one with half of it; nothing to deliver."""
    for sent in (b"", b"Fjoe@a.example\0Tann@here"):
        process, message, envelope = run.queueing()
        os.write(message, b"Subject: half\n\n")
        if sent:
            os.close(message)
            os.write(envelope, sent)
        count = 1 if sent else 0
        wait_for(
            lambda count=count: len(run.numbers("intd")) == count and len(run.numbers("mess")) > count, "both files"
        )
        process.send_signal(signal.SIGKILL)
        process.wait(20)
        os.close(envelope)
        if not sent:
            os.close(message)


def queued(run: Run) -> None:
    """New messages, not yet seen by any qmail-send."""
    run.put(b"joe@a.example", virtual=b"x@v.example")
    run.put(b"", remote=[])
    run.put(b"list-@a.example-@[]", local=[])
    run.put(b"joe@a.example", local=LOCAL[:1], remote=[])


def half_preprocessed(run: Run) -> None:
    """Stopped between writing info, local and remote, and removing todo."""
    run.put(b"joe@a.example", virtual=b"x@v.example")
    run.sending.clean_answer = b""
    run.start(0)
    run.sending.until(lambda: run.sending.requests)
    run.kill()


def preprocessed(run: Run) -> None:
    """Deliveries under way, none reported."""
    run.put(b"joe@a.example", virtual=b"x@v.example")
    run.put(b"", remote=[])
    run.start(10)
    run.kill()


def partly_done(run: Run) -> None:
    """Some delivered, some deferred, some failed; the power fails."""
    run.put(b"joe@a.example", virtual=b"x@v.example")
    run.put(b"", remote=[])
    run.start(10)
    run.answer(u0=b"K", u1=b"D", r0=b"Z", r2=b"D", alias_v_x=b"D")
    run.kill()


def deferred(run: Run) -> None:
    """The same, but stopped in order: the files say when to try again."""
    run.put(b"joe@a.example")
    run.put(b"#@[]", remote=[])
    run.start(9)
    run.answer(u0=b"K", u1=b"D", u2=b"Z", r0=b"Z", r1=b"Z", r2=b"D")
    assert run.sending.finish() == 0


def one_channel_done(run: Run) -> None:
    """All local recipients done, with failures; the remote ones wait."""
    number = run.put(b"joe@a.example")
    run.start(6)
    run.answer(u0=b"K", u1=b"D", u2=b"D", r0=b"Z")
    run.sending.until(lambda: number not in run.numbers("local"))
    run.kill()


def bounces_pending(run: Run) -> None:
    """All done, and the bounce could not be queued: of a message, of a bounce, of a list, of a double bounce."""
    for sender in (b"joe@a.example", b"", b"list-@a.example-@[]", b"#@[]"):
        run.put(sender, remote=[])
    run.start(12)
    run.answer(u0=b"D", u1=b"K", u2=b"D")
    run.sending.until(lambda: run.sending.log.count("trouble injecting bounce") == 3)
    run.sending.until(lambda: len(run.numbers("info")) == 3)
    run.kill()
    gone = [key for key in run.expected.failed if key[1] == b"#@[]"]
    for key in gone:
        del run.expected.failed[key]


def nearly_gone(run: Run) -> None:
    """Delivered and ended, but qmail-clean did not remove the message."""
    run.put(b"joe@a.example", remote=[])
    run.start(3)
    run.sending.clean_answer = b""
    run.answer(u0=b"K", u1=b"K", u2=b"K")
    run.sending.until(lambda: run.sending.requests[-1].startswith(b"foop/"))
    run.kill()


SCENARIOS: dict[str, Callable[[Run], None]] = {
    function.__name__.replace("_", "-"): function
    for function in (
        being_written,
        queued,
        half_preprocessed,
        preprocessed,
        partly_done,
        deferred,
        one_channel_done,
        bounces_pending,
        nearly_gone,
    )
}


def play(name: str, reference: Path | None) -> tuple[Queue, str]:
    """Play a scenario with notqmail at ``reference``, or with this qmail; the queue that it leaves, and the log."""
    host = Host(reference)
    try:
        run = Run(host)
        try:
            SCENARIOS[name](run)
        finally:
            run.sending.kill()
        return Queue(read_directory(run.queue), run.expected), run.sending.log
    finally:
        host.close()


def main() -> int:
    """Record every scenario."""
    reference = Path(os.environ["NOTQMAIL_HOME"])
    DATA.mkdir(parents=True, exist_ok=True)
    for name, function in SCENARIOS.items():
        queue, _ = play(name, reference)
        comment = f"{function.__doc__}\nRecorded from notqmail by tests/adoption/scenarios.py."
        (DATA / f"{name}.txt").write_text(format_queue(queue, comment))
        print(name, len(queue.files), sum(queue.expected.pending.values()), sum(queue.expected.failed.values()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
