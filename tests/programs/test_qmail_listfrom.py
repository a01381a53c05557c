"""qmail-listfrom in front of a list's program, which is called as ezmlm-idx documents it: ezmlm-send DIR."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.scripted_peers import DnsPeer, dns_peer

BIN = Path(__file__).parents[2] / "bin"
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
