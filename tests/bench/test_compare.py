"""What compare.py makes of its figures: the table and the plot. And what it does to the user's Maildir."""

import os
import pwd
import statistics
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.bench.compare import WORKLOADS, turns
from tests.bench.peers import common
from tests.bench.peers.claims import ROWS, shown, table
from tests.bench.peers.plot import plot

DATA = {
    "w1": {
        "pyqmail": [
            {"c10_one_accept_per_s": 800.0},
            {"c10_one_accept_per_s": 1000.0},
            {"c10_one_accept_per_s": 4000.0},
        ],
        "notqmail": [{"c10_one_accept_per_s": 200.0}],
        "postfix": [{"c10_one_accept_per_s": 500.0}],
    },
    "w4": {
        "pyqmail": [{"remote_done_s": 0.25, "alone_done_s": 1.0}],
        "notqmail": [{"remote_done_s": 4.0}],
        "postfix": [{"remote_done_s": 0.5}],
        "exim": [{"remote_done_s": 0.3}],
    },
    "w5": {"pyqmail": [{"idle_kib": 70 * 1024}]},
}


def medians(runs: list[dict[str, float]]) -> dict[str, float]:
    return {key: statistics.median(run[key] for run in runs) for key in runs[0]}


def row(label: str) -> list[str]:
    found = [line for line in table(DATA, medians) if line.startswith(f"| {label}")]
    assert len(found) == 1
    return [cell.strip() for cell in found[0].strip("|").split("|")]


def test_the_median_is_compared_with_what_is_asked() -> None:
    cells = row("accept by SMTP")
    assert cells[1:5] == ["1000/s", "200/s", "500/s", "-"]
    assert cells[5] == "5.00x notqmail (asked 4), 2.00x postfix (asked 2.5) **no**"


def test_less_time_is_better_and_one_by_one_is_only_said() -> None:
    cells = row("one message, 1,000 remote recipients")
    assert cells[1] == "0.25 s (one by one 1 s)"
    assert cells[5] == "16.00x notqmail (asked 3), 2.00x postfix (asked 1.2)"


def test_an_absolute_limit_needs_no_other_server() -> None:
    assert row("memory, idle")[1:] == ["70 MiB", "-", "-", "-", "at most 64 MiB **no**"]


def test_each_server_is_the_first_in_one_of_the_rounds() -> None:
    servers = {"a": 3, "b": 3, "c": 1}
    assert [turns(servers, turn) for turn in range(3)] == [["a", "b", "c"], ["b", "a"], ["a", "b"]]
    assert [turns({"a": 3, "b": 3, "c": 3}, turn)[0] for turn in range(3)] == ["a", "b", "c"]


def test_delivered_messages_stay_on_the_disk_until_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = pwd.getpwuid(os.geteuid())
    home = pwd.struct_passwd((own.pw_name, "x", os.geteuid(), os.getegid(), "", str(tmp_path), "/bin/sh"))
    monkeypatch.setattr(pwd, "getpwnam", lambda _name: home)
    common.reset_maildir()
    (tmp_path / "Maildir/new/1").write_bytes(b"x")
    common.reset_maildir()
    assert common.delivered() == 0
    assert len(list(tmp_path.rglob("new/1"))) == 1
    common.remove_aside()
    assert not list(tmp_path.rglob("new/1")) and common.delivered() == 0


def test_every_row_names_a_workload() -> None:
    assert {row.workload for row in ROWS} <= set(WORKLOADS)


def test_units_come_from_the_name_of_a_figure() -> None:
    assert [shown("x_p50_ms", 0.1), shown("x_kib", 512), shown("x_per_s", 1234.5), shown("x_s", None)] == [
        "0.1 ms",
        "512 KiB",
        "1234/s",
        "-",
    ]


def test_the_plot_is_well_formed_and_its_best_bar_is_the_longest() -> None:
    picture = ElementTree.fromstring(plot({"workloads": DATA}, medians))
    bars = [
        (bar.get("class"), float(bar.get("width", "0"))) for bar in picture.iter("{http://www.w3.org/2000/svg}rect")
    ]
    widths = [width for kind, width in bars if kind in ("ours", "other")]
    assert widths[:3] == [130.0, 26.0, 65.0]
    assert len(widths) == 7
