"""Rules for connections: their text, their records and the order of look-ups (contract tcp, section 3)."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pyqmail.policy.tcprules import BadRule, Decision, decide, parse_rules

BIN = Path(__file__).parents[2] / "bin"


def run(name: str, *argv: str, data: bytes = b"", **environ: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-ISXutf8", str(BIN / name), *argv]
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
