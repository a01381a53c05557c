"""Real filesystems: stop after a file operation, copy the image as the disk has it, mount the copy, restart on it.

    python -m tests.crash.images [--every N] [ext4|xfs|btrfs ...]

As root, with loop devices. Mounted as they come. Prints counts; exits 1 when something was wrong. A filesystem that
cannot be made or mounted here is an error.
"""

import argparse
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import uuid
from dataclasses import dataclass, field
from pathlib import Path

from tests.crash import scenario
from tests.crash.explore import State, audit, prepare
from tests.crash.gate import LAUNCHER
from tests.crash.mail import Ledger

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
    """Lets the programs go on, one operation after another, and copies the image after every ``every``-th."""

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
                if words[0] == "end":
                    client.send(b"x")
                    return
                try:
                    self._take(words)
                except BaseException as trouble:  # noqa: BLE001 - raised again by the test
                    self.trouble = trouble
                client.send(b"x")

    def _take(self, words: list[str]) -> None:
        if words[0] != "operation":
            self.ledger.note(words)
            return
        self.operations += 1
        if self.operations % self._every == 0:
            target = self._copies / f"{self.operations}.img"
            copy(self._image, target, self._where)
            self.taken.append((target, self.ledger.copy()))

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


def live(home: Path, gate: str, *, syncs: bool) -> None:
    """The scripted scenario in ``home``, whose programs wait at ``gate``."""
    scenario.make_home(home)
    for program in ("qmail-queued", "qmail-send", "qmail-clean"):
        module = program.replace("-", "_")
        text = LAUNCHER.format(home=str(home), root=str(scenario.ROOT), gate=gate, module=module, syncs=syncs)
        (home / "bin" / program).write_text(text)
    os.sync()
    environ = {**os.environ, "SENDING_DEADLINE": "300"}
    subprocess.run([sys.executable, str(scenario.__file__), str(home), "scripted", gate], check=True, env=environ)


def tree_of(home: Path) -> dict[str, tuple[int, bytes]]:
    """The queue's files."""
    found = {}
    for folder, _, names in os.walk(home / "queue"):
        for name in names:
            path = os.path.join(folder, name)
            if "/lock/" not in path:
                found[path] = (os.stat(path).st_ino, Path(path).read_bytes())
    return found


def check(kind: str, every: int, *, syncs: bool = True) -> Result:
    """Go through one scenario on a new filesystem of ``kind``."""
    command, megabytes, options = MAKE[kind]
    base = Path(tempfile.mkdtemp(prefix=f"pyqmail-{kind}-"))
    base.chmod(0o755)
    image, where = base / "image", base / "mounted"
    result = Result(kind)
    try:
        with image.open("wb") as file:
            file.truncate(megabytes << 20)
        subprocess.run([*command, str(image)], check=True, stdout=subprocess.DEVNULL)
        mount(image, where)
        stops = Stops(image, where, base, every)
        try:
            live(where / TREE, stops.gate, syncs=syncs)
        finally:
            stops.end()
            unmount(where)
        result.operations = stops.operations
        prepare(str(where / TREE), str(base), 20.0 if syncs else 2.0)
        for cut, (taken, ledger) in enumerate(stops.taken):
            _audit_image(kind, cut, taken, ledger, where, options, result)
    finally:
        shutil.rmtree(base)
    return result


def _audit_image(kind: str, cut: int, image: Path, ledger: Ledger, where: Path, options: str, result: Result) -> None:
    mount(image, where, options)
    try:
        tree = tree_of(where / TREE)
    finally:
        unmount(where)
    if kind == "btrfs":
        subprocess.run(["btrfs", "device", "scan", "--forget"], check=False, stderr=subprocess.DEVNULL)
    image.unlink()
    result.images += 1
    wrong = audit(State(cut, kind, tree, ledger, ()))[1]
    if wrong:
        result.wrong.append(wrong)


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--every", type=int, default=1, help="operations from one image to the next")
    parser.add_argument("kinds", nargs="*", default=list(MAKE))
    options = parser.parse_args()
    wrong = 0
    for kind in options.kinds:
        result = check(kind, options.every)
        print(*result.lines(), sep="\n  ", flush=True)
        wrong += len(result.wrong)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
