"""Rules for connections: their text, their records and the order of look-ups (contract tcp, section 3)."""

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyqmail.formats.cdb import Cdb
from pyqmail.tcp.tcprules import BadRule, Decision, decide, parse_rules

BIN = Path(__file__).parents[2] / "bin"


def run(
    name: str, *argv: str, data: bytes = b"", whose: str = "ours", **environ: str
) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-ISXutf8", str(BIN / name), *argv]
    if whose == "debian":
        found = shutil.which(name, path="/usr/bin:/bin")
        assert found is not None, f"{name} is not installed"
        command = [found, *argv]
    return subprocess.run(command, input=data, capture_output=True, env=environ, timeout=60, check=False)


@pytest.mark.parametrize(
    ("line", "records"),
    [
        (b"1.2.3.4:allow", [(b"1.2.3.4", b"")]),
        (b":deny", [(b"", b"D\0")]),
        (b'127.:allow,RELAYCLIENT="",A=/b:c/ \t', [(b"127.", b"+RELAYCLIENT=\0+A=b:c\0")]),
        (b" 1.2:deny,A=xbx", [(b" 1.2", b"D\0+A=b\0")]),
        (b"#1:allow", []),
        (b"nothing", []),
        (b"1.2.3-5.:allow", [(b"1.2.3.", b""), (b"1.2.4.", b""), (b"1.2.5.", b"")]),
        (b"1.254-999:allow", [(b"1.254", b""), (b"1.255", b"")]),
        (b"1.5-4:allow", []),
        (b"1.256-300:allow", []),
        (b"1-2.3.4-5:allow", [(b"1.3.4-5", b""), (b"2.3.4-5", b"")]),
        (b"1.2-3@h:allow", [(b"1.2-3@h", b"")]),
        (b"=a-b.c:allow", [(b"=a-b.c", b"")]),
    ],
)
@pytest.mark.contract("tcp 3.1", "tcp 3.2", "tcp 3.3")
def test_a_line_becomes_records(line: bytes, records: list[tuple[bytes, bytes]]) -> None:
    assert list(parse_rules(line)) == records


@pytest.mark.parametrize(
    "line", [b":allow,A", b":allow,", b":allowX", b"1.2.3.4:allow:x", b":allow,A=", b":allow,A=xy"]
)
@pytest.mark.contract("tcp 3.4")
def test_an_invalid_line_is_named(line: bytes) -> None:
    with pytest.raises(BadRule) as bad:
        list(parse_rules(b"1:allow\n" + line + b"\n"))
    assert bad.value.line == line


def test_the_most_specific_rule_decides_alone() -> None:
    order = [b"me@1.2.3.4", b"me@=a.b.c", b"1.2.3.4", b"=a.b.c", b"1.2.3.", b"1.2.", b"1.", b"=.b.c", b"=.c", b"=", b""]
    rules = {key: b"+K=" + key + b"\0" for key in order}
    for key in order:
        assert decide(rules.get, b"1.2.3.4", b"a.b.c", b"me") == Decision(key, False, ((b"K", key),))
        del rules[key]
    assert decide(rules.get, b"1.2.3.4", b"a.b.c", b"me") == Decision()


def test_without_names_only_addresses_and_the_empty_key_are_looked_for() -> None:
    asked: list[bytes] = []
    decide(asked.append, b"1.2.3.4", None, None)
    assert asked == [b"1.2.3.4", b"1.2.3.", b"1.2.", b"1.", b""]


def test_tcprules_and_tcprulescheck_agree(tmp_path: Path) -> None:
    cdb, temporary = str(tmp_path / "r.cdb"), str(tmp_path / "r.tmp")
    made = run("tcprules", cdb, temporary, data=b"10.:allow,A=/1/,B=//\n10.:deny\n11.:deny,A=/1/")
    assert (made.returncode, made.stderr) == (0, b"")
    assert not os.path.exists(temporary)
    shown = run("tcprulescheck", cdb, TCPREMOTEIP="10.0.0.1")
    assert shown.stdout == (b"rule 10.:\nset environment variable A=1\nset environment variable B=\nallow connection\n")
    assert run("tcprulescheck", cdb, TCPREMOTEIP="11.0.0.1").stdout == b"rule 11.:\ndeny connection\n"
    assert run("tcprulescheck", cdb, TCPREMOTEIP="12.0.0.1").stdout == b"default:\nallow connection\n"


