"""What the status page says of our domains in DNS, and who looks."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyqmail.look.dns_part import dns_part
from pyqmail.look.dns_watch import DnsState, parse_state
from tests.look.metrics_server import Metrics
from tests.nameserver import nameserver, own_network
from tests.programs.tcp_servers import gone
from tests.public_directory import public_directory
from tests.waiting import wait_for

HOSTILE = "<script>alert(1)</script>\x1b[2J"
FOUND = (("a.test", "mx", False, HOSTILE), (HOSTILE, "spf", True, "passes"))


def page(state: DnsState | None) -> str:
    return "\n".join(dns_part(state))


def test_what_is_amiss_stands_first_and_all_else_is_folded_away() -> None:
    html = page(DnsState(1_795_392_000.0, 12.0, findings=FOUND))
    assert "<b>1 of 2</b> checks" in html and "in 12.0 s.</p>" in html
    assert "<script" not in html and "\x1b" not in html
    before, _, folded = html.partition("<details>")
    assert ">mx</td>" in before and ">spf</td>" in folded and ">spf</td>" not in before


def test_a_look_that_is_not_done_or_cannot_be_is_said() -> None:
    assert page(None) == ""
    assert "under way" in page(DnsState())
    assert "not enough for all" in page(DnsState(1.0, 300.0, whole=False))
    assert "None of 0 checks" in page(DnsState(1.0, 1.0))
    assert "&lt;script" in page(DnsState(1.0, 0.1, error=HOSTILE))


@pytest.mark.parametrize(
    "line",
    [
        b"", b"[", b"null", b"[1,2,true,\"\",[[1]]]", b"[NaN,1,true,\"\",[]]", b"[1,1e300,true,\"\",[]]",
        b"[1,1,1,\"\",[]]", b'[1,1,true,"",[["a","b",0,"c"]]]', b"[" * 100_000,
    ],
)  # fmt: skip
def test_what_is_no_look_is_not_taken_for_one(line: bytes) -> None:
    with pytest.raises(ValueError):
        parse_state(line)


def test_a_look_survives_its_line() -> None:
    assert parse_state(json.dumps([5.5, 1.0, True, "", FOUND]).encode()) == DnsState(5.5, 1.0, findings=FOUND)


@pytest.fixture
def home() -> Iterator[Path]:
    """A tree that the verifier's user can read, and our domain in a name server."""
    address = own_network() + ".43"
    controls = {"me": "mx.good.test", "locals": "good.test", "outgoingip": "192.0.2.25", "dnsservers": address}
    zones = {"test": [], "good.test": ["@ MX 10 mx", "mx A 192.0.2.25", '@ TXT "v=spf1 mx -all"']}
    with public_directory() as made, nameserver(address, zones):
        for part in ("mess", "info", "local", "remote"):
            (made / "queue" / part / "0").mkdir(parents=True)
        (made / "control").mkdir()
        for name, text in controls.items():
            (made / "control" / name).write_text(text + "\n")
        yield made


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a name server at port 53, and users to become")
@pytest.mark.skipif(not shutil.which("nsd") and "PYQMAIL_TESTS_WHOLE" not in os.environ, reason="needs nsd")
def test_our_domain_is_looked_at_beside_the_page_and_nobody_stays(home: Path) -> None:
    with Metrics(home, looks_at_dns=True) as metrics:
        wait_for(lambda: watchers(metrics.pid), "the watcher to have its title")
        (watcher,) = watchers(metrics.pid)
        wait_for(lambda: "mail from 192.0.2.25 passes by mx" in metrics.get("/")[1], "the first look")
        html = metrics.get("/")[1]
    amiss, _, fine = html.partition("<details>")
    assert "not signed" in amiss and "large receivers" in amiss and "passes by mx" in fine
    wait_for(lambda: gone(watcher), "the end of the watcher")


def watchers(pid: int) -> list[int]:
    """The children of that qmail-metrics that look at names."""
    children = map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
    return [
        child for child in children if Path(f"/proc/{child}/cmdline").read_bytes().startswith(b"qmail-metrics: DNS")
    ]
