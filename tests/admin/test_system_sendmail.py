"""qmail-setup --sendmail: ours in the system's place, safe from packages, and back again."""

import os
from collections.abc import Iterator

import pytest

from tests.admin.machine import ROOT, Machine

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a scratch machine")
SETUP = f"{ROOT}/bin/qmail-setup"
CONTROL = """\
Package: other-mta
Version: 1
Architecture: all
Maintainer: nobody <nobody@example.test>
Description: a package that brings a sendmail
"""


@pytest.fixture
def machine() -> Iterator[Machine]:
    """A machine with a tree, and with the files of no other MTA."""
    made = Machine()
    try:
        made.run("rm -f /usr/sbin/sendmail /usr/lib/sendmail /usr/bin/mailq /usr/bin/newaliases")
        made.install(me="mx.example.test\n", locals="example.test\n", rcpthosts="example.test\n")
        yield made
    finally:
        made.close()


def other_mta(machine: Machine) -> None:
    """A package with a sendmail of its own, built and installed."""
    machine.run("mkdir -p /tmp/other/DEBIAN /tmp/other/usr/sbin && echo '#!/bin/sh' >/tmp/other/usr/sbin/sendmail")
    machine.path("/tmp/other/DEBIAN/control").write_text(CONTROL)
    machine.run("dpkg-deb --build /tmp/other /tmp/other.deb && dpkg --force-all -i /tmp/other.deb")


def target(machine: Machine, path: str) -> str:
    """Where a link leads; empty for a file."""
    return machine.run(f"readlink {path} || :").stdout.strip()


def test_ours_is_in_place_a_package_cannot_overwrite_it_and_back_is_back(machine: Machine) -> None:
    machine.run("echo theirs >/usr/sbin/sendmail && ln -s ../sbin/sendmail /usr/lib/sendmail")
    done = machine.run(f"{SETUP} --sendmail")
    assert "/usr/sbin/sendmail is now /var/qmail/bin/sendmail" in done.stdout
    for path, name in (
        ("/usr/sbin/sendmail", "sendmail"),
        ("/usr/lib/sendmail", "sendmail"),
        ("/usr/bin/mailq", "mailq"),
    ):
        assert target(machine, path) == f"/var/qmail/bin/{name}"
    assert machine.run(f"{SETUP} --sendmail").stdout == ""  # a second run changes nothing
    other_mta(machine)
    assert target(machine, "/usr/sbin/sendmail") == "/var/qmail/bin/sendmail"
    assert machine.run("cat /usr/sbin/sendmail.before-pyqmail").stdout == "#!/bin/sh\n"
    done = machine.run(f"{SETUP} --no-sendmail")
    assert "/usr/sbin/sendmail is the system's again" in done.stdout
    assert machine.run("cat /usr/sbin/sendmail").stdout == "#!/bin/sh\n"
    assert machine.run("dpkg-divert --list | grep pyqmail || :").stdout == ""
    assert target(machine, "/usr/lib/sendmail") == "../sbin/sendmail"
    assert machine.run("ls /usr/bin/mailq || :").stdout == ""
    assert machine.run(f"{SETUP} --no-sendmail").stdout == ""


def test_a_diversion_of_somebody_else_is_one_line_and_nothing_lost(machine: Machine) -> None:
    machine.run("echo theirs >/usr/sbin/sendmail")
    machine.run("dpkg-divert --quiet --local --rename --divert /usr/sbin/sendmail.elsewhere --add /usr/sbin/sendmail")
    done = machine.run(f"{SETUP} --sendmail", check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("qmail-setup: ") and done.stderr.count("\n") == 1
    assert machine.run("cat /usr/sbin/sendmail.elsewhere").stdout == "theirs\n"


def test_it_is_for_roots_own_tree_only(machine: Machine) -> None:
    done = machine.run(f"{SETUP} --sendmail --home /nowhere", check=False)
    assert (done.returncode, done.stderr) == (
        1, "qmail-setup: /nowhere/bin/sendmail is not there: install the tree first\n",
    )  # fmt: skip
    done = machine.run(f"DESTDIR=/tmp/stage {SETUP} --sendmail", check=False)
    assert done.returncode == 1 and "--sendmail is for root" in done.stderr
