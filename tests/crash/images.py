"""Real filesystems: stop after a file operation, copy the image as the disk has it, mount the copy, restart on it.

    python -m tests.crash.images [--every N] [--refuse open|link] [--peer] [ext4|xfs|btrfs ...]

As root, with loop devices. Mounted as they come. Prints counts; exits 1 when something was wrong. A filesystem that
cannot be made or mounted here is an error. ``--refuse`` is for the life without unnamed files (tests/crash/refusal.py).
``--peer`` says what the notqmail in $NOTQMAIL_HOME loses: the image is copied after each acknowledgement and delivery.
"""

import argparse
import multiprocessing
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.crash import peer, scenario
from tests.crash.explore import State, audit, prepare
from tests.crash.gate import LAUNCHER
from tests.crash.mail import Ledger
from tests.crash.refusal import refuse

MAKE = {
    "ext4": (["mkfs.ext4", "-q", "-F"], 64, ""),
    "xfs": (["mkfs.xfs", "-q", "-f"], 320, "nouuid"),
    "btrfs": (["mkfs.btrfs", "-q", "-f"], 128, ""),
}
TREE = "tree"


@dataclass(slots=True)
class Result:
    """What one filesystem showed."""

    kind: str
    operations: int = 0
    images: int = 0
    wrong: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """For people."""
        head = f"{self.kind}: {self.operations} file operations, {self.images} images mounted: {len(self.wrong)} wrong"
        return [head, *self.wrong[:20]]


def mount(image: Path, where: Path, options: str = "") -> None:
    """Mount ``image`` at ``where``. Raises CalledProcessError."""
    where.mkdir(exist_ok=True)
    subprocess.run(["mount", "-o", ",".join(filter(None, ("loop", options))), str(image), str(where)], check=True)


def unmount(where: Path) -> None:
    """The opposite."""
    subprocess.run(["umount", str(where)], check=True)


def writes(where: Path) -> str:
    """What the block device below ``where`` has done so far."""
    device = os.stat(where).st_dev
    if os.path.exists(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}/stat"):
        return Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}/stat").read_text()
    source = subprocess.run(["findmnt", "-no", "SOURCE", str(where)], check=True, capture_output=True, text=True)
    return Path(f"/sys/block/{Path(source.stdout.strip()).name}/stat").read_text()  # btrfs has numbers of its own


def copy(image: Path, target: Path, where: Path) -> None:
    """Copy what the disk holds at one moment: again, if the kernel wrote meanwhile."""
    while True:
        before = writes(where)
        subprocess.run(["cp", "--sparse=always", str(image), str(target)], check=True)
        if before.split()[4:9] == writes(where).split()[4:9]:
            return


