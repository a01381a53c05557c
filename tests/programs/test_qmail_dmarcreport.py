"""qmail-dmarcreport as a process: a day is reported once, to those who ask and agree, and an outage makes it wait."""

import email
import gzip
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyqmail.mailauth.report_events import DAY_S, append
from tests.mailauth.test_aggregate_report import BAD, GOOD
from tests.programs.queue_program import write_queue_program
from tests.scripted_peers import DnsPeer, dns_peer

BIN = Path(__file__).parents[2] / "bin"
RECORD = '"v=DMARC1; p=reject; rua=mailto:d@a.test,mailto:d@takes.test!1,mailto:d@victim.test"'  # a size is passed over


@pytest.fixture
def names() -> Iterator[DnsPeer]:
    zone = {
        ("_dmarc.a.test.", "TXT"): [RECORD],
        ("a.test._report._dmarc.takes.test.", "TXT"): ['"v=DMARC1"'],
    }
    with dns_peer(zone) as peer:
        yield peer


@pytest.fixture
def home(single_user_home: Path, names: DnsPeer) -> Path:
    control = {"dmarcreports": "dmarc@mx.example.test", "dnsservers": f"127.0.0.1:{names.port}"}
    for name, text in control.items():
        (single_user_home / "control" / name).write_text(text + "\n")
    events = single_user_home / "run" / "dmarc"
    events.mkdir(parents=True)
    for event in (GOOD, BAD):
        append(str(events), event, time.time() - DAY_S)
    write_queue_program(single_user_home / "queue")
    return single_user_home


def run(home: Path, *words: str, **environ: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-ISXutf8", str(BIN / "qmail-dmarcreport"), *words]
    variables = {"PATH": os.environ["PATH"], "QMAIL_HOME": str(home), "QMAILQUEUE": str(home / "queue"), **environ}
    return subprocess.run(command, env=variables | {"OUT": str(home)}, capture_output=True, timeout=60, check=False)


def test_yesterday_is_reported_once(home: Path) -> None:
    done = run(home)
    assert (done.returncode, done.stderr) == (0, b"")
    assert (home / "envelope").read_text() == "Fdmarc@mx.example.test|Td@a.test|Td@takes.test||"
    message = email.message_from_bytes((home / "queued").read_bytes())
    subject = " ".join(message["subject"].split())
    assert subject.startswith("Report Domain: a.test Submitter: mx.example.test Report-ID: <")
    text, attached = message.get_payload()
    assert attached.get_content_type() == "application/gzip"
    begin = int(time.time() - DAY_S) // DAY_S * DAY_S
    assert attached.get_filename() == f"mx.example.test!a.test!{begin}!{begin + DAY_S - 1}.xml.gz"
    assert gzip.decompress(attached.get_payload(decode=True)).count(b"<record>") == 2
    (home / "envelope").unlink()
    assert run(home).returncode == 0 and not (home / "envelope").exists()
    assert os.listdir(home / "run" / "dmarc") == []


def test_today_is_not_over(home: Path) -> None:
    for path in (home / "run" / "dmarc").iterdir():
        path.unlink()
    append(str(home / "run" / "dmarc"), GOOD, time.time())
    assert run(home).returncode == 0 and not (home / "envelope").exists()
    assert len(os.listdir(home / "run" / "dmarc")) == 1


@pytest.mark.parametrize("what", ["queue", "names"])
def test_what_cannot_be_sent_now_stays_due(home: Path, names: DnsPeer, what: str) -> None:
    if what == "queue":
        assert run(home, QUEUE_EXIT="71").returncode == 111
    else:
        (home / "control" / "dnsservers").write_text("127.0.0.1:1\n")  # nobody is there
        done = run(home)
        assert done.returncode == 111 and b"a.test: no answer" in done.stderr
        (home / "control" / "dnsservers").write_text(f"127.0.0.1:{names.port}\n")
    (home / "envelope").unlink(missing_ok=True)
    assert run(home).returncode == 0 and (home / "envelope").exists()


def test_without_an_address_of_ours_nothing_is_sent(home: Path) -> None:
    (home / "control" / "dmarcreports").unlink()
    assert run(home).returncode == 0 and not (home / "envelope").exists()


def test_wrong_words(home: Path) -> None:
    assert run(home, "-n", "yesterday").returncode == 100
