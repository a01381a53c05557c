"""Random homes, .qmail files and messages through our qmail-local and another one; says where they differ.

    NOTQMAIL_HOME=/var/notqmail tests/bench/compare_local.py [CASES [SEED]]

The other one is $NOTQMAIL_HOME/bin/qmail-local. Ours has another delivery behind it, as in a worker. Compared are the
exit code, the enhanced status code of a failure, the report of a success, every file below the home and what was
queued; dates, process numbers, Maildir names and the wording of failures are not. Run as root it delivers as user
65534. Exit 1 when anything differs.
"""

import os
import random
import re
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from pyqmail.programs import qmail_local  # noqa: E402 - the checkout's own, wherever this was started

NOBODY = 65534
PATIENCE_S = 20
QUEUE = """#!/bin/sh
cat > "$OUT/queued"
exec 3<&1
cat <&3 | tr '\\0' '|' > "$OUT/envelope"
exit $QUEUE_EXIT
"""
WORDS = ("a", "b", "A", "default", "owner", "x.y", "Q", ".", ":", "a/b", "")
LINES = (
    "./Mailbox", "./M/", "./M/ \t", "./sub/box", "./none/box", "./none/", "./M/new/", "./.", "./fifo", "/dev/null",
    "bob@x.example", "&bob@x.example", "& bob@x", "&", "  joe@x", "foo/", "\t", " ", "", "# comment", "#", "+list",
    "+list ", "+other", "+", "|true", "|exit 99", "|exit 100", "|exit 111", "|exit 64", "|exit 1", "|kill -9 $$",
    "|cat >> seen", "|head -c 5 >> seen", "|echo out", "|echo err >&2; exit 0", "|", "|env | grep -aE '^(EXT|HOST|"
    "LOCAL|USER|SENDER|NEWSENDER|RECIPIENT|DEFAULT|RPLINE|DTLINE)' | sort >> seen", "./M\0/", "./M/\0", "joe\0x", "\0",
    "|exec >&-; exit 0", "|umask >> seen; pwd >> seen", ". /", "/", ".", "./Mailbox/", "./M//",
)  # fmt: skip
HEADERS = (
    b"Subject: x\n", b"From me\n", b">From me\n", b"Delivered-To: joe@a.b.example\n", b"junk\n", b"\0junk\n",
    b"delivered-to: joe@a.b.example\n", b"\n", b"From x y", b"Delivered-To: joe@a.b.example", b">>From end",
    b"\0\n", b"\r\n", b"a" * 3000,
    b"Delivered-To: joe-a@a.b.example\n", b".\n", b"Delivered-To: joe@a.b.example\r\n",
)  # fmt: skip
SENDERS = (b"ann@s.example", b"", b"#@[]", b"a b@c", b"a\nb@c", b"noat", b'q"uo\\te@x', b"x\t@y", b"@", b"\xff@\xe9")
DOMAINS = (b"a.b.example", b"localhost", b"a.b.c.d.e", b"", b"x..y", b"new\nline")


Run = Callable[[list[bytes], dict[bytes, bytes]], object]  # arguments and environment; exits or returns a code


class Case:
    """One delivery: what lies in the home, the message and the arguments."""

    def __init__(self, chance: random.Random) -> None:
        self.seed = chance.getrandbits(64)
        pick = random.Random(self.seed)
        self.dash = pick.choice((b"", b"-", b"-", b"-", b"-/", b"=")).decode()
        self.ext = "" if not self.dash else "-".join(pick.choice(WORDS) for _ in range(pick.randrange(1, 4)))
        self.local = b"joe" if not self.dash else b"joe-" + self.ext.encode()
        self.sender = pick.choice(SENDERS)
        self.domain = pick.choice(DOMAINS) if pick.random() < 0.3 else b"a.b.example"
        self.default = "\n".join(pick.choice(LINES) for _ in range(pick.randrange(0, 3))).replace("\0", "")
        self.options = pick.choice(((), ("--",), ("--",), ("-n",), ("-nN",), ("-n", "--"), ("-x",)))
        self.queue_exit = pick.choice((0, 0, 0, 0, 31, 53, 81, 11, 99))
        self.message = b"".join(pick.choice(HEADERS) for _ in range(pick.randrange(0, 8)))

    def build(self, home: Path, uid: int) -> None:
        """Make the home; the same for the same case."""
        pick = random.Random(self.seed + 1)
        home.mkdir(mode=0o755)
        for name in ("M/tmp", "M/new", "M/cur", "sub", ".qmail-a"):
            (home / name).mkdir(parents=True)
        os.mkfifo(home / "fifo")
        safe = self.ext.lower().replace(".", ":")
        names = [safe, safe + "-owner", safe + "-owner-default", "default", "a-default", "a-b-default", "owner"]
        for name in [".qmail" + self.dash + name for name in names] + [".qmail", ".qmaildefault", ".qmail-owner"]:
            if pick.random() < 0.4:
                self._qmail(home / name, pick)
        for path in [home, *home.rglob("*")]:
            os.chown(path, uid, uid, follow_symlinks=False)
        home.chmod(pick.choice((0o755, 0o755, 0o755, 0o700, 0o775, 0o757, 0o1755, 0o711, 0o755, 0o755)))

    def _qmail(self, path: Path, pick: random.Random) -> None:
        if os.path.lexists(path) or not path.parent.is_dir():
            return
        kind = pick.random()
        if kind < 0.05:
            path.mkdir()
        elif kind < 0.08:
            os.mkfifo(path)
        elif kind < 0.11:
            path.symlink_to(path.name)
        else:
            text = "\n".join(pick.choice(LINES) for _ in range(pick.randrange(0, 6)))
            path.write_text(text + pick.choice(("", "\n", "\n\n")) if text else "")
            path.chmod(pick.choice((0o644, 0o644, 0o644, 0o600, 0o744, 0o664, 0o646, 0o000, 0o655)))

    def arguments(self, home: Path) -> list[bytes]:
        """The words after the program's name."""
        words = [b"joe", os.fsencode(home), self.local, self.dash.encode(), self.ext.encode()]
        return [option.encode() for option in self.options] + words + [self.domain, self.sender, self.default.encode()]


