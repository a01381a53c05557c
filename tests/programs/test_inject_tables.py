"""qmail-inject against recorded tables: 298 To fields and 134 whole runs of notqmail 1.09 (tests/programs/inject)."""

import os
import re
import shlex
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyqmail.formats import rfc822
from pyqmail.intake.compose import Rewriter
from pyqmail.programs import qmail_inject

DATA = Path(__file__).parent / "inject"
RULES = rfc822.Rules(b"mx.example.org", b"example.org", b"plus.org")
QUEUE = '#!/bin/sh\ncat > "$OUT/queued"\nexec 3<&1\ncat <&3 > "$OUT/envelope"\n'
VARIABLES = {
    b"QMAILDEFAULTHOST": b"mx.example.org",
    b"QMAILDEFAULTDOMAIN": b"example.org",
    b"QMAILPLUSDOMAIN": b"plus.org",
    b"QMAILIDHOST": b"id.h",
}
CLOCK = [  # what changes from run to run, and what the tables have for it
    (re.compile(rb"Date: \d+ \w{3} \d{4} \d\d:\d\d:\d\d -0000\n"), b"Date: D\n"),
    (re.compile(rb"<\d{14}\.\d+\.qmail@"), b"<M@"),
    (re.compile(rb"-\d{9,11}\.\d+"), b"-T.P"),
]


def unescape(text: str) -> bytes:
    return text.encode("ascii").decode("unicode_escape").encode("latin-1")


def address_rows() -> Iterator[tuple[str, str, str]]:
    for line in (DATA / "addresses.tsv").read_text().splitlines():
        if not line.startswith("# ") or "\t" in line:
            field, written, recipients = line.split("\t")
            yield field, written, recipients


@pytest.mark.contract(*(f"inject 2.{row}" for row in range(1, 17)), "inject 2", "inject 1.16", "inject 5.1")
@pytest.mark.parametrize(("field", "written", "recipients"), list(address_rows()))
def test_a_to_field_is_written_back_and_gives_its_recipients(field: str, written: str, recipients: str) -> None:
    found: list[bytes] = []

    def rewrite(address: "rfc822.Tokens") -> "rfc822.Tokens":
        address = rfc822.complete(address, RULES)
        found.append(rfc822.plain_address(address))
        return address

    name = [(rfc822.ATOM, b"To"), (rfc822.COLON, b":")]
    text = b"To: " + unescape(field)
    try:
        listed = rfc822.rewrite_list(rfc822.tokenize(unescape(field) + b"\n"), rewrite)
        text = rfc822.format_tokens(name + listed)
    except (rfc822.LexicalError, rfc822.StructureError):
        pass  # the field passes as it is, and what was found counts
    assert text.removeprefix(b"To:").removeprefix(b" ") == unescape(written)
    shown = " ".join(f"<{address.decode('latin-1').encode('unicode_escape').decode()}>" for address in found)
    assert (shown or "none") == recipients


def differing_rows() -> dict[str, tuple[str, str]]:
    lines = (DATA / "addresses-differ.tsv").read_text().splitlines()
    rows = (line.split("\t") for line in lines if not line.startswith("# "))
    return {field: (written, recipients) for field, written, recipients in rows}


DIFFERING = differing_rows()


@pytest.mark.contract("inject 1.16", "inject 2", "inject 2.9")
@pytest.mark.parametrize(("field", "written", "recipients"), list(address_rows()))
def test_qmail_inject_writes_the_same_where_the_field_is_clean(field: str, written: str, recipients: str) -> None:
    found: list[bytes] = []
    text = Rewriter(RULES).rewrite(b"To: " + unescape(field) + b"\n", found, [])
    written, recipients = DIFFERING.get(field, (written, recipients))
    assert text.removeprefix(b"To:").removeprefix(b" ").rstrip(b"\n") == unescape(written).rstrip(b"\n")
    shown = " ".join(f"<{address.decode('latin-1').encode('unicode_escape').decode()}>" for address in found)
    assert (shown or "none") == recipients


