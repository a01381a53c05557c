"""Random users/assign, password files and addresses through our user programs and another's; says where they differ.

    NOTQMAIL_HOME=/var/notqmail tests/bench/compare_users.py [CASES [SEED]]

Compared are qmail-newu (users/cdb, byte for byte), qmail-pw2u (every option and file) and qmail-getpw. Runs as root in
a mount namespace of its own, where users/ of the other home and /etc/passwd are replaced. Exit 1 when anything differs.
"""

import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = ROOT / "bin"
INSIDE = "--inside"
LOCALS = (
    "joe",
    "Joe-x",
    "joe-",
    "a.b",
    "",
    "x y",
    "+",
    "JOE-",
    "list-owner",
    "\xe9",
    "j",
    "joe-x-y",
    "root",
    "alias-z",
)
NAMES = ("joe", "ann", "Big", "joe-x", "root", "alias", "a" * 31, "b" * 32, "x", "\xe9")
OPTIONS = ("-o", "-h", "-H", "-u", "-U", "-c+", "-C", "-/", "-c", "-x", "-HC", "-u/", "--", "-", "-oc=")


class Bench:
    """Both homes, and what to run in them."""

    def __init__(self, other: str, base: Path) -> None:
        self.other, self.base = Path(other), base
        self.users = base / "users"
        for name in ("users", "control", "homes"):
            (base / name).mkdir()
        for name in NAMES:
            (base / "homes" / name).mkdir()
        subprocess.run(["mount", "--bind", self.users, self.other / "users"], check=True)
        (base / "passwd").write_bytes(Path("/etc/passwd").read_bytes())
        subprocess.run(["mount", "--bind", base / "passwd", "/etc/passwd"], check=True)
        self.accounts = [line for line in Path("/etc/passwd").read_bytes().splitlines() if b"qmail" in line]

    def run(self, program: str, args: list[bytes], data: bytes, *, ours: bool) -> tuple[int, bytes, bytes]:
        """Exit code, output and the first words of what is said."""
        path = (PROGRAMS if ours else self.other / "bin") / program
        done = subprocess.run(
            [path, *args], input=data, capture_output=True, env={"QMAIL_HOME": str(self.base)}, timeout=20, check=False
        )
        return done.returncode, done.stdout, done.stderr.replace(str(self.base).encode(), b"BASE")

    def both(self, program: str, args: list[bytes], data: bytes = b"") -> bool:
        """Whether both say and write the same."""
        results = []
        for ours in (True, False):
            (self.users / "cdb").unlink(missing_ok=True)
            result: tuple[object, ...] = self.run(program, args, data, ours=ours)
            if result[0] != 0 and program == "qmail-pw2u":
                result = (result[0], result[2])  # how much was written before a failure is nobody's business
            cdb = self.users / "cdb"
            results.append((*result, cdb.read_bytes() if cdb.exists() else None))
        if results[0] == results[1]:
            return True
        print(f"{program} {args} {data!r}\n  users: {self.files()}\n  ours   {results[0]!r}\n  theirs {results[1]!r}")
        return False

    def files(self) -> dict[str, bytes]:
        """What lies in users/."""
        return {path.name: path.read_bytes() for path in self.users.iterdir() if path.is_file()}


def words(chance: random.Random, of: tuple[str, ...], separator: str, most: int) -> bytes:
    """Up to ``most`` of the words, joined."""
    return separator.join(chance.choice(of) for _ in range(chance.randrange(most))).encode("latin-1")


def assign(chance: random.Random) -> bytes:
    """A users/assign that is often right."""
    lines = []
    for _ in range(chance.randrange(8)):
        address = chance.choice("==+++.: ").encode() + chance.choice(LOCALS).encode("latin-1")
        fields = [b"joe", b"%d" % chance.randrange(9), b"x1", b"/home", b"-", b"e-"]
        if chance.random() < 0.03:
            fields = fields[:3]
        lines.append(address + b":" + b":".join(fields) + chance.choice((b":", b":", b":", b":more", b"")))
    lines += chance.choice(([b"."], [b"."], [b"."], [b". end", b"rest"], []))
    data = b"\n".join(lines) + chance.choice((b"\n", b"\n", b""))
    return data.replace(b"x1", b"x\0") if chance.random() < 0.03 else data


def passwd(chance: random.Random, bench: Bench) -> bytes:
    """A password file with the alias account in it, mostly."""
    lines = []
    for name in chance.sample(NAMES, chance.randrange(len(NAMES))):
        home = bench.base / "homes" / name
        uid = 0 if name == "root" else 5000 + len(name) + ord(name[0])
        os.chown(home, uid if chance.random() < 0.8 else 1, 0)
        place = str(home) if chance.random() < 0.9 else "/no/such"
        lines.append(f"{name}:x:{uid}:{chance.randrange(9)}:gecos:{place}:/bin/sh".encode("latin-1"))
    if chance.random() < 0.1:
        lines.append(b"short:x:1")
    chance.shuffle(lines)
    return b"\n".join(lines) + chance.choice((b"\n", b"\n", b""))


def lists(chance: random.Random, bench: Bench) -> None:
    """Write the files that qmail-pw2u reads."""
    for path in bench.users.iterdir():
        path.unlink()
    texts = {
        "include": words(chance, (*NAMES, "# x", "", "alias", "alias"), "\n", 12),
        "exclude": words(chance, ("ann", "JOE", "# x", "", "x "), "\n", 4),
        "mailnames": words(chance, ("joe:a:b", "ann::", "JOE:j::k", "x", "# y", "alias:alias:postmaster"), "\n", 4),
        "subusers": words(chance, ("s:joe:p:", "t:q", "comment", "u:alias::x", "v:nobody:w:"), "\n", 3),
        "append": words(chance, ("=z:z:1:1:/z:::", "+y:z:1:1:/:-::"), "\n", 3),
    }
    for name, text in texts.items():
        if chance.random() < 0.25:
            (bench.users / name).write_bytes(text + chance.choice((b"\n", b"")) if text else b"")


def compare(bench: Bench, cases: int, seed: int) -> int:
    """How many of ``cases`` differ."""
    chance = random.Random(seed)
    different = 0
    for _ in range(cases):
        lists(chance, bench)
        (bench.users / "assign").write_bytes(assign(chance))
        different += not bench.both("qmail-newu", [])
        (bench.users / "assign").unlink()
        options = [chance.choice(OPTIONS).encode() for _ in range(chance.randrange(3))]
        accounts = passwd(chance, bench)
        different += not bench.both("qmail-pw2u", options, accounts)
        Path("/etc/passwd").write_bytes(b"\n".join([*bench.accounts, accounts]))
        local = words(chance, (*NAMES, "-", "", "X", "JOE"), "-", 4)
        different += not bench.both("qmail-getpw", [local])
    return different


def main() -> int:
    """Compare; 1 when anything differs."""
    other = os.environ.get("NOTQMAIL_HOME")
    if not other or os.getuid() != 0:
        sys.exit(__doc__)
    if INSIDE not in sys.argv:
        os.execvp("unshare", ["unshare", "-m", sys.executable, *sys.argv, INSIDE])
    numbers = [int(word) for word in sys.argv[1:] if word != INSIDE]
    with tempfile.TemporaryDirectory(prefix="compare-") as base:
        os.chmod(base, 0o755)
        cases = numbers[0] if numbers else 200
        different = compare(Bench(other, Path(base)), cases, numbers[1] if len(numbers) > 1 else random.getrandbits(32))
        subprocess.run(["umount", "/etc/passwd", Path(other) / "users"], check=False)
    print(f"{cases} cases of three programs, {different} differ")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
