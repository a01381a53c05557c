"""Fields as the world writes them: what we, Postfix and Exim make of each (tests/programs/inject/odd-fields.tsv)."""

import os
import shutil

import pytest

from tests.integration.receivers import unpacked
from tests.programs import odd_fields

ROWS = odd_fields.rows()
FIELDS = [odd_fields.unescape(row[0]) for row in ROWS]


def test_qmail_inject_reads_each_field_as_the_table_says() -> None:
    assert dict(zip(FIELDS, odd_fields.ours(FIELDS), strict=True)) == {
        field: (row[1], row[2]) for field, row in zip(FIELDS, ROWS, strict=True)
    }


@pytest.mark.parametrize("row", ROWS, ids=[row[0] for row in ROWS])
def test_what_we_make_of_it_is_safe(row: list[str]) -> None:
    """Nobody whom both others serve goes without; in a From only whole hosts are added, and nothing is taken away."""
    field, recipients, author, postfix, _, exim, _ = row
    both = {*postfix.split()} & {*exim.split()} - {"refused", "none"}
    assert {one for one in both if one not in MISREAD} <= {*recipients.split()}
    if author not in ("", "="):
        added = author.replace("@mx.example.org", "").replace(".example.org", "")
        blank = str.maketrans("", "", " ,\\nt")
        route = field.rpartition(":")[2] if field.startswith("<@") else field.rstrip(".")
        assert added.translate(blank).strip("<>") == route.translate(blank).strip("<>") or "(" in field


# Halves of names, where a quote or parenthesis has no end or a character is none that an address may have.
MISREAD = {"Bob@mx.example.org", "M\\xc3\\xbcller@mx.example.org"}


@pytest.mark.parametrize("peer", ["postfix", "exim"])
def test_the_others_do_as_the_table_says(peer: str) -> None:
    if not os.environ.get("PYQMAIL_TESTS_WHOLE") and not os.environ.get("PYQMAIL_TEST_PEERS"):
        pytest.skip("in the whole form only")
    if os.geteuid() != 0 or shutil.which("postfix") is None or not unpacked("exim4"):
        pytest.skip("needs root, Postfix and an unpacked exim4")
    found = odd_fields.postfix(FIELDS) if peer == "postfix" else odd_fields.exim(FIELDS)
    column = 3 if peer == "postfix" else 5
    assert dict(zip(FIELDS, found, strict=True)) == {
        field: (row[column], row[column + 1]) for field, row in zip(FIELDS, ROWS, strict=True)
    }
