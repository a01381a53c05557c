"""What goes on with a message: RFC 3461 section 5.2.1, and 5.2.2 (a) where the server does not know DSN."""

from pathlib import Path

import pytest

from pyqmail.formats.facts import Facts, RecipientFacts
from tests.remote.one_transaction import one_transaction

SENDER, TO, OTHER = b"s@y.test", b"r@x.test", b"q@x.test"
ORCPT = b"rfc822;O+2BX@Y.test"


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        pytest.param(Facts(envid=b"a+2Db"), b"MAIL FROM:<s@y.test> ENVID=a+2Db", id="5.2.1 (a): ENVID as it came"),
        pytest.param(Facts(b"HDRS"), b"MAIL FROM:<s@y.test> RET=HDRS", id="5.2.1 (b): RET"),
        pytest.param(Facts(b"FULL", b"x"), b"MAIL FROM:<s@y.test> RET=FULL ENVID=x", id="5.2.1 (a) and (b)"),
        pytest.param(
            Facts(recipients=(RecipientFacts(TO, frozenset({b"NEVER"})),)),
            b"RCPT TO:<r@x.test> NOTIFY=NEVER", id="5.2.1 (c): NOTIFY",
        ),
        pytest.param(
            Facts(recipients=(RecipientFacts(TO, frozenset({b"SUCCESS", b"DELAY"})),)),
            b"RCPT TO:<r@x.test> NOTIFY=SUCCESS,DELAY", id="5.2.1 (c): each keyword",
        ),
        pytest.param(
            Facts(recipients=(RecipientFacts(TO, frozenset(), ORCPT),)),
            b"RCPT TO:<r@x.test> ORCPT=" + ORCPT, id="5.2.1 (d): ORCPT in its own letters",
        ),
    ],
)  # fmt: skip
def test_what_was_said_is_passed_on_and_nothing_else(tmp_path: Path, facts: Facts, said: bytes) -> None:
    silent = [b"MAIL FROM:<s@y.test>", b"RCPT TO:<r@x.test>", b"RCPT TO:<q@x.test>", b"DATA"]
    (tmp_path / "knows").mkdir()
    commands, _ = one_transaction(tmp_path / "knows", facts, SENDER, [TO, OTHER], [b"DSN"])
    assert commands == [said if said.startswith(each) else each for each in silent]
    (tmp_path / "does not").mkdir()
    assert one_transaction(tmp_path / "does not", facts, SENDER, [TO, OTHER], [b"8BITMIME"])[0] == silent
