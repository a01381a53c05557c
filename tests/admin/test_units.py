"""The systemd units: sound, tight where they can be, and working under the settings that they ask for."""

import os
import re
import shlex
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import prometheus_client
import pytest

from tests.admin.machine import ROOT, Machine, submit

UNITS = ROOT / "control-examples" / "systemd"
# In tenths; qmail-send has no sandbox at all.
EXPOSURE_MAX = {
    "qmail-queued": 15,
    "qmail-smtpd": 25,
    "qmail-submission": 25,
    "qmail-submissions": 25,
    "qmail-pop3d": 65,
    "qmail-pop3s": 65,
    "qmail-metrics": 35,
}
SANDBOX = (
    "NoNewPrivileges", "ProtectSystem", "ProtectHome", "PrivateTmp", "CapabilityBoundingSet", "SystemCallFilter",
    "RestrictSUIDSGID", "PrivateDevices", "RestrictNamespaces", "ReadOnlyPaths", "MemoryDenyWriteExecute",
    "DynamicUser", "RestrictAddressFamilies", "LockPersonality", "PrivateUsers", "SecureBits", "MemoryMax", "UMask",
)  # fmt: skip
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a scratch machine")


def settings(unit: str) -> dict[str, list[str]]:
    """The settings of a unit file, with line continuations joined."""
    found: dict[str, list[str]] = {}
    for line in (UNITS / unit).read_text().replace("\\\n", " ").splitlines():
        name, equals, value = line.partition("=")
        if equals and not line.startswith(("#", "[")):
            found.setdefault(name, []).append(value)
    return found


def command(unit: str, **environ: str) -> str:
    """A shell line that runs ExecStart with what the unit sets, as far as a plain process can have it."""
    given = settings(unit)
    words = ["env", "-i", *(f"{name}={value}" for name, value in environ.items())]
    words += [word for line in given.get("Environment", []) for word in shlex.split(line)]
    setpriv = []
    if "User" in given:
        setpriv += ["--reuid", given["User"][0], "--regid", given["Group"][0], "--init-groups"]
    if given.get("NoNewPrivileges") == ["yes"]:
        setpriv.append("--no-new-privs")
    for option, name in (("bounding-set", "CapabilityBoundingSet"), ("ambient-caps", "AmbientCapabilities")):
        if name in given:
            kept = [f"+{word.removeprefix('CAP_').lower()}" for word in given[name][0].split()]
            setpriv.append(f"--{option}={','.join(['-all', *kept])}")
            if name.startswith("Ambient"):
                setpriv.append(f"--inh-caps={','.join(['-all', *kept])}")
    words += ["setpriv", *setpriv] if setpriv else []
    words += [word.replace("$$", "$") for word in shlex.split(given["ExecStart"][0])]
    umask = given.get("UMask", ["0022"])[0]
    return f"cd {given.get('WorkingDirectory', ['/'])[0]} && umask {umask} && exec {shlex.join(words)}"


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    """A machine with a tree and procmail's mail spool."""
    made = Machine()
    try:
        made.install(me="mx.example.test\n", locals="example.test\n", rcpthosts="example.test\n")
        made.run(f"/var/qmail/bin/tcprules /etc/tcp.smtp.cdb /etc/t <{ROOT}/control-examples/tcp.smtp")
        made.run("rm -f /var/mail/ann; touch /var/mail/ann; chown ann:mail /var/mail/ann; chmod 600 /var/mail/ann")
        yield made
    finally:
        made.close()


@needs_root
@pytest.mark.parametrize("unit", sorted(path.name for path in UNITS.iterdir()))
def test_systemd_finds_nothing_wrong(machine: Machine, unit: str) -> None:
    machine.run(f"mkdir -p /etc/systemd/system && cp {UNITS}/* /etc/systemd/system/")
    done = machine.run(f"systemd-analyze verify --man=no /etc/systemd/system/{unit} 2>&1", check=False)
    complaints = [line for line in done.stdout.splitlines() if "qmail" in line and "is not executable" not in line]
    assert complaints == []
    executable = [line for line in done.stdout.splitlines() if "is not executable" in line and "/var/qmail" in line]
    assert executable == []


@pytest.mark.parametrize("name", sorted(EXPOSURE_MAX))
def test_the_sandbox_is_as_tight_as_systemd_measures(name: str, tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd is not installed")
    unit = tmp_path / f"{name}.service"
    unit.write_text((UNITS / unit.name).read_text())
    words = [
        "systemd-analyze",
        "security",
        "--offline=yes",
        f"--threshold={EXPOSURE_MAX[name]}",
        "--no-pager",
        str(unit),
    ]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-300:] + done.stderr


@pytest.mark.parametrize("name", ["qmail-queued", "qmail-smtpd", "qmail-submission", "qmail-submissions"])
def test_units_that_run_no_users_program_cannot_gain_privileges(name: str) -> None:
    given = settings(f"{name}.service")
    assert given["NoNewPrivileges"] == ["yes"] and given["ProtectSystem"] == ["strict"]
    assert given["CapabilityBoundingSet"] in ([""], ["CAP_NET_BIND_SERVICE"])
    assert given["User"][0] != "root"


@pytest.mark.contract("control 6.7")
def test_the_unit_of_qmail_send_has_no_sandbox_and_stops_only_its_main_process() -> None:
    given = settings("qmail-send.service")
    assert [name for name in SANDBOX if name in given] == []
    assert given["KillMode"] == ["mixed"] and given["Restart"] == ["always"]
    assert "./Maildir/" in given["ExecStart"][0]


