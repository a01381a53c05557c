"""rspamd takes what is signed here, and here is taken what rspamd signs; a change neither takes."""

import os
import shutil
from collections.abc import Iterator

import pytest

from tests.loopback import free_port
from tests.mailauth.test_dkim import KEYS, NOW, RSA, public_record, results, signed
from tests.mailauth.test_exim_dkim import quoted
from tests.mailauth.test_opendkim import HEADERS, MESSAGES, START
from tests.nameserver import nameserver
from tests.remote.test_signatures import PEM
from tests.rspamd import Rspamd, rspamd

ADDRESS = "127.0.0.1"
SIGN = """
rspamd_config:register_symbol({{
  name = 'SIGNS', score = 0.0,
  callback = function(task)
    return rspamd_plugins.dkim.sign(task, {{domain = 'a.example', selector = 'r', rawkey = [[
{key}]]}})
  end
}})
"""


@pytest.fixture(scope="module")
def server() -> Iterator[Rspamd]:
    if not shutil.which("nsd") and "PYQMAIL_TESTS_WHOLE" not in os.environ:
        pytest.skip("nsd is not installed")
    port = free_port()
    zone = [f"r._domainkey TXT {quoted(public_record(RSA))}"]
    rules = SIGN.format(key=PEM["r"].decode())
    with nameserver(ADDRESS, {"a.example": zone}, port=port), rspamd(f"{ADDRESS}:{port}", rules=rules) as server:
        yield server


def on_the_wire(message: bytes) -> bytes:
    """With the line ends of SMTP, which ends each line."""
    return (message if message.endswith(b"\n") else message + b"\n").replace(b"\n", b"\r\n")


@pytest.mark.parametrize(("header", "body"), [row[1:] for row in MESSAGES], ids=[row[0] for row in MESSAGES])
def test_both_agree(server: Rspamd, header: bytes, body: bytes) -> None:
    ours = signed(START + header, body, KEYS[:1], NOW)
    found = server.check(on_the_wire(ours))
    theirs = b"DKIM-Signature: " + str(found["dkim-signature"]).replace("\r\n", "\n").encode() + b"\n"
    if "R_DKIM_ALLOW" not in symbols(server.check(on_the_wire(theirs + START + header + b"\n" + body))):
        # rspamd 3.4 takes no signature of repeated fields, not even its own; of those the last one is signed first
        # (RFC 6376 section 5.4.2), which opendkim, dkimpy and Exim do as we do.
        assert header == HEADERS["twice"]
        return
    assert "R_DKIM_ALLOW" in symbols(found)
    assert "R_DKIM_REJECT" in symbols(server.check(on_the_wire(ours.replace(b"ann@a", b"eve@a"))))
    assert results(theirs + ours) == [b"pass", b"pass"]
    assert results((theirs + ours).replace(b"ann@a", b"eve@a")) == [b"fail", b"fail"]


def symbols(found: dict[str, object]) -> dict[str, object]:
    """What it has found, by name."""
    named = found["symbols"]
    assert isinstance(named, dict)
    return named


def test_neither_takes_another_body(server: Rspamd) -> None:
    spoilt = signed(START, b"hello\n", KEYS[:1], NOW).replace(b"hello", b"hallo")
    assert "R_DKIM_REJECT" in symbols(server.check(on_the_wire(spoilt)))
    assert results(spoilt) == [b"fail"]
