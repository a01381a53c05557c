"""qmail-metrics: what is counted of logs and queue, how it is exposed, and who is answered."""

import http.client
import os
import signal
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyqmail.log.stamps import parse_line
from pyqmail.look.busiest import ENOUGH, NAMES_MAX, OTHERS, Busiest
from pyqmail.look.families import Family, counter, from_json
from pyqmail.look.history import STEP_S, STEPS, History
from pyqmail.look.log_figures import LogFigures
from pyqmail.look.metrics_app import is_own
from tests.certificates import client_context, self_signed
from tests.look.metrics_server import Metrics
from tests.loopback import free_port, talk
from tests.waiting import wait_for

HOSTILE = 'x"}\\\n\x1b[2J<script>.test'


def figures(*lines: str, counted: bool = True) -> LogFigures:
    made = LogFigures()
    for line in lines:
        made.take("log", *parse_line(line), counted=counted)
    return made


def samples(made: LogFigures, name: str) -> dict[tuple[str, ...], object]:
    (family,) = (family for family in made.families() if family.name == f"pyqmail_{name}")
    return dict(family.samples)


DELIVERY = ("1700000000.5 starting delivery 1: msg 5 to remote joe@B.test", "1700000003.5 delivery 1: deferral: later/")
REFUSED = "1700000003.5 qmail-smtpd: refused ip=::1 helo=x from=<> to=<a@b> reason=451_too_many,_limit_reached"
ACCEPTED = (
    "1700000003.5 qmail-smtpd: accepted ip=::1 helo=x from=<> to=<a@b> bytes=5 qp=7 "
    "authuser=e encrypted=TLSv1.3 spf=pass dkim=none dmarc=surprise"
)


