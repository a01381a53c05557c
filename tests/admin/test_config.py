"""config, config-fast and qmail-newmrh: the files they write, and that bad input changes nothing."""

import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from dns.rcode import NXDOMAIN, SERVFAIL

from pyqmail.admin.first_controls import RECOMMENDED, SAID_OF_SENDERS, default_domain, plus_domain, usable_name
from pyqmail.formats.cdb import Cdb
from tests.scripted_peers import dns_peer

ROOT = Path(__file__).resolve().parents[2]
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a host name of its own")


def program(name: str, home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a program of the checkout for ``home``."""
    command = [str(ROOT / "bin" / name), *words]
    return subprocess.run(command, env={"QMAIL_HOME": str(home)}, capture_output=True, text=True, timeout=60)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home with an empty control directory."""
    (tmp_path / "control").mkdir()
    return tmp_path


def controls(home: Path) -> dict[str, str]:
    """What the control directory holds."""
    return {path.name: path.read_text() for path in (home / "control").iterdir()}


NAMES = [
    ("mx.example.org", "example.org", "example.org"),
    ("a.b.c.example.org", "b.c.example.org", "example.org"),
    ("example.org", "example.org", "example.org"),
    ("localhost", "localhost", "localhost"),
]


@pytest.mark.contract("control 4.1")
@pytest.mark.parametrize(("name", "domain", "plus"), NAMES, ids=[row[0] for row in NAMES])
def test_config_fast_writes_the_names(home: Path, name: str, domain: str, plus: str) -> None:
    result = program("config-fast", home, name)
    assert (result.returncode, result.stderr) == (0, "")
    line = f"{name}\n"
    assert controls(home) == {
        "me": line, "defaultdomain": f"{domain}\n", "plusdomain": f"{plus}\n", "locals": line, "rcpthosts": line,
        "remotereuse": "2\n", "remotebatch": "50\n", "remotelimits": "*::\n",
        "spfbehavior": "1\n", "dmarcbehavior": "1\n",
    }  # fmt: skip
    assert {stat.S_IMODE(path.stat().st_mode) for path in (home / "control").iterdir()} == {0o644}
    assert f"Putting {name} into control/me..." in result.stdout
    assert (default_domain(name.encode()), plus_domain(name.encode())) == (domain.encode(), plus.encode())


def test_a_tree_that_has_a_name_gets_nothing_new(home: Path) -> None:
    (home / "control/me").write_text("old.example\n")
    assert program("config-fast", home, "mx.example.org").returncode == 0
    assert not {*RECOMMENDED, *SAID_OF_SENDERS} & set(controls(home))


@pytest.mark.contract("control 4.1")
def test_config_fast_appends_to_the_lists_each_time_and_keeps_what_is_there(home: Path) -> None:
    (home / "control" / "locals").write_text("other.example")  # without a final LF
    for _ in range(2):
        assert program("config-fast", home, "mx.example.org").returncode == 0
    assert controls(home)["locals"] == "other.example\nmx.example.org\nmx.example.org\n"
    assert controls(home)["rcpthosts"] == "mx.example.org\nmx.example.org\n"
    assert controls(home)["me"] == "mx.example.org\n"


BAD_NAMES = ["", "a b.example", "../etc", "mx..example", "mx.example.", "-x", "mx.example\nroot", "é.example", "x" * 64]


@pytest.mark.parametrize("name", BAD_NAMES, ids=[repr(name[:12]) for name in BAD_NAMES])
def test_a_name_that_no_host_can_have_is_refused_and_nothing_written(home: Path, name: str) -> None:
    result = program("config-fast", home, name)
    assert (result.returncode, result.stdout, controls(home)) == (100, "", {})
    assert result.stderr.endswith("nothing was written\n") and result.stderr.count("\n") == 1
    assert not usable_name(name.encode())


def test_config_fast_without_a_name_or_a_home_says_so(home: Path) -> None:
    assert program("config-fast", home).returncode == 100
    result = program("config-fast", home / "nowhere", "mx.example.org")
    assert (result.returncode, result.stderr) == (
        111, f"config-fast: fatal: {home}/nowhere/control/.: No such file or directory\n",
    )  # fmt: skip


@pytest.fixture
def dns_server(home: Path, request: pytest.FixtureRequest) -> Iterator[None]:
    """A name server that control/dnsservers names; without a zone it is in trouble."""
    with dns_peer(request.param or {}, unknown=SERVFAIL if request.param is None else NXDOMAIN) as peer:
        (home / "control" / "dnsservers").write_text(f"127.0.0.1:{peer.port}\n")
        yield


def config(home: Path) -> subprocess.CompletedProcess[str]:
    """Run config on a host that calls itself MX1, with the loopback interface up and no other."""
    script = f"ip link set lo up && hostname MX1 && exec {ROOT}/bin/config"
    words = ["unshare", "-u", "sh", "-c", script]
    return subprocess.run(words, env={"QMAIL_HOME": str(home), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
                          capture_output=True, text=True, timeout=60)  # fmt: skip


GOOD = {
    ("mx1.", "A"): ["192.0.2.7"],
    ("7.2.0.192.in-addr.arpa.", "PTR"): ["MX.Example.Org."],
    ("mx.example.org.", "A"): ["192.0.2.7"],
    ("1.0.0.127.in-addr.arpa.", "PTR"): ["localhost."],
}


@needs_root
@pytest.mark.contract("control 4.2")
@pytest.mark.usefixtures("dns_server")
@pytest.mark.parametrize("dns_server", [GOOD], indirect=True, ids=["good"])
def test_config_asks_forward_and_back(home: Path) -> None:
    (home / "control" / "locals").write_text("old.example\n")
    result = config(home)
    assert (result.returncode, result.stderr) == (0, "")
    found = controls(home)
    assert found["me"] == "mx.example.org\n"
    assert (found["defaultdomain"], found["plusdomain"]) == ("example.org\n", "example.org\n")
    assert found["locals"] == "localhost\nMX.Example.Org\n"
    assert found["rcpthosts"] == found["locals"]
    assert (found["remotereuse"], found["remotebatch"]) == ("2\n", "50\n")
    assert "0.0.0.0: has no name in DNS; left out." in result.stdout


FAILURES = [
    ("no such host", {}, 100),
    ("an address without a name", {("mx1.", "A"): ["192.0.2.7"]}, 100),
    ("a server in trouble", None, 111),
    ("a hostile name", {("mx1.", "A"): ["192.0.2.7"], ("7.2.0.192.in-addr.arpa.", "PTR"): ["a\\010b."]}, 100),
]


@needs_root
@pytest.mark.contract("control 4.2")
@pytest.mark.parametrize(
    ("dns_server", "code"), [row[1:] for row in FAILURES], indirect=["dns_server"], ids=[row[0] for row in FAILURES]
)
@pytest.mark.usefixtures("dns_server")
def test_config_writes_nothing_when_dns_does_not_lead_back(home: Path, code: int) -> None:
    result = config(home)
    assert result.returncode == code
    assert list(controls(home)) == ["dnsservers"]
    assert "Nothing was written." in result.stdout
    assert result.stderr in ("config: hard error\n", "config: soft error\n")


# qmail-newmrh


@pytest.mark.contract("control 2.18", "control 7.9")
def test_newmrh_compiles_lower_case_lines_without_blanks_and_comments(home: Path) -> None:
    (home / "control" / "morercpthosts").write_bytes(b"Example.ORG \t\n# no\n\n.sub.example\nlast")
    result = program("qmail-newmrh", home)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    made = home / "control" / "morercpthosts.cdb"
    assert stat.S_IMODE(made.stat().st_mode) == 0o644
    assert not (home / "control" / "morercpthosts.tmp").exists()
    with made.open("rb") as file:
        database = Cdb(file.fileno())
        found = [database.get(key) for key in (b"example.org", b".sub.example", b"last", b"# no", b"Example.ORG")]
    assert found == [b"", b"", b"", None, None]


def test_newmrh_leaves_the_old_database_when_it_fails(home: Path) -> None:
    result = program("qmail-newmrh", home)
    assert result.returncode == 111
    assert result.stderr == "qmail-newmrh: fatal: unable to read control/morercpthosts: no such file or directory\n"
    (home / "control" / "morercpthosts").write_text("a.example\n")
    (home / "control" / "morercpthosts.cdb").write_text("old")
    (home / "control" / "morercpthosts.tmp").mkdir()
    result = program("qmail-newmrh", home)
    assert result.returncode == 111 and "unable to write to control/morercpthosts.tmp" in result.stderr
    assert (home / "control" / "morercpthosts.cdb").read_text() == "old"
    result = program("qmail-newmrh", home / "nowhere")
    assert result.returncode == 111 and "unable to chdir" in result.stderr
