"""qmail-setup --remove: what it made goes, mail and configuration stay unless purged, and what runs is not cut off."""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.admin.machine import ROOT, Machine

SETUP = f"{ROOT}/bin/qmail-setup"
START = "exec env - PATH=/var/qmail/bin:/usr/bin:/bin qmail-start ./Maildir/ >/tmp/send.log 2>&1"
ACCOUNTS = "alias qmaild qmaill qmailp qmailq qmailr qmails qmailv qmailm"
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a scratch machine")


@pytest.fixture
def machine() -> Iterator[Machine]:
    """A machine with a tree, its sendmail in the system's place, and somebody else's sendmail set aside."""
    made = Machine()
    try:
        made.run("rm -f /usr/sbin/sendmail /usr/lib/sendmail /usr/bin/mailq /usr/bin/newaliases")
        made.run("for user in $(getent group qmail nofiles | cut -d: -f4 | tr , ' '); do userdel $user; done")
        made.run("printf '#!/bin/sh\\necho theirs\\n' >/usr/sbin/sendmail; chmod 755 /usr/sbin/sendmail")
        made.install(me="mx.example.test\n", locals="mx.example.test\n", rcpthosts="mx.example.test\n")
        made.run(f"{SETUP} --sendmail")
        yield made
    finally:
        made.close()


def listing(machine: Machine) -> str:
    """Every path below the home but those that qmail-send works with, with owner, mode and time of change."""
    return machine.run(
        "find /var/qmail ! -path '*/run*' ! -path '*/queue/*' -printf '%p %m %u %g %s %C@\\n' | sort"
    ).stdout


def send(machine: Machine, number: str) -> None:
    """Queue a message for ann; qmail-queue writes the queue itself where no qmail-queued runs."""
    machine.run(f"printf 'To: ann\\nX-Number: {number}\\n\\nx\\n' | /var/qmail/bin/qmail-inject")


def stop(machine: Machine) -> None:
    """TERM to qmail-send and to the keeper of qmail-queued, and wait for the end of everything."""
    machine.run("kill $(pgrep 'qmail-send|qmail-keeper')")
    machine.wait_for(lambda: machine.run("pgrep -c 'qmail-' || :").stdout == "0\n", "the end of qmail-send")


@needs_root
def test_nothing_is_removed_while_anything_of_the_tree_runs(machine: Machine) -> None:
    machine.background(START)
    machine.wait_for(lambda: machine.path("/var/qmail/run/qmail-queued.sock").exists(), "qmail-queued")
    machine.wait_for(lambda: machine.run("pgrep -cx qmail-send || :").stdout == "1\n", "qmail-send")
    before = listing(machine)
    for options in ("--remove", "--remove --purge", "--remove --purge --accounts"):
        done = machine.run(f"{SETUP} {options}", check=False)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith("qmail-setup: nothing was removed, for these run: ")
        assert done.stderr.count("\n") == 1 and "qmail-send" in done.stderr
    assert listing(machine) == before
    stop(machine)
    machine.background("exec /var/qmail/bin/tcpserver -R -H -l 0 127.0.0.1 2525 /bin/true")
    machine.wait_for(lambda: machine.run("pgrep -fc '[t]cpserver' || :").stdout != "0\n", "tcpserver")
    done = machine.run(f"cd /var/qmail && {SETUP} --remove", check=False)
    assert done.returncode == 1 and "tcpserver" in done.stderr
    assert listing(machine) == before


@needs_root
def test_the_same_directory_of_another_root_is_not_ours(machine: Machine) -> None:
    machine.background(
        "exec unshare --mount sh -c 'mount -t tmpfs tmpfs /var/qmail && mkdir /var/qmail/bin "
        "&& cp /bin/sleep /var/qmail/bin/tcpserver && exec /var/qmail/bin/tcpserver 300'"
    )
    machine.wait_for(lambda: machine.run("pgrep -fc '^/var/qmail/bin/tcpserver 300' || :").stdout == "1\n", "it")
    machine.run(f"{SETUP} --remove")


@needs_root
def test_mail_and_configuration_stay_and_a_new_installation_goes_on_with_them(machine: Machine) -> None:
    send(machine, "queued")
    machine.run("mkdir -p /var/qmail/domains/example.net && echo x >/var/qmail/domains/example.net/mail")
    machine.run("echo '&ann' >/var/qmail/alias/.qmail-info; echo '=x:ann:1:1:/x:::' >/var/qmail/users/assign")
    keep = "find /var/qmail/queue /var/qmail/control /var/qmail/users /var/qmail/alias /var/qmail/domains"
    keep += " -printf '%p %m %u %g %s %T@\\n' | sort"
    before = machine.run(keep).stdout
    done = machine.run(f"{SETUP} --remove")
    assert "kept: /var/qmail/queue, /var/qmail/control, /var/qmail/users, /var/qmail/alias" in done.stdout
    assert machine.run(keep).stdout == before
    assert machine.run("ls /var/qmail").stdout.split() == ["alias", "control", "domains", "queue", "users"]
    assert machine.run("/usr/sbin/sendmail; dpkg-divert --list | grep pyqmail || :").stdout == "theirs\n"
    assert machine.run(f"id -u {ACCOUNTS.split()[0]}; ls /usr/lib/sendmail || :").stdout.count("\n") == 1
    again = machine.run(f"{SETUP} --remove")
    assert again.stdout == done.stdout.splitlines(keepends=True)[-1]  # nothing but what is kept
    machine.run(f"rm /var/qmail/users/assign; {SETUP} && {SETUP} --check")
    machine.background(START)
    machine.wait_for(lambda: machine.delivered() == {"queued"}, "the message of before")
    stop(machine)