@pytest.mark.parametrize("service", [*EXPOSURE_MAX, "qmail-send"])
def test_every_service_says_when_it_is_ready(service: str) -> None:
    assert settings(f"{service}.service")["Type"] == ["notify"]


class Notified:
    """A socket of the machine that hears who is ready."""

    def __init__(self, machine: Machine, name: str) -> None:
        self.address = f"/run/{name}.notify"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(machine.path(self.address)))
        machine.path(self.address).chmod(0o666)
        self._socket.settimeout(30)

    def wait(self) -> bytes:
        """The message."""
        with self._socket:
            return self._socket.recv(100)


@needs_root
def test_a_delivery_through_procmail_works_under_the_units_settings(machine: Machine) -> None:
    machine.path("/var/qmail/control/defaultdelivery").write_text("|preline procmail\n")
    seqpacket = "/var/qmail/run/qmail-queued.sock"
    queued = command("qmail-queued.service")
    # systemd's own socket activation, with the socket's owner and mode as the socket unit says
    activated = re.sub(
        r"(/var/qmail/bin/qmail-queued)$", rf"systemd-socket-activate --seqpacket -l {seqpacket} \1", queued
    )
    assert activated != queued and settings("qmail-queued.socket")["SocketMode"] == ["0666"]
    machine.background(activated)
    machine.wait_for(lambda: machine.path(seqpacket).exists(), "the socket")
    machine.path(seqpacket).chmod(0o666)
    for name in ("qmail-send", "qmail-smtpd"):
        notified = Notified(machine, name)
        machine.background(command(f"{name}.service", NOTIFY_SOCKET=notified.address) + f" >>/tmp/{name}.log 2>&1")
        assert notified.wait() == b"READY=1"
    machine.run("su ann -c 'echo \"|env >/home/ann/seen\" >/home/ann/.qmail-env'")
    numbers = machine.run(submit("ann@example.test", 2, "unit")).stdout.split()
    machine.run(submit("ann-env@example.test", 1, "env"))
    spool = machine.path("/var/mail/ann")
    machine.wait_for(lambda: all(f"X-Number: {number}\n" in spool.read_text() for number in numbers), "procmail")
    written = machine.path("/home/ann/seen")
    machine.wait_for(lambda: written.exists() and written.stat().st_size > 0, "the environment")
    seen = {line.partition("=")[0] for line in written.read_text().splitlines()}
    assert "NOTIFY_SOCKET" not in seen and "PATH" in seen
    status = machine.run("grep -h -e NoNewPrivs -e CapBnd /proc/$(pgrep -ox qmail-queued)/status").stdout.split()
    assert status == ["CapBnd:", "0000000000000000", "NoNewPrivs:", "1"]


@needs_root
def test_the_capabilities_of_the_metrics_unit_are_enough_to_watch_as_others(machine: Machine) -> None:
    machine.run(f"cp -r {os.path.dirname(prometheus_client.__file__)} /var/qmail/lib/pyqmail-*/")
    machine.path("/var/qmail/control/metricslisten").write_text("127.0.0.1:9925\n/run/metrics nogroup\n")
    notified = Notified(machine, "qmail-metrics")
    machine.background(command("qmail-metrics.service", NOTIFY_SOCKET=notified.address) + " >/tmp/metrics.log 2>&1")
    assert notified.wait() == b"READY=1"
    seen = machine.run(
        "curl -s http://127.0.0.1:9925/metrics; curl -s --unix-socket /run/metrics http://x/metrics;"
        "stat -c '%U %G %a' /run/metrics"
    ).stdout
    assert seen.count("\npyqmail_up ") == 2 and "\nqmailm nogroup 660\n" in seen, seen

    def users() -> set[str]:
        return set(machine.run("pgrep -f qmail-metrics | xargs ps -o euser= -p").stdout.split())

    machine.wait_for(lambda: {"qmailm", "qmails", "qmaill", "qmaild"} <= users(), "the watchers to be others")


LOGIN = """\
import poplib
server = poplib.POP3("127.0.0.1", timeout=30)
server.user("ann")
print(server.pass_("a-secret-for-the-test"), len(server.list()[1]))
server.dele(1)
server.quit()
"""


@needs_root
def test_the_capabilities_of_the_pop3_unit_are_enough_to_check_a_password_and_become_the_user(machine: Machine) -> None:
    machine.path("/etc/pam.d/pop3").write_text("auth required pam_unix.so\naccount required pam_unix.so\n")
    machine.run("echo ann:a-secret-for-the-test | chpasswd; printf 'x\\n' >/tmp/one")
    machine.run("chmod 700 /home/ann; cp /tmp/one /home/ann/Maildir/new/1.x; chown ann /home/ann/Maildir/new/1.x")
    machine.run("touch -d '1 hour ago' /home/ann/Maildir/new/1.x")  # what is younger than a second is not shown yet
    notified = Notified(machine, "qmail-pop3d")
    machine.background(command("qmail-pop3d.service", NOTIFY_SOCKET=notified.address) + " >/tmp/pop3d.log 2>&1")
    assert notified.wait() == b"READY=1"
    machine.path("/tmp/login.py").write_text(LOGIN)
    assert "+OK" in machine.run("python3 /tmp/login.py").stdout
    machine.wait_for(lambda: not machine.path("/home/ann/Maildir/new/1.x").exists(), "the deletion")
    bounding = machine.run("grep -h CapBnd /proc/$(pgrep -of tcpserver.*110)/status").stdout.split()[1]
    assert int(bounding, 16) not in (0, (1 << 41) - 1)
