"""The Debian package on bare roots of both releases: installed, used, upgraded, removed, back again, and purged.

systemd itself does not run in these roots: what its units start is started as they say, as their user and with their
limits, by the test. The maintainer scripts run where policy-rc.d forbids every start.
"""

import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.admin.machine import ROOT, Machine
from tests.admin.test_units import UNITS, command
from tests.roots import bare_root, suites

SETUP = f"{ROOT}/bin/qmail-setup"
LONG = os.environ.get("PYQMAIL_TESTS_LONG")  # bin/run-tests --whole: every release, not the other one alone
SUITES = suites() if LONG else suites()[:1]
APT = "apt-get install -q -y --no-install-recommends"
KEPT = (
    "find /var/qmail/control /var/qmail/queue /var/qmail/users /var/qmail/alias -printf '%p %m %u %g %s %T@\\n' | sort"
)
MTAS = ("exim", "postfix", "sendmail", "nullmailer", "msmtp", "dma", "ssmtp", "opensmtpd", "esmtp", "courier-mta")
ACCOUNTS = ("alias", "qmaild", "qmaill", "qmailp", "qmailq", "qmailr", "qmails", "qmailv", "qmailm")


@pytest.fixture(scope="module")
def wheels() -> Path:
    """The wheels for both releases, fetched once for each lock."""
    lock = hashlib.sha256((ROOT / "pyqmail/dependencies.lock").read_bytes()).hexdigest()[:12]
    place = bare_root(SUITES[0]).with_name(f"wheels-{lock}")
    if not place.is_dir():
        fresh = place.with_name(place.name + ".new")
        shutil.rmtree(fresh, ignore_errors=True)
        subprocess.run([SETUP, "--download", fresh], check=True)
        fresh.rename(place)
    return place


