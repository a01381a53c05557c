"""INSTALL's table of trust boundaries names tests that are there."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_each_promise_names_tests_that_exist() -> None:
    text = (ROOT / "INSTALL.md").read_text().partition("Who trusts whom:")[2].partition("\n## ")[0]
    rows = [line for line in text.split("\n") if line.startswith("| ")][1:]
    assert len(rows) >= 8
    for row in rows:
        shown = row.strip("| ").rpartition(" | ")[2]
        names = re.findall(r"(?:tests/[\w/.]+\w|test_\w+\.py)", shown)
        assert names, row
        folder = ROOT
        for name in names:
            path = ROOT / name if name.startswith("tests/") else folder / name
            folder = path.parent
            assert path.exists(), name