def test_deliveries_and_decisions_are_counted() -> None:
    made = figures(*DELIVERY, REFUSED, ACCEPTED, "alert: help", "what is that")
    assert samples(made, "domain_deliveries") == {(OTHERS, "deferral"): 1}
    assert samples(made, "attempt_seconds")["remote",][1] == 3.0  # type: ignore[index]
    assert samples(made, "door_messages") == {("qmail-smtpd", "accepted"): 1, ("qmail-smtpd", "refused"): 1}
    assert samples(made, "door_encrypted") == samples(made, "door_authenticated") == {("qmail-smtpd",): 1}
    assert samples(made, "refusals") == {("451",): 1}
    assert samples(made, "limit_refusals") == {(): 1}
    assert samples(made, "sender_checks") == {("spf", "pass"): 1, ("dkim", "none"): 1, ("dmarc", "other"): 1}
    assert samples(made, "log_troubles") == {("alert",): 1, ("warning",): 0}
    assert samples(made, "log_lines") == {("yes",): 5, ("no",): 1}
    step = {"deferral": 1, "refused": 1, "accepted": 1, "encrypted": 1, "authenticated": 1}
    assert made.page()["history"] == [(1700000003 // STEP_S * STEP_S, step)]
    assert made.page()["failures"] == [(1700000003.5, "deferral", "b.test", "later")]


def test_rehearsals_are_counted_by_check_and_only_of_what_was_accepted() -> None:
    words = " spf=fail dmarc=fail rehearsal=spf:a.test rehearsal=dmarc:a.test"
    made = figures(ACCEPTED + words, ACCEPTED + " rehearsal=dmarc:b.test", ACCEPTED + " rehearsal=x:y", REFUSED + words)
    assert samples(made, "rehearsals") == {("spf",): 1, ("dmarc",): 2, ("other",): 1}
    assert samples(figures(), "rehearsals") == {("spf",): 0, ("dmarc",): 0}


def test_what_is_old_is_history_and_no_counters() -> None:
    old = figures(*DELIVERY, REFUSED, ACCEPTED, counted=False)
    assert all(value in (0, ((), 0.0)) or key == ("remote",) for key, value in samples(old, "door_messages").items())
    assert samples(old, "domain_deliveries") == {} and samples(old, "log_lines") == {("yes",): 0, ("no",): 0}
    assert len(old.page()["failures"]) == 1  # type: ignore[arg-type]


def test_names_without_end_get_no_places_without_end_and_no_count_goes_back() -> None:
    busiest = Busiest()
    sums: dict[tuple[str, ...], float] = {}
    for turn in range(3 * NAMES_MAX):
        for _ in range(ENOUGH + 1):
            busiest.add(f"d{turn}.test", "success")
        now = busiest.samples()
        assert all(now[name] >= count for name, count in sums.items() if name in now)
        sums = now
    assert len(busiest.counts) == NAMES_MAX
    assert busiest.others["success"] > 2 * NAMES_MAX
    for name in (OTHERS, "", *[HOSTILE] * ENOUGH):
        busiest.add(name, "failure")
    assert busiest.others["failure"] == ENOUGH + 2
    for _ in range(9):
        busiest.age()
    assert busiest.counts == {}
    for _ in range(ENOUGH):
        busiest.add(HOSTILE, "failure")
    assert list(busiest.counts) == ['x"}\\??[2J<script>.test']


def test_the_history_is_bounded() -> None:
    history = History()
    history.add(None, "accepted")
    for step in (*range(STEPS + 50), 3, STEPS):
        history.add(step * STEP_S + 1.0, "accepted")
    assert (
        len(history.steps) == STEPS and min(history.steps) == 50 * STEP_S and history.steps[STEPS * STEP_S].total() == 2
    )


def test_a_family_survives_json_and_nonsense_does_not() -> None:
    family = counter("n", "t", ("a",), {("x",): 1.0, (HOSTILE,): 2.0})
    assert from_json(["n", "counter", "t", ["a"], [[[name], value] for (name,), value in family.samples]]) == family
    for wrong in ([], ["n", "odd", "t", [], []], ["n", "gauge", "t", ["a"], [[[], 1]]], ["n", "gauge", "t", [], [1]]):
        with pytest.raises(ValueError):
            from_json(wrong)
    for wrong in (["n", "histogram", "t", [], [[[], 1]]], ["n", "counter", "t", [], [[[], [[["1", 2]], 3]]]]):
        with pytest.raises(ValueError):
            from_json(wrong)
    assert isinstance(family, Family)


@pytest.mark.parametrize(
    ("host", "own"),
    [
        ("127.0.0.1:9925", True),
        ("[::1]:9925", True),
        ("localhost", True),
        ("MX.example.test:9925", True),
        ("evil.test", False),
        ("", False),
        ("127.0.0.1.evil.test", False),
    ],
)
def test_in_clear_only_our_own_names_are_answered(host: str, own: bool) -> None:
    assert is_own(host, frozenset({"mx.example.test"})) == own


@pytest.fixture
def home(single_user_home: Path) -> Path:
    for name, number in (("users", os.getuid()), ("groups", os.getgid())):
        file = single_user_home / f"control/conf-{name}"
        file.write_text(f"{number}\n" * len(file.read_text().splitlines()))
    (single_user_home / "control/conf-metrics").write_text(f"{os.getuid()}\n")
    (single_user_home / "log").mkdir()
    (single_user_home / "log/current").write_text("")
    for part in ("mess", "info", "local", "remote"):
        (single_user_home / "queue" / part / "0").mkdir(parents=True)
    return single_user_home


@pytest.fixture
def metrics(home: Path) -> Iterator[Metrics]:
    with Metrics(home, str(home / "log")) as made:
        yield made


def write(home: Path, *lines: str) -> None:
    with (home / "log/current").open("a") as log:
        log.write("".join(f"{time.time():.6f} {line}\n" for line in lines))


def test_a_log_is_followed_over_its_rotation_and_hostile_names_stay_in_their_label(
    home: Path, metrics: Metrics
) -> None:
    lines = []
    for number in range(ENOUGH):
        lines.append(f"starting delivery {number}: msg 5 to remote joe@{HOSTILE}".replace("\n", ""))
        lines.append(f"delivery {number}: failure: no/")
    write(home, *lines)
    name = 'pyqmail_domain_deliveries_total{domain="x\\"}\\\\?[2j<script>.test",result="failure"}'
    wait_for(lambda: metrics.samples().get(name) == 1, "the busy domain")
    (home / "log/current").rename(home / "log/@4000000065000000.s")
    (home / "log/current").write_text("")
    write(home, "alert: after the rotation")
    wait_for(lambda: metrics.samples()['pyqmail_log_troubles_total{kind="alert"}'] == 1, "the alert")
    status, text = metrics.get("/metrics", Accept="application/openmetrics-text; version=1.0.0")
    assert status == 200 and text.endswith("# EOF\n") and "\x1b" not in text


def test_who_is_answered(home: Path, metrics: Metrics) -> None:
    assert metrics.get("/metrics", Host="evil.test")[0] == 421
    assert metrics.get("/metrics", local=True, Host="status.example.test")[0] == 200
    assert metrics.samples()["pyqmail_up"] == 0
    assert home.joinpath("http").stat().st_mode & 0o777 == 0o600
    for wire, code in ((b"BREW / HTTP/1.0\r\n\r\n", b"501"), (b"\xff\0\r\n\r\n", b"400"), (b"x" * 70000, b"414")):
        with socket.create_connection(("127.0.0.1", metrics.port)) as line:
            assert code in talk(line, wire)
    with socket.create_connection(("127.0.0.1", metrics.port)) as line:
        head = talk(line, b"POST /metrics HTTP/1.0\r\nHost: localhost\r\nContent-Length: 99999\r\n\r\n")
    assert b" 400 " in head and b"\r\nContent-Security-Policy: default-src 'none';" in head


def test_too_many_clients_are_sent_away_and_the_others_served(metrics: Metrics) -> None:
    lines = [socket.create_connection(("127.0.0.1", metrics.port)) for _ in range(32)]
    try:
        with socket.create_connection(("127.0.0.1", metrics.port)) as one_more:
            one_more.settimeout(60)
            assert one_more.recv(1) == b""
    finally:
        for line in lines:
            line.close()
    wait_for(metrics.listens, "room")


def test_without_a_watcher_it_ends_so_that_it_is_started_anew(home: Path) -> None:
    with Metrics(home, str(home / "log")) as metrics:
        children = Path(f"/proc/{metrics.pid}/task/{metrics.pid}/children").read_text().split()
        assert len(children) == 3
        for child in children:
            os.kill(int(child), signal.SIGKILL)
        code, complaint = metrics.ended()
        assert code == 111 and complaint.startswith("qmail-metrics: qmail-metrics: ")


def test_who_comes_by_tls_shows_the_token(home: Path, tmp_path: Path) -> None:
    pem, port, token = self_signed(tmp_path), free_port(), "a token of the test 0123456789"
    for name, data in (("metricscert.pem", pem.read_text()), ("metricstoken", token + "\n")):
        (home / "control" / name).write_text(data)
        (home / "control" / name).chmod(0o600)
    with Metrics(home, str(home / "log"), more=f"127.0.0.1:{port} tls\n"):
        for shown, status in ((token, 200), ("another", 401), ("", 401)):
            connection = http.client.HTTPSConnection("127.0.0.1", port, context=trusting(pem))
            connection.request("GET", "/metrics", headers={"Authorization": f"Bearer {shown}"} if shown else {})
            assert connection.getresponse().status == status
            connection.close()
    (home / "control/metricstoken").chmod(0o644)
    assert "others can read" in Metrics(home, str(home / "log")).ended()[1]


def trusting(pem: Path) -> ssl.SSLContext:
    """For a client that calls the server by its address."""
    context = client_context(pem)
    context.check_hostname = False
    return context


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        ("127.0.0.1:0 tls\n", "who comes by TLS is asked for control/metricstoken"),
        ("localhost:9925\n", "localhost:9925: "),
        ("127.0.0.1:0 in clear\n", "there is ADDRESS:PORT"),
        ("/etc/passwd\n", "there is something else"),
    ],
)
def test_what_it_cannot_listen_on_is_said(home: Path, more: str, complaint: str) -> None:
    code, said = Metrics(home, str(home / "log"), more=more).ended()
    assert code == 111 and complaint in said and said.count("\n") == 1
