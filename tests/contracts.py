"""Which test shows which row of the contracts: writes tests/contracts.txt, or checks it.

    tests/contracts.py            write the table
    tests/contracts.py --check    exit 1 if a row has no test, or if the table is out of date

A row is named `contract section.row`: the rows of a section's tables counted from 1, one table after another, or the
number of a corner case; `contract section` where a section is prose. The inventory in tests/contract-rows/ lists the
rows that must have tests, and tests name theirs with @pytest.mark.contract("queue 5.7").
"""

import os
import re
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
TABLE = HERE / "contracts.txt"


class Collector:
    """A pytest plugin that notes the marks of every collected test."""

    def __init__(self) -> None:
        self.shown: dict[str, set[str]] = {}

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Note which tests name which rows."""
        for item in items:
            name = item.nodeid.partition("[")[0]
            for mark in item.iter_markers("contract"):
                for row in mark.args:
                    self.shown.setdefault(row, set()).add(name)


def inventory() -> dict[str, str]:
    """Every row that must have a test, with what it says."""
    rows = {}
    for path in sorted((HERE / "contract-rows").glob("*.txt")):
        for line in path.read_text().splitlines():
            row, _, what = line.partition("\t")
            rows[row] = what
    return rows


def collect() -> dict[str, set[str]]:
    """The tests by the row that they name."""
    collector = Collector()
    os.chdir(HERE.parent)
    sys.path[0] = str(HERE.parent)  # not tests/ itself: its directories have names of the standard library
    output = os.dup(1)
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    try:
        code = pytest.main(["--collect-only", "-q", "-p", "no:cacheprovider", str(HERE)], plugins=[collector])
    finally:
        sys.stdout.flush()
        os.dup2(output, 1)
    if code != 0:
        sys.exit("contracts: the tests cannot be collected; run pytest --collect-only")
    return collector.shown


def natural(row: str) -> list[object]:
    """A key that sorts row 10 after row 9."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", row)]


def table(rows: dict[str, str], shown: dict[str, set[str]]) -> str:
    """The whole text of contracts.txt."""
    lines = [f"{row}\t{what}\t{' '.join(sorted(shown.get(row, {'-'})))}" for row, what in rows.items()]
    others = sorted(set(shown) - set(rows), key=natural)
    lines += [f"{row}\t(not in an inventory)\t{' '.join(sorted(shown[row]))}" for row in others]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Write or check; 1 when a check fails."""
    rows, shown = inventory(), collect()
    text = table(rows, shown)
    gaps = [f"{row}: {what}" for row, what in rows.items() if row not in shown]
    if "--check" not in sys.argv[1:]:
        TABLE.write_text(text)
        print(f"contracts: {len(rows)} rows, {len(gaps)} without a test")
        return 0
    for gap in gaps:
        print(f"contracts: no test for {gap}")
    stale = not TABLE.exists() or TABLE.read_text() != text
    if stale:
        print("contracts: tests/contracts.txt is out of date; run tests/contracts.py")
    return 1 if gaps or stale else 0


if __name__ == "__main__":
    sys.exit(main())
