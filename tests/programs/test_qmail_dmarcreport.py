"""qmail-dmarcreport as a process: a day is reported once, to those who ask and agree, and an outage makes it wait.

With PYQMAIL_TESTS_LONG parsedmarc, which pip fetches, reads the mail that goes out.
"""

import email
import gzip
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pyqmail.mailauth.report_events import DAY_S, Event, append
from tests.mailauth.test_aggregate_report import BAD, GOOD
from tests.programs.queue_program import write_queue_program
from tests.scripted_peers import DnsPeer, dns_peer

ROOT = Path(__file__).parents[2]
BIN = ROOT / "bin"
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


SIGNATURES = (("list.test", "old", "fail"), ("a.test", "s", "pass"))
SEEN = {  # and how often
    GOOD: 3,
    BAD: 1,
    replace(GOOD, disposition="pass", spf=True, spf_domain="a.test", spf_result="pass", signatures=SIGNATURES): 2,
    replace(BAD, disposition="none", reason="local_policy", signatures=(SIGNATURES[0],)): 1,
    replace(BAD, disposition="none", reason="policy_test_mode", spf_domain="b.test", spf_result="temperror"): 1,
    replace(BAD, disposition="quarantine", author="a.test", spf_domain="c.test", spf_result="fail"): 1,
}


def install_parsedmarc(place: Path) -> list[str]:
    """The command, in a place of its own; dkimpy, which has no wheel, is Debian's."""
    words = ["--require-hashes", "--only-binary", ":all:", "--no-deps", "-r", str(ROOT / "tests" / "parsedmarc.lock")]
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "--target", str(place), *words], check=True)
    (place / "dkim").symlink_to("/usr/lib/python3/dist-packages/dkim")
    return ["env", f"PYTHONPATH={place}", sys.executable, "-S", str(place / "bin" / "parsedmarc")]


def report_on(home: Path, seen: Mapping[Event, int]) -> subprocess.CompletedProcess[bytes]:
    """The program, after a day of these events."""
    directory = home / "run" / "dmarc"
    for path in directory.iterdir():
        path.unlink()
    for event, count in seen.items():
        for _ in range(count):
            append(str(directory), event, time.time() - DAY_S)
    return run(home)


def told(record: Mapping[str, Any]) -> dict[str, object]:
    """What parsedmarc says of a record, less what it knows of the address and the period."""
    names = ("count", "alignment", "policy_evaluated", "identifiers", "auth_results")
    return {"ip": record["source"]["ip_address"], **{name: record[name] for name in names}}


def by_text(records: Iterable[dict[str, object]]) -> list[dict[str, object]]:
    return sorted(records, key=str)


def said_of(event: Event, count: int) -> dict[str, object]:
    """What parsedmarc is to say of an event; it says nothing of SPF without a domain."""
    spf = [{"domain": event.spf_domain, "scope": "mfrom", "result": event.spf_result, "human_result": None}]
    keys = ("domain", "selector", "result")
    return {
        "ip": event.ip,
        "count": count,
        "alignment": {"spf": event.spf, "dkim": event.dkim, "dmarc": event.spf or event.dkim},
        "policy_evaluated": {
            "disposition": event.disposition,
            "dkim": "pass" if event.dkim else "fail",
            "spf": "pass" if event.spf else "fail",
            "policy_override_reasons": [{"type": event.reason, "comment": None}] if event.reason else [],
        },
        "identifiers": {
            "header_from": event.author,
            "envelope_from": event.spf_domain or None,
            "envelope_to": None,
        },
        "auth_results": {
            "dkim": [dict(zip(keys, each, strict=True), human_result=None) for each in event.signatures],
            "spf": spf if event.spf_domain else [],
        },
    }


if os.environ.get("PYQMAIL_TESTS_LONG"):

    def test_parsedmarc_reads_what_two_hosts_send(home: Path, tmp_path: Path) -> None:
        """It takes mx and mx2 for one organization, and drops what it takes for the same report."""
        with open(tmp_path / "mbox", "wb") as mbox:
            for host in ("mx.example.test", "mx2.example.test"):
                (home / "control" / "me").write_text(f"{host}\n")
                assert report_on(home, SEEN).returncode == 0
                mbox.write(b"From dmarc Thu Jan  1 00:00:00 1970\n" + (home / "queued").read_bytes() + b"\n")
        command = [*install_parsedmarc(tmp_path / "parsedmarc"), "--offline", str(tmp_path / "mbox")]
        done = subprocess.run(["unshare", "--map-root-user", "--net", *command], capture_output=True, check=True)
        found = json.loads(done.stdout)
        assert len(found["aggregate_reports"]) == 2 and found["failure_reports"] == found["smtp_tls_reports"] == []
        for report in found["aggregate_reports"]:
            meta, policy = report["report_metadata"], report["policy_published"]
            assert (meta["org_name"], meta["org_email"]) == ("example.test", "dmarc@mx.example.test")
            assert (meta["generator"], meta["errors"]) == ("pyqmail", [])
            assert meta["begin_date"][11:] == "00:00:00" and meta["end_date"][11:] == "23:59:59"
            assert [policy[name] for name in ("domain", "p", "sp", "np", "adkim", "aspf", "testing")] == [
                "a.test", "reject", "reject", "reject", "r", "r", "n",
            ]  # fmt: skip
            assert policy["discovery_method"] == "treewalk"
            assert by_text(map(told, report["records"])) == by_text(said_of(*seen) for seen in SEEN.items())