def test_a_bad_rule_leaves_the_database_and_bad_calls_say_so(tmp_path: Path) -> None:
    cdb, temporary = str(tmp_path / "r.cdb"), str(tmp_path / "r.tmp")
    assert run("tcprules", cdb, temporary, data=b"1.:deny\n").returncode == 0
    bad = run("tcprules", cdb, temporary, data=b":allowX\n")
    assert (bad.returncode, bad.stderr) == (100, b"tcprules: fatal: unable to parse this line: :allowX\n")
    assert run("tcprulescheck", cdb, TCPREMOTEIP="1.0.0.1").stdout.endswith(b"deny connection\n")
    assert run("tcprules", cdb).returncode == 100
    assert run("tcprulescheck").returncode == 100
    assert run("tcprulescheck", str(tmp_path / "none")).returncode == 111


TEXT = (
    b'# comment\n1.2.3.4:deny\n1.2.3.:allow,A=/1/\n10.:allow,RELAYCLIENT="",DATABYTES=/5/\nme@=h.test:deny,X=/y/\n'
    b"=h.test:allow,H=/h/\n=.test:allow,T=/t/\n=:allow,N=/n/\n172.16-18.:deny\n10.:deny\n:allow,D=/d/  \nno colon\n"
    b"5.6.7.8:allow"
)
CLIENTS: list[dict[str, str]] = [
    {"TCPREMOTEIP": "1.2.3.4"},
    {"TCPREMOTEIP": "1.2.3.5"},
    {"TCPREMOTEIP": "10.9.8.7"},
    {"TCPREMOTEIP": "172.17.0.1"},
    {"TCPREMOTEIP": "172.19.0.1"},
    {"TCPREMOTEIP": "9.9.9.9", "TCPREMOTEHOST": "h.test", "TCPREMOTEINFO": "me"},
    {"TCPREMOTEIP": "9.9.9.9", "TCPREMOTEHOST": "h.test"},
    {"TCPREMOTEIP": "1.2.3.9", "TCPREMOTEHOST": "h.test"},
    {"TCPREMOTEIP": "9.9.9.9", "TCPREMOTEHOST": "x.test"},
    {"TCPREMOTEIP": "9.9.9.9", "TCPREMOTEHOST": "x.other"},
    {"TCPREMOTEIP": "5.6.7.8"},
    {},
]


@pytest.mark.contract("tcp 3", "tcp 3.1", "tcp 7.1", "tcp 7.7")
def test_databases_and_programs_of_ours_and_of_ucspi_tcp_are_interchangeable(tmp_path: Path) -> None:
    shown = []
    for maker in ("ours", "debian"):
        cdb, temporary = str(tmp_path / f"{maker}.cdb"), str(tmp_path / f"{maker}.tmp")
        assert run("tcprules", cdb, temporary, data=TEXT, whose=maker).returncode == 0
        for checker in ("ours", "debian"):
            done = [run("tcprulescheck", cdb, whose=checker, **client) for client in CLIENTS]
            assert {each.returncode for each in done} == {0}
            shown.append([each.stdout for each in done])
    assert shown[0] == shown[1] == shown[2] == shown[3]
    assert shown[0][5] == b"rule me@=h.test:\ndeny connection\n", "a deny rule shows no variables"
    assert shown[0][7] == b"rule =h.test:\nset environment variable H=h\nallow connection\n", "names beat prefixes"
    assert shown[0][2].startswith(b"rule 10.:\nset environment variable RELAYCLIENT=\n"), "the first rule counts"
    assert shown[0][10] == b"rule 5.6.7.8:\nallow connection\n", "the last line needs no LF"


