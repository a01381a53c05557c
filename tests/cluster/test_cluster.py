"""The proof in its short form, the whole one with PYQMAIL_TESTS_LONG=1, and that its audit can fail."""

import os
import subprocess
import sys

import pytest

from tests.cluster.audit import Sent, accepted_by, audit
from tests.integration.mailhost import ROOT

BOTH, ANN = ("ann", "ben"), ("ann",)


def stored(body: bytes, node: str = "one.test") -> bytes:
    """A message as a mailbox has it, which a client gave to ``node``."""
    trace = f"Received: (qmail 1 invoked by uid 5)\nReceived: from x (10.0.0.1)\n  by {node} with ESMTP; 1 Jan 2026\n"
    return trace.encode() + b"Subject: x\n\n" + body


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: namespaces")
def test_nothing_that_was_accepted_is_lost_whatever_dies() -> None:
    form = [] if os.environ.get("PYQMAIL_TESTS_LONG") else ["--short"]
    words = [sys.executable, "-m", "tests.cluster", *form]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=900)
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "lost: 0\n" in done.stdout and "is lost, and its queue" in done.stdout


@pytest.mark.parametrize(("words", "code"), [(["--help"], 0), (["--shrt"], 2)], ids=["help", "another word"])
def test_who_asks_for_help_or_mistypes_starts_nothing(words: list[str], code: int) -> None:
    done = subprocess.run([sys.executable, "-m", "tests.cluster", *words], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == code and "--short" in done.stdout + done.stderr
    assert " s  " not in done.stdout


def test_the_audit_finds_what_an_accepted_message_did_not_reach() -> None:
    sent = [Sent(b"one\r\n", BOTH, accepted=True), Sent(b"two\r\n", BOTH)]
    report = audit(sent, {"ann": [stored(b"one\n")], "ben": [stored(b"on\n")]}, ())
    assert (report.lost, report.deliveries, dict(report.nodes)) == (["ben"], 1, {"one.test": 1})


@pytest.mark.parametrize(
    ("unanswered", "lost_nodes", "explained"),
    [
        (0, (), 0),
        (1, (), 1),
        (0, ("one.test",), 1),
        (0, ("two.test",), 0),
    ],
)
def test_a_copy_too_many_has_a_reason_or_is_a_fault(
    unanswered: int, lost_nodes: tuple[str, ...], explained: int
) -> None:
    sent = [Sent(b"one\r\n", ANN, unanswered, accepted=True)]
    report = audit(sent, {"ann": [stored(b"one\n")] * 2, "ben": [stored(b"one\n")]}, lost_nodes)
    assert report.explained.total() == explained and len(report.unexplained) == 1 - explained
    assert not report.lost


def test_the_node_of_a_message_is_that_of_its_oldest_field() -> None:
    assert accepted_by(stored(b"x", "two.test").replace(b"\n", b"\r\n")) == "two.test"
    assert accepted_by(b"Received: from a\n  by new.test with SMTP\n" + stored(b"x", "old.test")) == "old.test"
    assert accepted_by(b"Subject: x\n\n  by body.test with SMTP") == ""
