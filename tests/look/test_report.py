"""A day in figures: given these lines, what does the report say, and is strangers' text only text?"""

import email
import email.policy
import os
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from pyqmail.log.bulk import Bulk
from pyqmail.log.counts import add_item
from pyqmail.log.joiner import Joiner
from pyqmail.log.stamps import parse_line
from pyqmail.look.report import Report, size
from pyqmail.look.summary import DAY_S, Summary
from tests.log.test_bulk import lines as lines_of_a_log

PROGRAM = str(Path(__file__).resolve().parents[2] / "bin" / "qmail-report")
BEGIN = 1_795_392_000  # 2026-11-23 00:00 UTC
HOSTILE = "<script>alert(1)</script>\x1b[2J=1+1"
LINES = [
    (60, "qmail-smtpd: accepted ip=192.0.2.1 helo=c from=<bob@client.test> to=<ann@a.test> bytes=211 qp=77"),
    (61, "new msg 5"),
    (61, "info msg 5: bytes 211 from <bob@client.test> qp 77 uid 1002"),
    (62, "starting delivery 1: msg 5 to local ann@a.test"),
    (63, "starting delivery 2: msg 5 to remote joe@B.test"),
    (64, "delivery 1: success: did_1+0+0/"),
    (65, "delivery 2: deferral: no_luck/"),
    (7300, "starting delivery 3: msg 5 to remote joe@b.test"),
    (7301, "delivery 3: failure: " + HOSTILE + "/"),
    (7301, "bounce msg 5 qp 79"),
    (7301, "end msg 5"),
    (7400, "qmail-smtpd: accepted ip=::1 helo=c from=<e@x> to=<a@a.test> bytes=9 qp=8 encrypted=TLSv1.3 authuser=e"),
    (7500, "qmail-smtpd: refused ip=192.0.2.66 helo=x from=<s@p.test> to=<a@z.test> reason=553_sorry"),
    (7600, "warning: unable to stat " + HOSTILE),
    (DAY_S + 5, "alert: of the next day"),
]


def stamped(lines: Sequence[tuple[int, str]]) -> list[str]:
    return [f"@{(1 << 62) + 10 + BEGIN + second:016x}00000000 {line}" for second, line in lines]


def summed_up() -> Summary:
    summary, joiner = Summary(BEGIN, BEGIN + DAY_S), Joiner()
    for line in stamped(LINES):
        when, event = parse_line(line)
        for item in joiner.take(when, event):
            add_item(summary, when, item)
    return summary


@pytest.fixture
def report() -> Report:
    return Report("mx.example.test", summed_up(), time.gmtime)


def test_the_figures_are_those_of_the_day(report: Report) -> None:
    assert report.title == "Mail of mx.example.test, 2026-11-23"
    assert dict(report.figures()) == {
        "messages ended": "1",
        "bytes": "211 B",
        "success": "1",
        "deferral": "1",
        "failure": "1",
        "bounced": "1",
        "accepted at the doors": "2",
        "refused": "1",
        "with TLS": "50 %",
        "authenticated": "50 %",
        "delay, median": "3.0 s",
        "delay, 95%": "3.0 s",
        "alerts and warnings": "1",
    }
    steps = summed_up().steps
    assert len(steps) == 24
    assert [(step.accepted, step.refused) for step in steps[:3]] == [(1, 0), (0, 0), (1, 1)]


def test_the_text_has_no_control_characters(report: Report) -> None:
    text = report.text()
    assert "\x1b" not in text and "0         1         1  b.test" in text
    assert "        1  553 sorry" in text


def test_the_page_shows_strangers_text_as_text_and_needs_nothing_else(report: Report) -> None:
    page = report.html()
    assert "<script" not in page and "\x1b" not in page and "&lt;script&gt;" in page
    assert "http:" not in page and "https:" not in page and "src=" not in page
    assert page.count("<svg") == page.count("</svg>") == 2


