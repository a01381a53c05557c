"""qmailctl: its words, and a host where nothing supervises."""

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyqmail.admin.detached import Keeper, start_time
from pyqmail.admin.services import Daemontools, Runit, find_services, supervised
from tests.admin.machine import Machine

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = str(ROOT / "bin" / "qmailctl")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a scratch machine")


def qmailctl(home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run bin/qmailctl; no service of this machine is touched."""
    environ = {"QMAIL_HOME": str(home), "SERVICEDIR": str(home / "service"), "PATH": "/usr/bin:/bin"}
    return subprocess.run([PROGRAM, *words], env=environ, capture_output=True, text=True, timeout=60)


def test_help_names_every_verb(tmp_path: Path) -> None:
    done = qmailctl(tmp_path, "help")
    assert done.returncode == 0
    verbs = [line.split()[0] for line in done.stdout.splitlines()[1:]]
    assert " ".join(verbs) == "start stop restart stat pause cont doqueue reload queue cdb help"


@pytest.mark.parametrize("words", [[], ["begin"], ["start", "now"]], ids=str)
def test_other_words_do_nothing_and_show_the_help(tmp_path: Path, words: list[str]) -> None:
    done = qmailctl(tmp_path, *words)
    assert (done.returncode, done.stdout) == (100, "")
    assert "start every service" in done.stderr


@pytest.mark.parametrize("verb", ["start", "stop", "restart", "stat", "pause", "cont", "reload"])
def test_a_host_without_any_service_is_told_so(tmp_path: Path, verb: str) -> None:
    done = qmailctl(tmp_path, verb)
    assert done.returncode == 111
    assert "qmailctl: no service found" in done.stderr


def test_a_directory_counts_only_while_a_supervisor_is_in_it(tmp_path: Path) -> None:
    service = tmp_path / "qmail-send" / "supervise"
    service.mkdir(parents=True)
    os.mkfifo(service / "ok")
    environ = {b"SERVICEDIR": os.fsencode(tmp_path)}
    assert not supervised(str(service.parent)) and find_services(str(tmp_path / "home"), environ) == []
    reader = os.open(service / "ok", os.O_RDONLY | os.O_NONBLOCK)
    try:
        assert find_services("/nowhere", environ) == [Daemontools("qmail-send", str(service.parent))]
        (service / "stat").write_text("run\n")
        assert find_services("/nowhere", environ) == [Runit("qmail-send", str(service.parent))]
    finally:
        os.close(reader)


def test_a_pid_that_belongs_to_another_process_now_is_not_ours(tmp_path: Path) -> None:
    keeper = Keeper(str(tmp_path), "qmail-send")
    file = Path(keeper._file)
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        file.write_text(f"{os.getpid()} {start_time(os.getpid())}\n")
        assert keeper.pid() == os.getpid()
        file.write_text(f"{os.getpid()} 1\n")
        assert keeper.pid() is None
        file.write_text("nonsense\n")
        assert keeper.pid() is None
    finally:
        file.unlink()
        file.parent.rmdir()


@pytest.fixture
def machine() -> Iterator[Machine]:
    """A machine with a tree, a syslog socket, and no supervisor."""
    made = Machine()
    try:
        made.install(me="mx.example.test\n", locals="example.test\n", rcpthosts="example.test\n")
        made.run("rm -rf /etc/service /run/systemd; /var/qmail/bin/tcprules /etc/tcp.smtp.cdb /etc/t </dev/null")
        yield made
    finally:
        made.close()


@needs_root
def test_without_a_supervisor_it_keeps_the_services_itself(machine: Machine) -> None:
    machine.run(f"cp -r {ROOT}/control-examples/service /var/qmail/service")
    machine.run("cd /var/qmail/service && rm -r qmail-metrics qmail-pop3* qmail-submission*")
    machine.run("/var/qmail/bin/qmailctl start")
    stat = machine.run("/var/qmail/bin/qmailctl stat").stdout
    assert stat.count(": up (pid ") == 3, stat
    machine.run("echo to | su ann -c '/var/qmail/bin/mailsubj first ann@example.test'")
    machine.wait_for(lambda: len(machine.delivered()) == 1, "the delivery")
    pids = {int(line.partition("(pid ")[2].partition(",")[0]) for line in stat.splitlines() if ": up (pid " in line}
    machine.run("/var/qmail/bin/qmailctl start")  # what runs is not started again
    again = machine.run("/var/qmail/bin/qmailctl stat").stdout
    assert {f"(pid {pid}," in again for pid in pids} == {True}
    assert machine.run("stat -c '%U %a' /run/pyqmail_var_qmail").stdout == "root 755\n"
    machine.run("/var/qmail/bin/qmailctl stop")
    assert all(has_ended(machine, pid) for pid in pids)
    assert machine.run("/var/qmail/bin/qmailctl stat").stdout.count(": down") == 3


@needs_root
def test_a_restart_is_one_of_the_helpers_too(machine: Machine) -> None:
    def helpers() -> dict[str, str]:
        stat = machine.run("/var/qmail/bin/qmailctl stat").stdout
        return dict(re.findall(r"^(qmail-\w+): runs \(pid (\d+)", stat, re.M))

    names = {"qmail-keeper", "qmail-queued", "qmail-authd"}
    machine.path("/var/qmail/control/authd").write_text("system\n")
    machine.run("/var/qmail/bin/qmailctl start")
    machine.wait_for(lambda: names <= helpers().keys(), "helpers")
    before = helpers()
    machine.run("/var/qmail/bin/qmailctl restart")
    machine.wait_for(lambda: names <= helpers().keys(), "helpers again")
    after = helpers()
    assert not [name for name in names if after[name] == before[name]]
    machine.run("/var/qmail/bin/qmailctl stop")
    assert not helpers()


def has_ended(machine: Machine, pid: int) -> bool:
    """Whether a process is over, collected or not."""
    try:
        return machine.path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


@needs_root
def test_a_script_that_does_not_start_is_reported(machine: Machine) -> None:
    rc = machine.path("/var/qmail/rc")
    rc.write_text("#!/nowhere/sh\n")
    done = machine.run("/var/qmail/bin/qmailctl start", check=False)
    assert done.returncode == 111
    assert "qmailctl: qmail-send: /var/qmail/rc: No such file or directory" in done.stderr


@needs_root
def test_cdb_rebuilds_what_has_a_source(machine: Machine) -> None:
    machine.path("/etc/tcp.smtp").write_text(":deny\n")
    machine.path("/var/qmail/control/morercpthosts").write_text("a.test\n")
    machine.path("/var/qmail/users/assign").write_text("no dot\n")
    done = machine.run("/var/qmail/bin/qmailctl cdb", check=False)
    assert done.returncode == 111 and "bad format in users/assign" in done.stderr
    assert done.stdout.splitlines() == [
        "Rebuilt /etc/tcp.smtp.cdb", "Rebuilt the database of /var/qmail/control/morercpthosts",
    ]  # fmt: skip
    machine.path("/var/qmail/users/assign").write_text(".\n")
    assert machine.run("/var/qmail/bin/qmailctl cdb").stdout.count("Rebuilt") == 3
    assert "deny" in machine.run("/var/qmail/bin/tcprulescheck /etc/tcp.smtp.cdb 192.0.2.1", check=False).stdout


FAKE_SYSTEMCTL = """\
#!/bin/sh
echo "$@" >>/tmp/asked
[ "$1" != show ] || printf 'ActiveState=active\\nSubState=running\\nMainPID=12\\nStateChangeTimestamp=today\\n'
[ "$2" != qmail-smtpd.service ] || { echo 'Job for qmail-smtpd.service failed.' >&2; exit 1; }
"""


@needs_root
def test_under_systemd_each_verb_is_a_systemctl_of_each_unit(machine: Machine) -> None:
    machine.run(f"mkdir -p /run/systemd/system && cp {ROOT}/control-examples/systemd/*.service /etc/systemd/system/")
    machine.run("cd /etc/systemd/system && rm qmail-metrics.service qmail-pop3*.service qmail-submission*.service")
    systemctl = machine.path("/usr/local/sbin/systemctl")
    systemctl.parent.mkdir(parents=True, exist_ok=True)
    systemctl.write_text(FAKE_SYSTEMCTL)
    systemctl.chmod(0o755)
    done = machine.run("/var/qmail/bin/qmailctl start", check=False)
    assert (done.returncode, done.stderr) == (111, "qmailctl: Job for qmail-smtpd.service failed.\n")
    machine.run("/var/qmail/bin/qmailctl reload && /var/qmail/bin/qmailctl doqueue")
    stat = machine.run("/var/qmail/bin/qmailctl stat").stdout
    assert "qmail-send: active (running, pid 12) since today\n" in stat
    assert machine.path("/tmp/asked").read_text().splitlines()[:5] == [
        "start qmail-queued.service",
        "start qmail-send.service",
        "start qmail-smtpd.service",
        "kill --signal=SIGHUP --kill-who=main qmail-send.service",
        "kill --signal=SIGALRM --kill-who=main qmail-send.service",
    ]