@pytest.mark.contract("tcp 3.2", "tcp 3.4", "tcp 7.2")
@pytest.mark.parametrize(
    "line",
    [
        b"1.2.3-4.5-6:allow", b"1.2.3.4-6@x:allow", b"=a-b.c:allow", b"1.2.250-300:deny", b"1.300-400:deny",
        b"1.9-3:deny", b"a-b:allow", b"-:allow", b"1-:allow", b"-3:deny", b" 1.2-3 :allow", b":allow,A", b":allow,",
        b":allowX", b"1.2.3.4:allow:x", b":deny,=/x/", b":allow,A=/b", b"[x]:allow", b"[::g]:allow",
    ],
)  # fmt: skip
def test_each_line_is_taken_or_refused_as_by_ucspi_tcp(tmp_path: Path, line: bytes) -> None:
    made = {}
    for maker in ("ours", "debian"):
        cdb = tmp_path / f"{maker}.cdb"
        done = run("tcprules", str(cdb), str(tmp_path / "tmp"), data=line + b"\n", whose=maker)
        records = None
        if done.returncode == 0:
            with cdb.open("rb") as database:
                records = list(Cdb(database.fileno()).records())
        made[maker] = (done.returncode, done.stderr, records)
    assert made["ours"] == made["debian"]


@pytest.mark.contract("tcp 3")
@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600)])
def test_the_database_has_the_mode_of_its_creation(tmp_path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        assert run("tcprules", str(tmp_path / "r.cdb"), str(tmp_path / "r.tmp"), data=b":allow\n").returncode == 0
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "r.cdb").stat().st_mode) == mode
    assert sorted(path.name for path in tmp_path.iterdir()) == ["r.cdb"]


@pytest.mark.parametrize(
    ("line", "keys"),
    [
        (b"[2001:DB8:0:0::1]:deny", [b"2001:db8::1"]),
        (b"[2001:db8::/32]:deny", [b"2001:db8::/32"]),
        (b"[2001:db8:ffff::/32]:deny", [b"2001:db8::/32"]),
        (b"[2001:db8::/30]:deny", [b"2001:db8::/32", b"2001:db9::/32", b"2001:dba::/32", b"2001:dbb::/32"]),
        (b"[::/0]:deny", [b"::/0"]),
        (b"[::1/128]:deny", [b"::1"]),
        (b"[::ffff:1.2.3.4]:deny", [b"1.2.3.4"]),
        (b"joe@[::1]:deny", [b"joe@::1"]),
    ],
)
def test_ipv6_addresses_stand_in_brackets(line: bytes, keys: list[bytes]) -> None:
    assert list(parse_rules(line + b"\n")) == [(key, b"D\0") for key in keys]


@pytest.mark.parametrize(
    "line",
    [b"[::1/129]:deny", b"[::1/x]:deny", b"[::1]:denyX", b"joe@[::/16]:deny", b"[::1:deny", b"[::/2@[::1]:allow"],
)
def test_bad_ipv6_rules_are_named(line: bytes) -> None:
    with pytest.raises(BadRule):
        list(parse_rules(line + b"\n"))


def test_the_smallest_ipv6_network_decides() -> None:
    text = b"[2001:db8::/29]:deny\n[2001:db8:1::/48]:allow,A=/48/\n[2001:db8:1:2::3]:deny\n[::/0]:allow,A=/all/\n"
    rules = dict(parse_rules(text)).get
    assert decide(rules, b"2001:db8:1:2::3", None, None).key == b"2001:db8:1:2::3"
    assert decide(rules, b"2001:db8:1:2::4", None, None).variables == ((b"A", b"48"),)
    assert decide(rules, b"2001:dbf::1", None, None).deny
    assert decide(rules, b"2001:0DB8:1:2:0:0:0:3", None, None).deny, "another spelling of the same address"
    assert decide(rules, b"2001:dc0::1", None, None).key == b"::/0"
    assert decide(rules, b"1.2.3.4", None, None).key is None


@given(
    st.binary(max_size=60) | st.from_regex(rb"[0-9.\-=@:\[\]/a]{0,20}:(allow|deny)(,[A-Z]=\"[a-z]*\")?", fullmatch=True)
)
def test_no_text_raises_anything_but_a_bad_rule(data: bytes) -> None:
    try:
        records = list(parse_rules(data))
    except BadRule as bad:
        assert bad.line in data
        return
    assert all(not record or record.endswith(b"\0") for _, record in records)