def test_a_mail_has_both_and_short_lines(report: Report) -> None:
    data = report.mail("postmaster")
    message = email.message_from_bytes(data, policy=email.policy.default)
    assert (message["To"], message["Subject"]) == ("postmaster", report.title)
    assert [part.get_content_type() for part in message.walk()] == ["multipart/alternative", "text/plain", "text/html"]
    assert max(map(len, data.splitlines())) < 200
    parts = [part.get_content() for part in message.iter_parts()]
    assert parts == [report.text(), report.html()]


@pytest.mark.parametrize("seed", range(5))
def test_a_long_log_is_summed_up_quickly_and_in_halves_to_the_same(seed: int) -> None:
    text = list(lines_of_a_log(seed))
    span = 1_790_000_000, 1_790_000_300  # of those lines

    def told(summary: Summary) -> str:
        return Report("h", summary, time.gmtime).html()

    slow, joiner = Summary(*span, 60), Joiner()
    for line in text:
        when, event = parse_line(line)
        for item in joiner.take(when, event):
            add_item(slow, when, item)
    assert slow.totals["messages"] > 10 and slow.happened("failure") and slow.happened("accepted")
    for cut in (0, 100, 200):
        first, second = Bulk(Summary(*span, 60)), Bulk(Summary(*span, 60), inside=True)
        first.feed("".join(f"{line}\n" for line in text[:cut]).encode())
        second.feed("".join(f"{line}\n" for line in text[cut:]).encode())
        first.go_on(second)
        assert told(first.counts) == told(slow)


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (9999, "9999 B"), (10_000, "10 kB"), (25 * 10**6, "25 MB"), (10**10, "10.0 GB")]
)
def test_sizes(count: int, text: str) -> None:
    assert size(count) == text


def run(*words: str, home: Path) -> subprocess.CompletedProcess[str]:
    environ = {"QMAIL_HOME": str(home), "PATH": os.environ["PATH"]}
    return subprocess.run([PROGRAM, *words], env=environ, capture_output=True, text=True, check=False, timeout=60)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "control").mkdir()
    (tmp_path / "control/me").write_text("mx.example.test\n")
    (tmp_path / "log").write_text("".join(line + "\n" for line in stamped(LINES)))
    return tmp_path


def test_the_program_prints_writes_and_sends(home: Path, report: Report) -> None:
    day = ["day", "--utc", "--until", "2026-11-23", str(home / "log")]
    done = run(*day, home=home)
    assert (done.returncode, done.stdout, done.stderr) == (0, report.text(), "")
    assert run(*day, "--html", str(home / "page.html"), home=home).stdout == ""
    assert (home / "page.html").read_text() == report.html()
    (home / "bin").mkdir()
    (home / "bin/qmail-inject").write_text(f"#!/bin/sh\ncat >{home}/sent\n")
    (home / "bin/qmail-inject").chmod(0o755)
    assert run(*day, "--mail", "postmaster", home=home).returncode == 0
    assert b"Subject: Mail of mx.example.test, 2026-11-23\n" in (home / "sent").read_bytes()
    (home / "bin/qmail-inject").write_text("#!/bin/sh\nexit 111\n")
    assert run(*day, "--mail", "postmaster", home=home).returncode == 111


def test_a_week_has_seven_days(home: Path) -> None:
    done = run("week", "--utc", "--until", "2026-11-24", str(home / "log"), home=home)
    assert done.stdout.startswith("Mail of mx.example.test, 2026-11-18 to 2026-11-24\n")
    assert "           2  alerts and warnings" in done.stdout


def test_what_cannot_be_is_said(home: Path) -> None:
    (home / "other").write_text("nothing of ours\n")
    assert run("day", str(home / "other"), home=home).returncode == 1
    missing = run("day", str(home / "none"), home=home)
    assert (missing.returncode, missing.stderr) == (111, f"qmail-report: {home}/none: No such file or directory\n")
    assert run("day", "--until", "soon", str(home / "log"), home=home).returncode == 100
