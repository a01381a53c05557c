"""Random alias files, lists and databases through our fastforward family and Debian's; says where they differ.

    tests/bench/compare_forward.py [CASES [SEED]]

Needs root and Debian's package fastforward, whose programs run in a chroot. Compared are the databases that newaliases
makes, the lists that newinclude makes, and what `fastforward -n` says. Known differences are not looked for: line ends
and blanks at the end of an address are refused by us, and a last line without newline counts. Exit 1 when anything
differs.
"""

import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / ".deps")]

from pyqmail.formats.aliases import Completion, ListError, parse_aliases, parse_include  # noqa: E402
from pyqmail.formats.cdb import write_cdb  # noqa: E402
from pyqmail.programs import fastforward  # noqa: E402
from tests.programs.debian_box import DebianBox  # noqa: E402
from tests.programs.test_sendmail_files import PIECES  # noqa: E402

COMPLETION = Completion(b"mx.example.org", b"example.org", b"plus.org")
KNOWN = (b"newlines not permitted", b"spaces and tabs not permitted")
TARGETS = (b"a@x", b"b@x", b"c@x", b"l@x", b"@x", b"@y", b"a@", b"u@", b"d@y", b"d@x@y")
COMMANDS = (
    b"&a@x", b"&b@x", b"&c@x", b"&A@x", b"&l@x", b"&z@z", b"&y@z", b"&d@y", b"&@x", b"&a@", b"./l1", b"./l2", b"./l3",
    b"./none", b"|p0", b"|p1", b"!q", b"&", b"&d@x@y",
)  # fmt: skip
LISTED = (b"&a@x", b"&b@x", b"&z@z", b"&m@m", b"./l1", b"./l2", b"./l3", b"&L@x")
Choice = random.Random


def scraps(choice: Choice, most: int) -> bytes:
    """Pieces of lists, one after another."""
    return b"".join(choice.choice(PIECES) for _ in range(choice.randrange(most)))


def compare_aliases(choice: Choice, box: DebianBox, place: Path) -> str:
    """A difference between the two databases of a random alias file, or nothing."""
    heads = (b"", b"n: ", b"owner-n: ", b"@v: ")
    text = b"".join(choice.choice(heads) + scraps(choice, 7) + b"\n" for _ in range(choice.choice((1, 1, 2, 3))))
    (box.root / "etc/aliases").write_bytes(text)
    theirs: bytes | None = None
    if box.run(["newaliases"], {}, b"").returncode == 0:
        theirs = (box.root / "etc/aliases.cdb").read_bytes()
    try:
        write_cdb(str(place / "ours.cdb"), parse_aliases(text, COMPLETION))
        ours: bytes | None = (place / "ours.cdb").read_bytes()
    except ListError as error:
        if error.text.startswith(KNOWN):
            return ""
        ours = None
    return "" if ours == theirs else f"aliases {text!r}\n  theirs {theirs!r}\n  ours   {ours!r}"


def compare_include(choice: Choice, box: DebianBox, place: Path) -> str:
    """A difference between the two lists of a random :include: file, or nothing."""
    text = scraps(choice, 8) + choice.choice((b"", b"\n"))
    (box.root / "l").write_bytes(text)
    theirs = (box.root / "l.bin").read_bytes() if box.run(["newinclude", "l"], {}, b"").returncode == 0 else None
    try:
        ours: bytes | None = parse_include(text, COMPLETION)
    except ListError as error:
        ours = None
        if error.text.startswith(KNOWN):
            return ""
    return "" if ours == theirs else f"include {text!r}\n  theirs {theirs!r}\n  ours   {ours!r}"


def compare_forward(choice: Choice, box: DebianBox, place: Path) -> str:
    """A difference in what a random database makes of an address, or nothing."""
    records = []
    for target in TARGETS:
        if choice.random() < 0.6:
            commands = [choice.choice(COMMANDS) for _ in range(choice.randrange(5))]
            records.append((b":" + target, b"".join(command + b"\0" for command in commands)))
        if choice.random() < 0.25:
            records.append((b"?" + target, choice.choice((b"own@o", b"", b"v-@o-@[]"))))
    choice.shuffle(records)
    write_cdb(str(box.root / "r.cdb"), records)
    for name in ("l1", "l2", "l3"):
        (box.root / name).write_bytes(b"".join(choice.choice(LISTED) + b"\0" for _ in range(choice.randrange(5))))
        (box.root / name).chmod(0o644)
    environ = {"RECIPIENT": choice.choice([*map(os.fsdecode, TARGETS), "A@X", "a@y", "u@x", "q@q"])}
    environ["SENDER"] = choice.choice(("", "s@s", "#@[]"))
    option = choice.choice(("-n", "-np"))
    done = box.run(["fastforward", option, "r.cdb"], environ, b"")
    ours = subprocess_of_ours([b"fastforward", option.encode(), b"r.cdb"], environ, box.root, place / "said")
    theirs = done.returncode, done.stderr.replace(b"file does not exist", b"No such file or directory")
    return "" if ours == theirs else f"forward {records} {environ}\n  theirs {theirs}\n  ours   {ours}"


def subprocess_of_ours(argv: list[bytes], environ: dict[str, str], folder: Path, said: Path) -> tuple[int, bytes]:
    """Exit code and descriptor 2 of our main, in a forked child."""
    child = os.fork()
    if child == 0:
        try:
            os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
            os.chdir(folder)
            os._exit(fastforward.main(argv, {os.fsencode(name): os.fsencode(environ[name]) for name in environ}))
        finally:
            os._exit(255)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return code, said.read_bytes()


def main() -> int:
    """Compare; 1 if anything differs."""
    cases, seed = ([int(word) for word in sys.argv[1:3]] + [1000, 1][len(sys.argv) - 1 :])[:2]
    choice = Choice(seed)
    differences = 0
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        (place / "box").mkdir()
        try:
            box = DebianBox(place / "box")
        except (OSError, subprocess.CalledProcessError) as error:
            sys.exit(f"compare_forward: Debian's programs cannot be set up: {error}")
        for _ in range(cases):
            found = choice.choice((compare_aliases, compare_include, compare_forward))(choice, box, place)
            if found:
                differences += 1
                print(found)
    print(f"{cases} cases from seed {seed}, {differences} differ")
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main())
