"""What options cost an accepted message: two trees beside each other, one without them and one with, in turns.

    PYTHONPATH=. python3 tests/bench/options.py [--rounds 12] [--messages 400] [--only json]

It compares processor time, of all processes of a tree from SMTP to the Maildir, and nothing that waits. Prints one line
for each option, with its limit, and exits 1 if one does not hold. Root, with Postfix's smtp-source.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.integration.mailhost import MailHost, ensure_user, install, own_user
from tests.waiting import wait_for

SESSIONS = 4
PAIRS = 4  # of rounds with the same two trees: two of the same kind differ by some per cent for as long as they run
TICKS = os.sysconf("SC_CLK_TCK")
LISTS = ("badhelo", "badhelonorelay", "badmailfrom", "badmailfromnorelay", "badrcptto", "badrcpttonorelay")
LISTED = "@spam.example\nspam.example\n^[0-9]+[.]dynamic[.]\n[.]click$\n"
OPTIONS = {
    # name: control files, and by how much processor time may be more
    "limits": (
        dict.fromkeys(LISTS, LISTED)
        | {"relaylimits": ":messages=1000000/60,recipients=1000000/3600\n", "maxrcpt": "100\n"},
        1.08,
    ),
    "json": ({"logformat": "json\n"}, 1.04),
}
BASE = {
    "me": "mx.example.test\n",
    "rcpthosts": "example.test\n",
    "locals": "example.test\n",
    "concurrencylocal": "10\n",
}


class Tree:
    """One of the two."""

    def __init__(self, home: Path, user: str, controls: dict[str, str]) -> None:
        install(home, **BASE, **controls)
        self._host = MailHost(home)
        self._host.log.write_bytes(b"")
        self._host.start_delivery()
        self._host.start_smtp(RELAYCLIENT="")
        self._user = user

    def send(self, count: int, new: Path) -> float:
        """Processor time of a message, in seconds."""
        before, had = self._cpu(), len(os.listdir(new))
        words = ["smtp-source", "-s", str(SESSIONS), "-l", "4096", "-m", str(count), "-f", "ann@client.test"]
        subprocess.run([*words, "-t", f"{self._user}@example.test", f"127.0.0.1:{self._host.port}"], check=True)
        wait_for(lambda: len(os.listdir(new)) == had + count and self._host.queued() == 0, "all messages")
        spent = self._cpu() - before
        for path in new.iterdir():
            path.unlink()
        return spent / count

    def _cpu(self) -> float:
        """Of all processes, and of those that have ended."""
        total = 0
        for pid in self._host.pids():
            try:
                stat = Path(f"/proc/{pid}/stat").read_text()
            except OSError:
                continue
            total += sum(map(int, stat.rpartition(")")[2].split()[11:15]))
        return total / TICKS

    def stop(self) -> None:
        self._host.stop()


def measure(name: str, rounds: int, messages: int, base: Path) -> bool:
    """Print what ``name`` costs; whether that is within its limit."""
    user = own_user("pqbench")
    entry = ensure_user(user)
    new = Path(entry.pw_dir) / "Maildir/new"
    if not new.exists():
        subprocess.run(["setpriv", f"--reuid={user}", f"--regid={entry.pw_gid}", "--clear-groups", "mkdir", "-p", "-m",
                        "700", *(new.with_name(part) for part in ("new", "cur", "tmp"))], check=True)  # fmt: skip
    controls, limit = OPTIONS[name]
    pairs: list[tuple[float, float]] = []
    while len(pairs) < rounds:
        place = base / f"{name}-{len(pairs)}"
        place.mkdir(mode=0o755)
        trees: list[Tree] = []
        try:
            for which in (0, 1):
                trees.append(Tree(place / str(which), user, controls if which else {}))
            for tree in trees:
                tree.send(100, new)  # workers are there, and files are read
            for turn in range(min(PAIRS, rounds - len(pairs))):
                costs = {which: trees[which].send(messages, new) for which in ((0, 1) if turn % 2 == 0 else (1, 0))}
                pairs.append((costs[0], costs[1]))
        finally:
            for tree in trees:
                tree.stop()
    ratio = sum(pair[1] for pair in pairs) / sum(pair[0] for pair in pairs)
    middle = statistics.median(pair[1] / pair[0] for pair in pairs)
    without, with_it = (1000 * statistics.median(pair[which] for pair in pairs) for which in (0, 1))
    print(f"{name}: {without:.3f} ms without, {with_it:.3f} ms with, {ratio:.3f} times, median of {rounds} {middle:.3f}"
          f" (limit {limit})", flush=True)  # fmt: skip
    return min(ratio, middle) <= limit


def main() -> int:
    parser = argparse.ArgumentParser(description="what options cost an accepted message")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--messages", type=int, default=400)
    parser.add_argument("--only", choices=OPTIONS, help="this option alone")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="pyqmail-bench-") as base:
        os.chmod(base, 0o755)
        held = [
            measure(name, options.rounds, options.messages, Path(base))
            for name in OPTIONS
            if options.only in (None, name)
        ]
    return 0 if all(held) else 1


if __name__ == "__main__":
    sys.exit(main())