@pytest.fixture(scope="module")
def package(wheels: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package, built."""
    out = tmp_path_factory.mktemp("deb")
    subprocess.run([SETUP, "--deb", out, "--wheels", wheels], check=True)
    (found,) = out.iterdir()
    return found


@pytest.fixture(scope="module")
def newer(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with another version and a changed module."""
    out = tmp_path_factory.mktemp("newer")
    subprocess.run(["dpkg-deb", "-R", package, out / "root"], check=True)
    control = out / "root/DEBIAN/control"
    control.write_text(control.read_text().replace("\nVersion: ", "\nVersion: 1:"))
    with (out / "root/usr/share/pyqmail/pyqmail/exits.py").open("a") as module:
        module.write("# changed\n")
    subprocess.run(["dpkg-deb", "--root-owner-group", "-b", out / "root", out / "newer.deb"], check=True)
    return out / "newer.deb"


@pytest.fixture(params=SUITES)
def machine(request: pytest.FixtureRequest, package: Path, newer: Path) -> Iterator[Machine]:
    """A bare root with the two packages in /tmp and nothing installed."""
    made = Machine(request.param)
    try:
        shutil.copy(package, made.path("/tmp/pyqmail.deb"))
        shutil.copy(newer, made.path("/tmp/newer.deb"))
        made.path("/usr/sbin/policy-rc.d").write_text("#!/bin/sh\nexit 101\n")
        made.path("/usr/sbin/policy-rc.d").chmod(0o755)
        made.path("/etc/mailname").write_text("mail.example.test\n")
        made.run("for name in ann carl; do useradd -m -s /bin/sh $name; done")
        yield made
    finally:
        made.close()


def apt(machine: Machine, words: str) -> str:
    """Run apt-get, with new lists if the old ones are too old; what it said."""
    done = machine.run(f"apt-get {words} || {{ apt-get update -q && apt-get {words}; }}", check=False, seconds=400,
                       DEBIAN_FRONTEND="noninteractive")  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    machine.keep_packages()
    return done.stdout + done.stderr


def start(machine: Machine) -> None:
    """What systemd would start after installation, by its units."""
    for unit in ("qmail-queued", "qmail-send"):
        machine.background(f"ulimit -n 65536; {command(f'{unit}.service')} >>/tmp/{unit}.log 2>&1")
        if unit == "qmail-queued":
            machine.wait_for(lambda: machine.path("/var/qmail/run/qmail-queued.sock").exists(), unit)
    machine.wait_for(lambda: has(machine, "/tmp/qmail-send.log", "status:"), "qmail-send")


def stop(machine: Machine) -> None:
    """TERM to both, and their end."""
    find = (
        "for dir in /proc/[0-9]*; do read -r name <$dir/comm && case $name in qmail-*) echo ${dir#/proc/};; esac; done"
    )
    machine.run(f"kill $({find}) 2>/dev/null || :")
    machine.wait_for(lambda: machine.run(find).stdout == "", "the end")
    machine.run("rm -f /tmp/qmail-send.log")


def has(machine: Machine, pattern: str, text: str) -> bool:
    """Whether a file of ``pattern`` has ``text``."""
    return machine.run(f"cat {pattern} 2>/dev/null | grep -qF '{text}'", check=False).returncode == 0


def state(machine: Machine) -> str:
    """What dpkg says about the package."""
    return machine.run("dpkg-query -W -f='${db:Status-Abbrev}' pyqmail || :").stdout.strip()


def sockets(machine: Machine) -> list[str]:
    """The TCP sockets of processes inside that listen; the network is this machine's own."""
    links = machine.run("for dir in /proc/[0-9]*; do readlink $dir/fd/* || :; done 2>/dev/null").stdout.split()
    inodes = {link.strip("socket:[]") for link in links if link.startswith("socket:")}
    lines = machine.run("cat /proc/net/tcp /proc/net/tcp6").stdout.splitlines()
    return [line for line in lines if len(line.split()) > 9 and line.split()[3] == "0A" and line.split()[9] in inodes]


def test_from_installation_to_purge(machine: Machine) -> None:
    said = apt(machine, "install -q -y --no-install-recommends /tmp/pyqmail.deb")
    assert "nothing listens yet" in said
    assert state(machine) == "ii" and sockets(machine) == []
    controls = machine.run("cd /var/qmail/control && grep . me locals rcpthosts defaultdelivery").stdout
    assert "me:mail.example.test\nlocals:mail.example.test\nrcpthosts:mail.example.test\n" in controls
    machine.run("qmail-setup --check && qmailctl --help >/dev/null || [ $? = 100 ]")
    for unit in UNITS.iterdir():
        assert machine.path(f"/usr/lib/systemd/system/{unit.name}").read_bytes() == unit.read_bytes()
    simulated = apt(machine, "install -s --no-install-recommends bsd-mailx cron git-email")
    brought = [line.split()[1] for line in simulated.splitlines() if line.startswith("Inst ")]
    assert "bsd-mailx" in brought and not [name for name in brought if name.startswith(MTAS)]

    apt(machine, "install -q -y --no-install-recommends bsd-mailx cron")
    start(machine)
    machine.run("echo hello | mail -s by-mailx ann; printf 'Subject: for root\\n\\nx\\n' | sendmail root")
    machine.wait_for(lambda: has(machine, "/home/ann/Mailbox", "Subject: by-mailx"), "ann's mail")
    machine.wait_for(lambda: has(machine, "/var/qmail/alias/Maildir/new/*", "Subject: for root"), "root's mail")
    machine.run("chmod +t /home/carl; printf 'Subject: it waits\\n\\nx\\n' | sendmail carl")
    machine.wait_for(lambda: has(machine, "/tmp/qmail-send.log", "deferral"), "the deferral")
    assert sockets(machine) == []

    machine.run("echo 7 >/var/qmail/control/concurrencylocal")
    alone = "messages in queue: 1\n"  # those that are delivered leave it a moment later
    machine.wait_for(lambda: machine.run("/var/qmail/bin/qmail-qstat").stdout.startswith(alone), "what waits alone")
    before = machine.run(KEPT).stdout
    apt(machine, "install -q -y --no-install-recommends /tmp/newer.deb")
    assert machine.run(KEPT).stdout == before
    assert machine.run("ls -d /var/qmail/lib/pyqmail-*").stdout.count("\n") == 2
    machine.run("printf 'Subject: after the upgrade\\n\\nx\\n' | sendmail ann")
    machine.wait_for(lambda: has(machine, "/home/ann/Mailbox", "Subject: after the upgrade"), "mail to what still runs")

    refused = machine.run("apt-get remove -q -y pyqmail", check=False)
    assert refused.returncode != 0 and "nothing was removed, for these run: " in refused.stdout + refused.stderr
    assert machine.path("/var/qmail/bin/qmail-send").exists() and state(machine)[1] == "i"
    stop(machine)
    before = machine.run(KEPT).stdout
    apt(machine, "remove -q -y pyqmail")
    assert machine.run(KEPT).stdout == before and state(machine) == "rc"
    left = machine.run("ls -A /var/qmail; ls /usr/share/pyqmail /usr/sbin/sendmail 2>/dev/null || :").stdout
    assert left.split() == [
        "alias", "control", "queue", "users",
    ]  # fmt: skip
    apt(machine, "install -q -y --no-install-recommends /tmp/newer.deb")
    assert machine.run("cat /var/qmail/control/concurrencylocal").stdout == "7\n"
    machine.run("chmod -t /home/carl")
    start(machine)
    machine.run("/var/qmail/bin/qmail-q retry all")  # its turn may be minutes away
    machine.wait_for(
        lambda: has(machine, "/home/carl/Mailbox", "Subject: it waits"), "what was in the queue all the time"
    )
    stop(machine)

    machine.run(
        "dpkg-trigger --no-await /usr/bin/python3 && dpkg --configure -a && qmail-setup --check"
    )  # a new Python
    apt(machine, "purge -q -y pyqmail")
    assert machine.run("ls -d /var/qmail /usr/share/pyqmail 2>/dev/null || :").stdout == ""
    assert machine.run("find /etc/systemd /var/lib/systemd -name 'qmail-*' 2>/dev/null || :").stdout == ""
    assert machine.run(f"getent passwd {' '.join(ACCOUNTS)} || :; getent group qmail nofiles || :").stdout == ""
    assert machine.run("id ann && id carl").returncode == 0


if LONG:

    def test_a_tree_from_the_sources_becomes_the_packages(machine: Machine) -> None:
        machine.run("dpkg-deb -x /tmp/pyqmail.deb /tmp/sources")
        run = "python3 -IBSXutf8 /tmp/sources/usr/share/pyqmail/bin"
        machine.run(f"{run}/qmail-setup --dependencies /tmp/sources/usr/share/pyqmail/wheels --me own.example.test")
        machine.run(f"{run}/qmail-setup --sendmail; echo '&ann' >/var/qmail/alias/.qmail-root")
        before = machine.run(KEPT).stdout
        apt(machine, "install -q -y --no-install-recommends /tmp/pyqmail.deb")
        assert machine.run(KEPT).stdout == before
        assert machine.run("dpkg-divert --list | grep pyqmail || :").stdout == ""
        assert machine.run("dpkg -V pyqmail").stdout == ""  # every file of the package is where it belongs
        assert machine.run("readlink /usr/sbin/sendmail").stdout == "/var/qmail/bin/sendmail\n"


def test_the_package_has_no_fault_and_is_built_alike_each_time(package: Path, wheels: Path, tmp_path: Path) -> None:
    words = ["lintian", "--fail-on", "error,warning", "--allow-root", str(package)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    subprocess.run([SETUP, "--deb", tmp_path / "again.deb", "--wheels", wheels], check=True)
    assert (tmp_path / "again.deb").read_bytes() == package.read_bytes()
    listed = subprocess.run(["dpkg-deb", "-c", package], capture_output=True, text=True, check=True).stdout
    assert "cp311-cp311" in listed and "cp313-cp313" in listed


def test_wheels_that_are_not_those_of_the_lock_are_refused(wheels: Path, tmp_path: Path) -> None:
    shutil.copytree(wheels, tmp_path / "wheels")
    damaged = next((tmp_path / "wheels").glob("dnspython-*"))
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"x")
    for what in ("damaged", "has no wheel of dnspython"):
        done = subprocess.run(
            [SETUP, "--deb", tmp_path / "x.deb", "--wheels", tmp_path / "wheels"], capture_output=True
        )
        assert done.returncode == 1 and what.encode() in done.stderr and done.stderr.count(b"\n") == 1
        assert not (tmp_path / "x.deb").exists()
        damaged.unlink(missing_ok=True)