@needs_root
def test_purged_with_its_accounts_there_is_no_trace(machine: Machine) -> None:
    send(machine, "queued")
    done = machine.run(f"{SETUP} --remove --accounts", check=False)
    assert done.returncode == 1 and "--accounts needs --purge: queue, control" in done.stderr
    assert machine.path("/var/qmail/bin/qmail-send").exists()
    machine.run("rm -rf /var/qmail/bin /var/qmail/man/man1")  # as one that was interrupted has left it
    done = machine.run(f"{SETUP} --remove --purge --accounts")
    assert "kept" not in done.stdout
    # /var/qmail is a mount point here: it stays, and that is said
    assert machine.run("ls -A /var/qmail").stdout == "" and "left: /var/qmail: " in done.stdout
    for name in ACCOUNTS.split():
        assert f"removed user {name}\n" in done.stdout
        assert machine.run(f"getent passwd {name} || :").stdout == ""
    assert machine.run("getent group qmail nofiles || :").stdout == ""
    assert machine.run("id ann").returncode == 0
    again = machine.run(f"{SETUP} --remove --purge --accounts")
    assert again.stdout.replace("left: /var/qmail: Device or resource busy\n", "") == ""


@needs_root
def test_what_is_somebody_elses_stays_and_is_named(machine: Machine) -> None:
    machine.run("echo '#!/bin/sh' >/var/qmail/bin/own-script; echo '# mine' >>/var/qmail/rc; mkdir /var/qmail/service")
    machine.run("userdel qmailp; useradd --system --no-user-group -g nofiles -d /srv/p qmailp")
    machine.run(
        "mkdir -p /etc/systemd/system\necho ExecStart=/var/qmail/bin/qmail-queued >/etc/systemd/system/qmail-x.service"
    )
    done = machine.run(f"{SETUP} --remove --purge --accounts")
    assert "left: /var/qmail/bin, with own-script\n" in done.stdout
    assert "left: /var/qmail/rc, which is not as qmail-setup wrote it\n" in done.stdout
    assert "left: /var/qmail, with bin, rc, service\n" in done.stdout
    assert "left: /etc/systemd/system/qmail-x.service, which starts what is no longer there\n" in done.stdout
    assert "left: user qmailp, whose home is /srv/p: not made by qmail-setup\n" in done.stdout
    assert "left: group nofiles, which qmailp is in\n" in done.stdout
    assert machine.run("ls /var/qmail").stdout.split() == ["bin", "rc", "service"]


@needs_root
@pytest.mark.parametrize("home", ["/usr", "/home/ann"])
def test_a_directory_that_is_no_tree_is_left_alone(machine: Machine, home: str) -> None:
    done = machine.run(f"{SETUP} --remove --purge --home {home}", check=False)
    assert (done.returncode, done.stderr) == (1, f"qmail-setup: {home} is not a tree of ours: nothing was removed\n")


def test_misuse_is_one_message() -> None:
    for wrong in (["--purge"], ["--remove", "--check"], ["--remove", "--sendmail"], ["--remove", "--me", "x.test"]):
        done = subprocess.run([SETUP, *wrong], capture_output=True, text=True, check=False)
        assert done.returncode == 2 and done.stderr.splitlines()[-1].startswith("qmail-setup: error: ")


def test_a_single_user_tree_goes_by_the_hand_of_its_user() -> None:
    base = Path(tempfile.mkdtemp(prefix="pyqmail-"))
    try:
        base.chmod(0o755)
        options: dict[str, object] = {}
        if os.geteuid() == 0:
            entry = pwd.getpwnam("nobody")
            os.chown(base, entry.pw_uid, entry.pw_gid)
            options = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
        for name in ("pyqmail", "bin", ".deps"):
            shutil.copytree(ROOT / name, base / "from" / name, ignore=shutil.ignore_patterns("__pycache__"))
        subprocess.run(["chmod", "-R", "a+rX", base / "from"], check=True)
        shown = []
        for words in (["--single-user", "--me", "mx.example.test"], ["--remove"], ["--remove", "--purge"]):
            done = subprocess.run(  # type: ignore[call-overload]
                [base / "from/bin/qmail-setup", "--home", base / "qmail", *words],
                env={"PATH": os.environ["PATH"]}, capture_output=True, text=True, cwd="/", **options,
            )  # fmt: skip
            assert done.returncode == 0, done.stderr
            shown.append(sorted(path.name for path in (base / "qmail").glob("*")))
        assert shown[1:] == [["alias", "control", "home", "queue", "users"], []]
        assert not (base / "qmail").exists()
    finally:
        shutil.rmtree(base)
