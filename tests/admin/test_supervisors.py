"""The service directories of control-examples under real supervisors: signals, clean stops, and restarts under load."""

import os
import re
import time
from collections.abc import Iterator

import pytest

from tests.admin.machine import ROOT, Machine, submit

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a scratch machine")
NAMES = ("qmail-queued", "qmail-send", "qmail-smtpd")
CONTROLS = {"me": "mx.example.test\n", "locals": "example.test\n", "rcpthosts": "example.test\nlater.test\n"}
STOP_S = 10.0


class Daemontools:
    """svscan over /service."""

    directory = "service"
    scan = "svscan /service"
    verbs = {"up": "-u", "down": "-d", "term": "-t", "alarm": "-a", "hup": "-h", "pause": "-p", "cont": "-c"}

    def __init__(self, machine: Machine) -> None:
        self.machine = machine

    def do(self, verb: str, name: str) -> None:
        """svc."""
        self.machine.run(f"svc {self.verbs[verb]} /service/{name}")

    def status(self, name: str) -> str:
        """svstat, without the directory."""
        return self.machine.run(f"svstat /service/{name}").stdout.partition(": ")[2]

    def is_up(self, name: str) -> bool:
        """Whether the service itself runs."""
        return self.status(name).startswith("up")

    def pid(self, name: str) -> int:
        """The pid of the service."""
        return int(self.status(name).partition("(pid ")[2].partition(")")[0] or 0)  # 0: between two of them

    def seconds(self, name: str) -> int:
        """How long it has been up."""
        found = re.search(r"\) (\d+)", self.status(name))
        return int(found.group(1)) if found else 0


class Runit(Daemontools):
    """runsvdir over /service."""

    directory = "runit"
    scan = "runsvdir /service"

    def do(self, verb: str, name: str) -> None:
        """sv."""
        self.machine.run(f"sv {verb} /service/{name}")

    def status(self, name: str) -> str:
        """sv status, of the service without its log."""
        return self.machine.run(f"sv status /service/{name} || :").stdout.partition(";")[0]

    def is_up(self, name: str) -> bool:
        """Whether the service itself runs."""
        return self.status(name).startswith("run: ")

    def pid(self, name: str) -> int:
        """The pid of the service."""
        return int(self.status(name).partition("(pid ")[2].partition(")")[0] or 0)  # 0: between two of them


@pytest.fixture(scope="module", params=[Daemontools, Runit], ids=["daemontools", "runit"])
def supervisor(request: pytest.FixtureRequest) -> Iterator[Daemontools]:
    """A machine with a tree, whose three services a supervisor runs as the examples say."""
    machine = Machine()
    try:
        machine.install(**CONTROLS)
        kind: Daemontools = request.param(machine)
        machine.run(
            f"cp {ROOT}/control-examples/tcp.smtp /etc/tcp.smtp\n"
            "/var/qmail/bin/tcprules /etc/tcp.smtp.cdb /etc/tcp.smtp.tmp </etc/tcp.smtp\n"
            f"mkdir /service && cp -r {ROOT}/control-examples/{kind.directory} /var/qmail/service\n"
            f"for name in {' '.join(NAMES)}; do\n"
            "  mkdir /var/log/$name && chown qmaill /var/log/$name\n"
            "done\n"
            "ln -s /var/qmail/service/qmail-queued /service/"
        )
        machine.background(kind.scan)
        # Where qmail-send finds nobody who takes messages, its supervisor starts a qmail-queued and keeps it.
        machine.wait_for(lambda: machine.path("/var/qmail/run/qmail-queued.sock").exists(), "qmail-queued")
        machine.run("ln -s /var/qmail/service/qmail-send /var/qmail/service/qmail-smtpd /service/")
        machine.wait_for(
            lambda: all(machine.path(f"/var/qmail/service/{name}/supervise/ok").exists() for name in NAMES), "svscan"
        )
        machine.wait_for(lambda: all(kind.is_up(name) for name in NAMES), "the services")
        machine.wait_for(lambda: "status: local 0/10" in log(kind, "qmail-send"), "the status line")
        yield kind
    finally:
        machine.close()


def log(supervisor: Daemontools, name: str) -> str:
    """The current log file of a service."""
    path = supervisor.machine.path(f"/var/log/{name}/current")
    return path.read_text() if path.exists() else ""


def send(supervisor: Daemontools, tag: str, recipient: str = "ann@example.test") -> set[str]:
    """Send one message and return its number."""
    return set(supervisor.machine.run(submit(recipient, 1, tag)).stdout.split())


def test_mail_flows_and_each_service_has_a_log(supervisor: Daemontools) -> None:
    numbers = send(supervisor, "first")
    supervisor.machine.wait_for(lambda: numbers <= supervisor.machine.delivered(), "the delivery")
    supervisor.machine.wait_for(lambda: "accepted ip=127.0.0.1" in log(supervisor, "qmail-smtpd"), "the smtp log")
    supervisor.machine.wait_for(lambda: "delivery 1: success" in log(supervisor, "qmail-send"), "the send log")


@pytest.mark.parametrize("name", NAMES)
def test_a_restart_under_load_loses_nothing(supervisor: Daemontools, name: str) -> None:
    machine, count, pid = supervisor.machine, 200, supervisor.pid(name)
    with machine.spawn(submit("ann@example.test", count, f"load-{name}")) as load:
        assert load.stdout is not None
        accepted = {load.stdout.readline().strip()}
        for number, line in enumerate(load.stdout):
            accepted.add(line.strip())
            if number in (10, 100):
                supervisor.do("term", name)
    assert load.returncode == 0 and len(accepted) == count
    machine.wait_for(lambda: accepted <= machine.delivered(), f"{count} messages")
    machine.wait_for(lambda: supervisor.is_up(name) and supervisor.pid(name) != pid, "the restart")


