"""The rules and the dashboard in control-examples: Prometheus understands them, and they name what we export."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pyqmail.look.apart import Apart
from pyqmail.look.board import Board
from pyqmail.look.exposition import BoardCollector, exposition
from pyqmail.look.log_figures import LogFigures
from pyqmail.look.watchers import RUNS
from pyqmail.send.metrics import CHANNELS, Counters, Gauges, format_metrics

EXAMPLES = Path(__file__).resolve().parents[2] / "control-examples" / "prometheus"
RULES = EXAMPLES / "qmail.rules.yml"
DASHBOARD = EXAMPLES / "grafana-dashboard.json"
VARIABLES = {"$__rate_interval": "5m", "$__interval": "1m", "$__range": "1h", "$instance": "mx1|mx2"}
ENDS = ["pyqmail_certificate_end_timestamp_seconds", "gauge", "When it ends.", ["name"], [[["(default)"], 1.0]]]


class Answering(Apart):
    """A watcher that has one answer."""

    def __init__(self, title: str, answer: object) -> None:
        self.title = title
        self._answer = answer

    def ask(self, question: object, patience_s: float) -> object:
        return json.loads(json.dumps(self._answer))


def board() -> Board:
    """What is known of a server on which nothing has happened."""
    by_channel = dict.fromkeys(CHANNELS, 0)
    text = format_metrics(Counters(), Gauges(0.0, 0.0, by_channel, by_channel, by_channel, by_channel, 0, 0, False))
    figures = LogFigures()
    families = [family.as_json() for family in figures.families()]
    logs = {"families": families, "page": figures.page(), "logs": []}
    made = Board(Answering("queue", [RUNS, text.decode()]), Answering("logs", logs), Answering("certificates", ENDS))
    for watched in (made.send, made.logs, made.certificates):
        watched.look()
    return made


@pytest.fixture(scope="module")
def exported() -> set[str]:
    """The names of all metrics, by what Prometheus is told of their types."""
    text = exposition(BoardCollector(board()), "")[0].decode()
    kinds = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.M))
    assert kinds["pyqmail_up"] == "gauge" and kinds["pyqmail_attempt_seconds"] == "histogram"
    histograms = {
        f"{name}_{end}" for name, kind in kinds.items() for end in ("bucket", "sum", "count") if kind[0] == "h"
    }
    return {*kinds, *histograms}


def queries() -> Iterator[str]:
    """Each query of the dashboard, with what Grafana puts in the place of its variables."""
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        for target in panel["targets"]:
            query = target["expr"]
            for name, value in VARIABLES.items():
                query = query.replace(name, value)
            yield query


def promtool(*words: object) -> subprocess.CompletedProcess[str]:
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("prometheus is not installed")
    return subprocess.run([program, *map(str, words)], capture_output=True, text=True, check=False, timeout=60)


def test_each_query_of_the_dashboard_parses_and_names_what_we_export(exported: set[str], tmp_path: Path) -> None:
    found = list(queries())
    assert len(found) > 20 and not any("$" in query for query in found)
    rules = [{"record": f"panel:{number}", "expr": query} for number, query in enumerate(found)]
    (tmp_path / "rules.yml").write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    done = promtool("check", "rules", tmp_path / "rules.yml")
    assert done.returncode == 0 and f"{len(found)} rules found" in done.stdout, done.stdout + done.stderr
    named = {name for query in found for name in re.findall(r"pyqmail_\w+", query)}
    assert named - exported == set()
    bare = {re.sub(r"_(bucket|sum|count)$", "", name) for name in exported - named}
    shown = {re.sub(r"_(bucket|sum|count)$", "", name) for name in named}
    assert bare - shown == {"pyqmail_start_time_seconds", "pyqmail_deliveries_started_total", "pyqmail_queue_waiting",
                            "pyqmail_queue_preprocessing", "pyqmail_queue_loading"}  # fmt: skip


def test_the_panels_of_the_dashboard_do_not_cover_each_other() -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= 24 and not cells & taken
        taken |= cells
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])


def test_the_alert_rules_are_sound_and_name_what_we_export(exported: set[str]) -> None:
    done = promtool("check", "rules", RULES)
    assert done.returncode == 0, done.stdout + done.stderr
    assert set(re.findall(r"pyqmail_\w+", RULES.read_text())) - exported == set()


def series(name: str, values: str) -> dict[str, str]:
    return {
        "series": name.replace("}", ',instance="mx"}') if "}" in name else f'{name}{{instance="mx"}}',
        "values": values,
    }


@pytest.mark.parametrize(
    ("alert", "samples", "minutes"),
    [
        ("QmailSendDown", [series("pyqmail_up", "1 1 0x20")], 10),
        ("QmailMetricsAbsent", [], 10),
        ("QmailWatcherSilent", [series('pyqmail_watcher_age_seconds{watcher="logs"}', "0 1000x9")], 5),
        ("QmailOldMessages", [series('pyqmail_queue_older{seconds="14400"}', "60x40")], 30),
        ("QmailDeliveriesLate", [series('pyqmail_queue_lag_seconds{channel="remote"}', "1000x40")], 30),
        (
            "QmailNoRoomForDeliveries",
            [
                series('pyqmail_deliveries_running{channel="local"}', "10x60"),
                series('pyqmail_delivery_limit{channel="local"}', "10x60"),
            ],
            45,
        ),
        (
            "QmailManyFailures",
            [
                series('pyqmail_deliveries_total{channel="remote",result="failure"}', "0+3x60"),
                series('pyqmail_deliveries_total{channel="remote",result="success"}', "0+5x60"),
            ],
            45,
        ),
        ("QmailLogAlert", [series('pyqmail_log_troubles_total{kind="alert"}', "0 0 1x20")], 5),
        (
            "QmailCertificateEnds",
            [series('pyqmail_certificate_end_timestamp_seconds{name="(default)"}', "86400x100")],
            90,
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_alert_comes_when_it_should(alert: str, samples: list[dict[str, str]], minutes: int, tmp_path: Path) -> None:
    def seen(count: int, at: int) -> dict[str, Any]:
        return {"expr": f'count(ALERTS{{alertname="{alert}",alertstate="firing"}}) or vector(0)', "eval_time": f"{at}m",
                "exp_samples": [{"labels": "{}", "value": count}]}  # fmt: skip

    test = {"interval": "1m", "input_series": samples, "promql_expr_test": [seen(0, 0), seen(1, minutes)]}
    (tmp_path / "test.yml").write_text(json.dumps({"rule_files": [str(RULES)], "tests": [test]}))
    done = promtool("test", "rules", tmp_path / "test.yml")
    assert done.returncode == 0, done.stdout + done.stderr
