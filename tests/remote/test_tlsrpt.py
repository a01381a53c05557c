"""TLSRPT: what tlsrpt-collectd, of tlsrpt-reporter, makes of what it is told."""

import contextlib
import json
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pyqmail.remote.tlsrpt import kind_of
from tests.mail_sink import Answer, accept_all
from tests.remote.policy_daemon import Answers, offers
from tests.scripted_peers import dns_peer
from tests.waiting import wait_for

RUN = "import sys\nfrom tlsrpt_reporter.tlsrpt import tlsrpt_collectd_main\nsys.exit(tlsrpt_collectd_main())"
RECORD = "v=TLSRPTv1; rua=mailto:tls@x.test"
ENFORCED = b"OK secure match=mx.x.test servername=hostname"


class Collector:
    """A running tlsrpt-collectd."""

    def __init__(self, base: Path) -> None:
        self.socket, self._database = base / "socket", base / "database"
        words = ["--storage", f"sqlite://{self._database}", "--socketname", str(self.socket)]
        words += ["--logfilename", str(base / "log"), "--log_level", "info", "--max_uncommited_datagrams", "1"]
        self.process = subprocess.Popen([sys.executable, "-c", RUN, *words])
        # It moves its first database away and makes a second one, which fails where anybody has the first one open.
        wait_for(lambda: self._made() == 2 or self.process.poll() is not None, "tlsrpt-collectd")
        assert self.process.poll() is None

    def _made(self) -> int:
        """How many databases it has made."""
        log = self._database.with_name("log")
        return log.read_text().count("setup finished") if log.exists() else 0

    def _rows(self, query: str) -> list[tuple[str, ...]]:
        with contextlib.closing(sqlite3.connect(self._database)) as database:
            return database.execute(query).fetchall()

    def told(self) -> tuple[str, str, dict[str, object], int]:
        """Domain, record, policy and whether it failed, of the one connection that it was told of."""
        wait_for(lambda: self._rows("SELECT day FROM finalresults"), "what was told")
        ((domain, record, policy, failed),) = self._rows(
            "SELECT domain, tlsrptrecord, policy, cntrfailure FROM finalresults"
        )
        return domain, record, json.loads(policy), int(failed)

    def reasons(self) -> list[dict[str, object]]:
        """What went wrong."""
        return [json.loads(reason) for (reason,) in self._rows("SELECT reason FROM failures")]


@pytest.fixture
def collector(tmp_path: Path) -> Iterator[Collector]:
    base = tmp_path / "collector"
    base.mkdir()
    found = Collector(base)
    try:
        yield found
    finally:
        found.process.terminate()
        found.process.wait(30)


@pytest.mark.parametrize(
    ("answers", "offer", "kind", "code"),
    [
        pytest.param((ENFORCED, b"mx.x.test", True), offers, 2, None, id="as the policy asks"),
        pytest.param((ENFORCED, b"mx.x.test", False), offers, 2, 203, id="a certificate that nobody trusts"),
        pytest.param((ENFORCED, b"mx.x.test", True), accept_all, 2, 201, id="no TLS where it must be"),
        pytest.param((b"NOTFOUND ", b"mx.x.test", True), offers, 9, None, id="no policy"),
        pytest.param((b"NOTFOUND ", b"mx.x.test", True), accept_all, 9, 201, id="no policy, and no TLS"),
    ],
)
def test_what_the_collector_knows(
    deliver: Callable[..., bytes],
    collector: Collector,
    answers: Answers,
    offer: Answer,
    kind: int,
    code: int | None,
) -> None:
    with dns_peer({("_smtp._tls.x.test.", "TXT"): [f'"{RECORD}"']}) as dns:
        deliver(answers, offer, tlsrpt=str(collector.socket), dnsservers=f"127.0.0.1:{dns.port}")
    policy = {"policy-type": kind, "policy-domain": "x.test"}
    assert collector.told() == ("x.test", RECORD, policy, int(code is not None))
    reasons = collector.reasons()
    assert [(each["c"], each["r"], each["n"]) for each in reasons] == (
        [(code, "127.0.0.1", "mx.x.test")] if code else []
    )


def test_no_mail_waits_for_a_collector_that_is_away(deliver: Callable[..., bytes], tmp_path: Path) -> None:
    with dns_peer({("_smtp._tls.x.test.", "TXT"): [f'"{RECORD}"']}) as dns:
        away = {"tlsrpt": str(tmp_path / "nothing"), "dnsservers": f"127.0.0.1:{dns.port}"}
        assert deliver((b"NOTFOUND ", b"mx.x.test", True), **away).startswith(b"r\0K")


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ("certificate: it is for another name", 202),
        ("certificate: certificate has expired", 204),
        ("certificate: unable to get local issuer certificate", 203),
        ("STARTTLS is rejected", 201),
        ("no shared cipher", 205),
    ],
)
def test_kinds_of_failures(words: str, kind: int) -> None:
    assert kind_of(words) == kind