@pytest.mark.parametrize("name", NAMES)
def test_it_stops_within_seconds_and_starts_again(supervisor: Daemontools, name: str) -> None:
    pid = supervisor.pid(name)
    began = time.monotonic()
    supervisor.do("down", name)
    supervisor.machine.wait_for(lambda: not supervisor.is_up(name), "the stop")
    assert time.monotonic() - began < STOP_S
    if name == "qmail-send":
        numbers = send(supervisor, "while-down")  # the queue takes mail while qmail-send is down
        supervisor.machine.wait_for(lambda: "status: exiting" in log(supervisor, name), "the last line")
    supervisor.do("up", name)
    supervisor.machine.wait_for(lambda: supervisor.is_up(name) and supervisor.pid(name) != pid, "the start")
    if name == "qmail-send":
        supervisor.machine.wait_for(lambda: numbers <= supervisor.machine.delivered(), "what waited")


@pytest.mark.contract("control 7.6")
def test_hup_makes_qmail_send_read_its_control_files_again(supervisor: Daemontools) -> None:
    machine = supervisor.machine
    before = supervisor.pid("qmail-send")
    machine.wait_for(
        lambda: supervisor.seconds("qmail-send") >= 2, "supervise, which is deaf for a second after a start"
    )
    machine.path("/var/qmail/control/virtualdomains").write_text("later.test:ann\n")
    supervisor.do("hup", "qmail-send")
    machine.run("su ann -c 'echo ./Maildir/ >/home/ann/.qmail-default'")
    numbers = send(supervisor, "virtual", "anybody@later.test")
    machine.wait_for(lambda: numbers <= machine.delivered(), "the virtual domain")
    assert supervisor.pid("qmail-send") == before


def test_alarm_tries_deferred_mail_at_once(supervisor: Daemontools) -> None:
    machine = supervisor.machine
    machine.run("su ann -c 'echo \"|test -e /tmp/open || exit 111\" >/home/ann/.qmail-door'")
    machine.run("su ann -c 'echo ./Maildir/ >>/home/ann/.qmail-door'")
    numbers = send(supervisor, "door", "ann-door@example.test")
    machine.wait_for(lambda: "deferral" in log(supervisor, "qmail-send"), "the deferral")
    machine.path("/tmp/open").touch()
    supervisor.do("alarm", "qmail-send")
    machine.wait_for(lambda: numbers <= machine.delivered(), "the second attempt")  # its own turn is 100 s away


def test_a_paused_qmail_send_delivers_after_cont(supervisor: Daemontools) -> None:
    machine, pid = supervisor.machine, supervisor.pid("qmail-send")
    supervisor.do("pause", "qmail-send")
    machine.wait_for(lambda: "State:\tT" in machine.path(f"/proc/{pid}/status").read_text(), "the pause")
    numbers = send(supervisor, "paused")
    assert not numbers & machine.delivered()
    supervisor.do("cont", "qmail-send")
    machine.wait_for(lambda: numbers <= machine.delivered(), "the delivery")


def test_qmailctl_finds_the_services_and_its_verbs_reach_them(supervisor: Daemontools) -> None:
    machine = supervisor.machine
    qmailctl = "/var/qmail/bin/qmailctl"
    pids = {name: supervisor.pid(name) for name in NAMES}
    machine.run(f"{qmailctl} restart")
    machine.wait_for(lambda: all(supervisor.is_up(name) for name in NAMES), "the services")
    machine.wait_for(lambda: all(supervisor.pid(name) not in (0, pids[name]) for name in NAMES), "new processes")
    machine.run(f"{qmailctl} stop")
    machine.wait_for(lambda: not any(supervisor.is_up(name) for name in NAMES), "the stop", STOP_S)
    machine.run(f"{qmailctl} start")
    machine.wait_for(lambda: all(supervisor.is_up(name) for name in NAMES), "the start")
    machine.run(f"{qmailctl} pause && {qmailctl} cont && {qmailctl} reload && {qmailctl} cdb")
    stat = machine.run(f"{qmailctl} stat", check=False).stdout
    assert all(name in stat for name in NAMES)
    numbers = send(supervisor, "after-qmailctl")
    machine.wait_for(lambda: numbers <= machine.delivered(), "the delivery")


def test_a_new_version_goes_in_under_load_one_service_after_the_other(supervisor: Daemontools) -> None:
    machine, count = supervisor.machine, 200
    machine.run(
        f"rm -rf /root/new && mkdir /root/new && cp -r {ROOT}/pyqmail {ROOT}/bin {ROOT}/*.md {ROOT}/.deps /root/new/\n"
        "echo '# another version' >>/root/new/pyqmail/envelope.py"
    )
    libraries = set(machine.path("/var/qmail/lib").iterdir())
    with machine.spawn(submit("ann@example.test", count, "upgrade")) as load:
        assert load.stdout is not None
        accepted = {load.stdout.readline().strip()}
        machine.run("/root/new/bin/qmail-setup && /root/new/bin/qmail-setup --check")
        for name in NAMES:
            supervisor.do("term", name)
        accepted |= {line.strip() for line in load.stdout}
    assert load.returncode == 0 and len(accepted) == count
    machine.wait_for(lambda: accepted <= machine.delivered(), f"{count} messages")
    machine.wait_for(lambda: all(supervisor.is_up(name) for name in NAMES), "the services")
    (new,) = set(machine.path("/var/qmail/lib").iterdir()) - libraries
    numbers = send(supervisor, "after-upgrade")
    machine.wait_for(lambda: numbers <= machine.delivered(), "the delivery")
    assert new.name in machine.path("/var/qmail/bin/qmail-send").read_text()