class Stops:
    """Lets the programs go on, one operation after another, and copies the image after every ``every``-th.

    With 0 it is copied whenever something was promised: after each acknowledgement and each delivery, and
    when the queue is empty.
    """

    def __init__(self, image: Path, where: Path, copies: Path, every: int) -> None:
        self.gate = f"pyqmail-{uuid.uuid4()}"
        self.ledger = Ledger()
        self.taken: list[tuple[Path, Ledger]] = []
        self.operations = 0
        self._image = image
        self._where = where
        self._copies = copies
        self._every = every
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.bind("\0" + self.gate)
        self._listener.listen(64)
        self.trouble: BaseException | None = None
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            client, _ = self._listener.accept()
            with client:
                words = client.recv(65536).decode().split()
                if not words:  # it has ended meanwhile
                    continue
                if words[0] == "end":
                    client.send(b"x")
                    return
                try:
                    self._take(words)
                except BaseException as trouble:  # noqa: BLE001 - raised again by the test
                    self.trouble = trouble
                client.send(b"x")

    def _take(self, words: list[str]) -> None:
        if words[0] not in ("operation", "rest"):
            self.ledger.note(words)
        if words[0] in (("operation",) if self._every else ("ack", "done", "rest")):
            self.operations += 1
            if self.operations % (self._every or 1) == 0:
                target = self._copies / f"{self.operations}.img"
                copy(self._image, target, self._where)
                self.taken.append((target, self.ledger.copy()))
        if words[0] == "rest":
            subprocess.run(["sync", "-f", str(self._where)], check=True)

    def end(self) -> None:
        """Nobody waits any more."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
            sock.connect("\0" + self.gate)
            sock.send(b"end")
            sock.recv(1)
        self._thread.join()
        self._listener.close()
        if self.trouble is not None:
            raise self.trouble


def live(home: Path, gate: str, *, syncs: bool, refused: str) -> None:
    """The scripted scenario in ``home``, whose programs wait at ``gate``; ``refused`` by the kernel is open or link."""
    scenario.make_home(home)
    for program in ("qmail-queued", "qmail-send", "qmail-clean"):
        module = program.replace("-", "_")
        text = LAUNCHER.format(home=str(home), root=str(scenario.ROOT), gate=gate, module=module, syncs=syncs)
        (home / "bin" / program).write_text(text)
    os.sync()
    environ = {**os.environ, "SENDING_DEADLINE": "300"}
    command = [sys.executable, str(scenario.__file__), str(home), "scripted", gate]
    subprocess.run(command, check=True, env=environ, preexec_fn=refuse(refused) if refused else None)


def live_peer(home: Path, gate: str, name: str, reference: str) -> None:
    """Scenario ``name`` of the notqmail at ``reference``, in ``home``."""
    home.mkdir()
    peer.make_tree(home, reference)
    os.sync()
    environ = {**os.environ, "SENDING_DEADLINE": "300"}
    command = [sys.executable, str(peer.__file__), reference, name, gate]
    subprocess.run(command, check=True, env=environ, preexec_fn=peer.mounted(home, reference))


def tree_of(home: Path, seen: str) -> dict[str, tuple[int, bytes]]:
    """The files of the queue and of the mailboxes, as if ``home`` were ``seen``."""
    found = {}
    for part in ("queue", "home"):
        for folder, _, names in os.walk(home / part):
            for name in names:
                path = os.path.join(folder, name)
                if "/lock/" not in path:
                    content = Path(path).read_bytes()
                    found[path.replace(str(home), seen, 1)] = (os.stat(path).st_ino, content)
    return found


@contextmanager
def filesystem(kind: str) -> Iterator[tuple[Path, Path, Path]]:
    """A new filesystem of ``kind``: a directory for what is needed, its image in there, and where to mount it."""
    command, megabytes, _ = MAKE[kind]
    base = Path(tempfile.mkdtemp(prefix=f"pyqmail-{kind}-"))
    base.chmod(0o755)
    try:
        with (base / "image").open("wb") as file:
            file.truncate(megabytes << 20)
        subprocess.run([*command, str(base / "image")], check=True, stdout=subprocess.DEVNULL)
        yield base, base / "image", base / "mounted"
    finally:
        shutil.rmtree(base)


def check(kind: str, every: int, *, syncs: bool = True, refused: str = "") -> Result:
    """Go through one scenario on a new filesystem of ``kind``."""
    result = Result(kind)
    with filesystem(kind) as (base, image, where):
        mount(image, where)
        stops = Stops(image, where, base, every)
        try:
            live(where / TREE, stops.gate, syncs=syncs, refused=refused)
        finally:
            stops.end()
            unmount(where)
        result.operations = stops.operations
        prepare(str(where / TREE), str(base), 20.0 if syncs else 2.0)
        for state in _states(kind, stops, where, str(where / TREE)):
            result.images += 1
            wrong = audit(state)[1]
            if wrong:
                result.wrong.append(wrong)
    return result


def check_peer(kind: str, name: str, reference: str) -> list[str]:
    """What the notqmail at ``reference`` loses in scenario ``name`` on a new filesystem of ``kind``: for people."""
    with filesystem(kind) as (base, image, where):
        mount(image, where)
        stops = Stops(image, where, base, 0)
        try:
            live_peer(where / TREE, stops.gate, name, reference)
        finally:
            stops.end()
            unmount(where)
        losses = peer.Losses(len(stops.ledger.acknowledged))
        with multiprocessing.get_context("fork").Pool(1, peer.prepare, (reference, str(base))) as pool:
            for state in _states(kind, stops, where, reference):
                losses.add(pool.apply(peer.audit, (state,)))
    head = f"notqmail, {name}: the image copied after each acknowledgement and delivery, and when the queue was empty"
    return [head, *losses.kinds()]


def _states(kind: str, stops: Stops, where: Path, seen: str) -> Iterator[State]:
    """What the copies of the image hold once they are mounted."""
    for cut, (image, ledger) in enumerate(stops.taken):
        mount(image, where, MAKE[kind][2])
        try:
            tree = tree_of(where / TREE, seen)
        finally:
            unmount(where)
        if kind == "btrfs":
            subprocess.run(["btrfs", "device", "scan", "--forget"], check=False, stderr=subprocess.DEVNULL)
        image.unlink()
        yield State(cut, kind, tree, ledger, ())


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--every", type=int, default=1, help="operations from one image to the next")
    parser.add_argument("--refuse", choices=("open", "link"), default="", help="what the kernel refuses")
    parser.add_argument("--peer", action="store_true", help="what the notqmail in $NOTQMAIL_HOME loses")
    parser.add_argument("kinds", nargs="*", default=list(MAKE))
    options = parser.parse_args()
    if options.peer and ("NOTQMAIL_HOME" not in os.environ or os.geteuid() != 0):
        parser.error("--peer needs NOTQMAIL_HOME, the home of an installed notqmail, and root")
    if options.peer:
        for kind in options.kinds:
            for name in ("scripted", "mailbox"):
                print(*check_peer(kind, name, os.environ["NOTQMAIL_HOME"]), sep="\n  ", flush=True)
        return 0
    wrong = 0
    for kind in options.kinds:
        result = check(kind, options.every, refused=options.refuse)
        print(*result.lines(), sep="\n  ", flush=True)
        wrong += len(result.wrong)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
