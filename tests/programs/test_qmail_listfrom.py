"""qmail-listfrom in front of a list's program, called as ezmlm-idx does it: ezmlm-send DIR, or by a line of editor."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.scripted_peers import DnsPeer, dns_peer

ROOT = Path(__file__).parents[2]
BIN = ROOT / "bin"
STRICT = b"From: Ann <ann@strict.test>\nSubject: x\n"
BODY = b"\nFrom: nobody@strict.test\n" + b"text\n" * 30000


@pytest.fixture
def names() -> Iterator[DnsPeer]:
    zone = {("_dmarc.strict.test.", "TXT"): ['"v=DMARC1; p=quarantine"']}
    with dns_peer(zone) as peer:
        yield peer


@pytest.fixture
def home(tmp_path: Path, names: DnsPeer) -> Path:
    (tmp_path / "control").mkdir()
    (tmp_path / "control" / "dnsservers").write_text(f"127.0.0.1:{names.port}\n")
    (tmp_path / "ezmlm-send").write_text('#!/bin/sh\ncat >"$1/sent"\nexit ${SENT:-0}\n')
    (tmp_path / "ezmlm-send").chmod(0o755)
    return tmp_path


def run(home: Path, text: bytes, *words: str, **environ: str) -> subprocess.CompletedProcess[bytes]:
    """The list's .qmail line with a message."""
    command = [sys.executable, "-ISXutf8", str(BIN / "qmail-listfrom"), *words]
    command += ["talk@lists.test", "./ezmlm-send", str(home)]
    variables = {"PATH": os.environ["PATH"], "QMAIL_HOME": str(home), **environ}
    return subprocess.run(command, input=text, env=variables, cwd=home, capture_output=True, timeout=60, check=False)


def test_the_lists_program_gets_the_lists_from_and_all_the_rest(home: Path) -> None:
    done = run(home, STRICT + BODY, "-n", "Small Talk")
    assert (done.returncode, done.stderr) == (0, b"")
    head = b"From: Ann via Small Talk\n\t<talk@lists.test>\nReply-To: Ann <ann@strict.test>\nSubject: x\n"
    assert (home / "sent").read_bytes() == head + BODY


def test_the_programs_of_version_7_get_it_too(home: Path) -> None:
    """By the manual page's command; both run ezmlm-send, and ezmlm-store stands behind a condition."""
    (command,) = re.findall(r"^(sed .*) editor$", (ROOT / "pyqmail/man/qmail-listfrom.8").read_text(), re.M)
    call = f"{sys.executable} -ISXutf8 {BIN / 'qmail-listfrom'} talk@lists.test"
    command = command.replace("/var/qmail/bin/qmail-listfrom list@example.org", call)
    (home / "editor").write_text(
        f"|test ! -f {home}/sublist && {home}/ezmlm-reject {home}\n"
        f"|if test -d {home}; then {home}/ezmlm-check {home} && {home}/ezmlm-store {home}; fi\n"
        f"|{home}/ezmlm-gate {home}\n"
    )
    subprocess.run(["sh", "-c", f"{command} editor"], cwd=home, check=True)
    os.symlink("/bin/true", home / "ezmlm-check")
    lines = (home / "editor").read_text().splitlines()
    assert lines[0].count("ezmlm") == 1 and "listfrom" not in lines[0]
    for line, program in ((lines[1], "ezmlm-store"), (lines[2], "ezmlm-gate")):
        (home / "ezmlm-send").rename(home / program)
        environ = {"PATH": os.environ["PATH"], "QMAIL_HOME": str(home)}
        subprocess.run(["sh", "-c", line[1:]], input=STRICT + BODY, env=environ, check=True, timeout=60)
        assert (home / "sent").read_bytes().startswith(b"From: Ann via talk\n\t<talk@lists.test>\n")
        (home / "sent").unlink()
        (home / program).rename(home / "ezmlm-send")


@pytest.mark.parametrize(
    "text", [b"From: bob@mild.test\n" + BODY, b"\nno header\n", b"", b"From: x@y", b"X: y\n" * 300000]
)
def test_others_come_through_as_they_are(home: Path, text: bytes) -> None:
    assert run(home, text).returncode == 0
    assert (home / "sent").read_bytes() == text


def test_the_programs_exit_code_is_the_answer(home: Path) -> None:
    assert run(home, STRICT + BODY, SENT="99").returncode == 99


def test_without_an_answer_the_message_waits(home: Path) -> None:
    (home / "control" / "dnsservers").write_text("127.0.0.1:1\n")  # nobody is there
    done = run(home, STRICT + BODY)
    assert done.returncode == 111 and b"nobody says" in done.stderr
    assert not (home / "sent").exists()


def test_words_that_are_no_call(home: Path) -> None:
    assert run(home, STRICT, "-x").returncode == 100