def contents(home: Path) -> dict[str, bytes]:
    """What lies below ``home``, Maildir names replaced by their order and dates by a word."""
    found = {}
    for path in sorted(home.rglob("*"), key=lambda path: path.name):
        if path.is_symlink() or not path.is_file():
            continue
        name = str(path.relative_to(home))
        if name.startswith("M/"):
            name = "/".join(name.split("/")[:2])
        data = re.sub(rb"(?m)^(From \S+) \w{3} \w{3} \d\d \d\d:\d\d:\d\d \d{4}$", rb"\1 DATE", path.read_bytes())
        found[name] = found.get(name, b"") + data
    return found


def prepare(case: Case, base: Path, uid: int) -> dict[bytes, bytes]:
    """Make the home and the message of ``case`` below ``base``; the environment for its delivery."""
    base.chmod(0o777)
    (base / "message").write_bytes(case.message)
    (base / "queue").write_text(QUEUE)
    (base / "queue").chmod(0o755)
    case.build(base / "home", uid)
    return {
        b"PATH": b"/usr/bin:/bin",
        b"QMAILQUEUE": os.fsencode(base / "queue"),
        b"OUT": os.fsencode(base),
        b"QUEUE_EXIT": b"%d" % case.queue_exit,
        b"QMAIL_HOME": os.fsencode(base),
    }


def outcome(case: Case, uid: int, run: Run, before: Case | None = None) -> dict[str, object]:
    """What ``run`` makes of ``case`` in a fresh home: status, report and files. ``before`` goes through it first."""
    base = Path(tempfile.mkdtemp(prefix="compare-"))
    try:
        environ = prepare(case, base, uid)
        jobs = [(case, base, environ)]
        if before is not None:
            (base / "before").mkdir()
            jobs.insert(0, (before, base / "before", prepare(before, base / "before", uid)))
        pid = os.fork()
        if pid == 0:
            _child(jobs, uid, run)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        report = (base / "report").read_bytes().replace(os.fsencode(base), b"BASE")
        found: dict[str, object] = {"exit": status, "report": normal(report, status, case)}
        for name in ("queued", "envelope"):
            path = base / name
            found[name] = path.read_bytes() if path.exists() else None
        written = contents(base / "home")
        return found | {name: data.replace(os.fsencode(base), b"BASE") for name, data in written.items()}
    finally:
        shutil.rmtree(base, ignore_errors=True)


def _child(jobs: list[tuple[Case, Path, dict[bytes, bytes]]], uid: int, run: Run) -> None:
    """Run ``jobs`` one after another as a warm worker would; the exit code is that of the last."""
    code: object = 127
    try:
        signal.alarm(len(jobs) * PATIENCE_S)
        if uid != os.getuid():
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
        for case, base, environ in jobs:
            os.umask(0o022)
            message = os.open(base / "message", os.O_RDONLY)
            report = os.open(base / "report", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
            for source, target in ((message, 0), (report, 1), (report, 2)):
                os.dup2(source, target)
            os.closerange(3, 100)
            os.chdir("/")
            code = run(case.arguments(base / "home"), environ)
    finally:
        os._exit(code if isinstance(code, int) else 127)


def normal(report: bytes, status: int, case: Case) -> object:
    """The report without what may differ: of a failure the last line's code, of a success no process number."""
    if status == 0 or b"-n" in case.arguments(Path("/")):
        report = re.sub(rb"(?m)^qp \d+$", b"qp N", report)
    if status != 0:
        *before, last = report.rstrip(b"\n").split(b"\n")
        code = re.search(rb"\(#\d\.\d\.\d\)", last)
        return before, code.group() if code else last[:11]
    return re.sub(rb"Warning: [^\n]*\n", b"Warning\n", report)


def main() -> int:
    """Compare; 1 when anything differs."""
    other = os.environ.get("NOTQMAIL_HOME")
    if not other:
        sys.exit(__doc__)
    cases = int(sys.argv[1]) if len(sys.argv) > 1 else 500
    chance = random.Random(int(sys.argv[2]) if len(sys.argv) > 2 else None)
    uid = os.getuid() or NOBODY
    program = os.fsencode(other) + b"/bin/qmail-local"

    def theirs(words: list[bytes], environ: dict[bytes, bytes]) -> object:
        return os.execve(program, [b"qmail-local", *words], environ)

    def ours(words: list[bytes], environ: dict[bytes, bytes]) -> object:
        return qmail_local.main([b"qmail-local", *words], environ)

    different = 0
    before = Case(chance)
    for number in range(cases):
        case = Case(chance)
        mine, reference = outcome(case, uid, ours, before), outcome(case, uid, theirs)
        before = case
        if mine != reference:
            different += 1
            print(f"case {number}: {case.options} {case.dash!r} {case.ext!r} {case.sender!r} {case.default!r}")
            for key in sorted(set(mine) | set(reference)):
                if mine.get(key) != reference.get(key):
                    print(f"  {key}: ours {mine.get(key)!r}\n  {key}: theirs {reference.get(key)!r}")
    print(f"{cases} cases, {different} differ")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
