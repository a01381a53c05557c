"""Debian's rspamd judges as we do by the same records, or the row says who is right by which section.

Its own module for DMARC does that; whom SPF and a signature passed for it is told.
"""

import os
import shutil
from collections.abc import Iterator

import pytest

from tests.mailauth.dmarc_rows import ADDRESS, ROWS, Row, domain, ours, served
from tests.rspamd import Rspamd, rspamd

VERDICTS = {
    "DMARC_NA": "none",
    "DMARC_BAD_POLICY": "none",
    "DMARC_POLICY_ALLOW": "pass",
    "DMARC_POLICY_REJECT": "reject",
    "DMARC_POLICY_QUARANTINE": "quarantine",
    "DMARC_POLICY_SOFTFAIL": "nothing",
}
MODULE = 'modules { path = "${PLUGINSDIR}/dmarc.lua"; }\ndmarc { }\n'
TELL = """
local told = rspamd_config:register_symbol({
  name = 'TOLD_RESULTS', type = 'prefilter',
  callback = function(task)
    local signed = task:get_header('X-Signed')
    if task:get_header('X-Sent') then task:insert_result('R_SPF_ALLOW', 1.0) end
    if signed then task:insert_result('DKIM_TRACE', 0.0, signed .. ':+') end
    task:get_mempool():set_variable('dmarc_checks', 1.0)
  end
})
rspamd_config:register_symbol({name = 'R_SPF_ALLOW', type = 'virtual', parent = told})
"""


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """Of the name server with all records."""
    if not shutil.which("nsd") and "PYQMAIL_TESTS_WHOLE" not in os.environ:
        pytest.skip("nsd is not installed")
    with served() as port:
        yield port


@pytest.fixture(scope="module")
def server(port: int) -> Iterator[Rspamd]:
    with rspamd(f"{ADDRESS}:{port}", rules=TELL, more=MODULE) as server:
        yield server


@pytest.mark.parametrize("row", ROWS, ids=[row.what for row in ROWS])
def test_both_agree(port: int, server: Rspamd, row: Row) -> None:
    assert ours(row, port) == row.ours
    assert theirs(server, row) in (row.rspamd or row.ours).split()


def theirs(server: Rspamd, row: Row) -> str:
    """What rspamd says of ``row``."""
    sender, signer = domain(row, row.spf), domain(row, row.signed)
    fields = [f"From: ann@{domain(row, row.author)}", "Subject: a"]
    fields += ["X-Sent: yes"] if sender else []
    fields += [f"X-Signed: {signer}"] if signer else []
    message = "\r\n".join([*fields, "", "hello", ""]).encode()
    found = server.check(message, From=f"ann@{sender or 'other.example'}", IP="192.0.2.1", Helo="other.example")
    symbols = found["symbols"]
    assert isinstance(symbols, dict)
    (verdict,) = VERDICTS.keys() & symbols.keys()
    return VERDICTS[verdict]