class Run:
    """One recorded run."""

    def __init__(self, block: str) -> None:
        self.title = ""
        self.words: list[str] = []
        self.envelope: str | None = None
        self.code = -1
        parts: dict[str, list[bytes]] = {">": [], "<": [], "!": []}
        for line in block.splitlines():
            if line.startswith("## "):
                self.title = line[3:]
            elif line.startswith("$ "):
                self.words = shlex.split(line[2:])
            elif line.startswith("envelope "):
                self.envelope = line[9:]
            elif line.startswith("exit "):
                self.code = int(line[5:])
            else:
                ended = line[1] != "\\"
                parts[line[0]].append(unescape(line[2 + (not ended) :]) + (b"\n" if ended else b""))
        self.input, self.output, self.errors = (b"".join(parts[mark]) for mark in "><!")

    @property
    def environ(self) -> dict[bytes, bytes]:
        """The variables before the command."""
        pairs = [word.split("=", 1) for word in self.words[: self.words.index("qmail-inject")]]
        return {unescape(name): unescape(value) for name, value in pairs}

    @property
    def argv(self) -> list[bytes]:
        """The command."""
        return [unescape(word) for word in self.words[self.words.index("qmail-inject") :]]


RUNS = [Run(block) for block in (DATA / "messages.txt").read_text().split("\n\n")]


def in_child(run: Run, home: Path, environ: dict[bytes, bytes]) -> int:
    """Run qmail-inject's main in a forked child on files of ``home``; its exit code."""
    child = os.fork()
    if child == 0:
        try:
            os.chdir(home)
            os.dup2(os.open("input", os.O_RDONLY), 0)
            for fd, name in ((1, "output"), (2, "errors")):
                os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), fd)
            os._exit(qmail_inject.main(run.argv, environ))
        finally:
            os._exit(255)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def without_clock(text: bytes) -> bytes:
    for pattern, word in CLOCK:
        text = pattern.sub(word, text)
    return text


@pytest.fixture
def home() -> Iterator[Path]:
    """A home with a queue that keeps what it gets."""
    with tempfile.TemporaryDirectory() as name:
        base = Path(name)
        (base / "queue-program").write_text(QUEUE)
        (base / "queue-program").chmod(0o755)
        (base / "lists").write_text("e@f.example.org\ng@h.i\n")
        yield base


@pytest.mark.contract(*(f"inject 1.{row}" for row in (*range(1, 15), 16, 17, 18, 19, 20, 21)))
@pytest.mark.contract("inject 1", *(f"inject 5.{case}" for case in (1, 2, 3, 4, 6, 10, 11)))
@pytest.mark.parametrize("run", RUNS, ids=[run.title for run in RUNS])
def test_a_run(run: Run, home: Path) -> None:
    (home / "input").write_bytes(run.input)
    own = {b"QMAIL_HOME": bytes(home), b"QMAILQUEUE": bytes(home / "queue-program"), b"OUT": bytes(home)}
    code = in_child(run, home, {b"PATH": b"/usr/bin:/bin", **VARIABLES, **own, **run.environ})
    queued, envelope = home / "queued", home / "envelope"
    printed = (home / "output").read_bytes()
    assert without_clock(queued.read_bytes() if queued.exists() else printed) == run.output
    assert (home / "errors").read_bytes() == run.errors
    assert code == run.code
    if run.envelope is None:
        assert not envelope.exists()
        return
    shown = without_clock(envelope.read_bytes()).decode("latin-1")
    assert "|".join(part.encode("unicode_escape").decode() for part in shown.split("\0")) == run.envelope


def test_the_tables_are_whole() -> None:
    assert len(list(address_rows())) == 298
    assert len(RUNS) == 134
    assert len({run.title for run in RUNS}) == 134
