"""Accounts of a directory, with Debian's slapd and python3-ldap: compiled, changed, logged in with, and kept."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyqmail.formats.cdb import Cdb
from tests.integration.mailhost import ROOT
from tests.slapd import MANAGER, PASSWORD, Slapd, slapd
from tests.waiting import wait_for

EXAMPLES = ROOT / "control-examples" / "cluster"
# For Debian's interpreter, as an installation with the group accounts is.
PROGRAM = f"""
import sys
sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / ".deps")!r}]
from pyqmail.launch import run
run("pyqmail.programs." + sys.argv.pop(1), crash_exit=111)
"""
CHECK = f"""
import sys
sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / ".deps")!r}]
from pyqmail.login.account_check import check_account
for address, password in zip(sys.argv[2::2], sys.argv[3::2]):
    print(check_account(sys.argv[1], address.encode(), password.encode()).name)
"""
MORE = """
dn: uid=odd,ou=people,dc=example,dc=org
objectClass: inetOrgPerson
uid: odd
cn: Odd
sn: Example
mail: a/b@example.org
mail: *)(mail=*@example.org
mail: star*@example.org
mail: up@elsewhere.org
userPassword: odd

dn: cn=lines,ou=aliases,dc=example,dc=org
objectClass: nisMailAlias
cn: lines
cn:: bGluZQplbmRAZXhhbXBsZS5vcmc=
cn: lines@example.org
rfc822MailMember: ann@example.org
rfc822MailMember: |rm -rf /
"""


class Place:
    """A home whose accounts are in a directory."""

    def __init__(self, home: Path, server: Slapd) -> None:
        self.home = home
        self.server = server
        text = (EXAMPLES / "accounts.inetorgperson").read_text()
        for name, value in (("uri", server.uri), ("binddn", MANAGER), ("bindpassword", PASSWORD)):
            text = re.sub(f"(?m)^{name}:.*", f"{name}: {value}", text)
        (home / "control" / "accounts").write_text(text.replace("/var/vmail", str(home / "homes")))
        (home / "control" / "accounts").chmod(0o600)
        (home / "users").mkdir()
        (home / "run").mkdir()

    def run(self, *words: str) -> "subprocess.CompletedProcess[str]":
        """A program of the home's."""
        environ = {"QMAIL_HOME": str(self.home), "PATH": "/usr/bin:/bin"}
        return subprocess.run(
            ["/usr/bin/python3", "-IXutf8", "-c", *words], env=environ, capture_output=True, text=True, timeout=60
        )

    def forwards(self) -> dict[bytes, bytes]:
        """The records of forwards.cdb."""
        with (self.home / "users/accounts/forwards.cdb").open("rb") as file:
            return dict(Cdb(file.fileno()).records())

    def assigned(self) -> list[str]:
        """The addresses of the lines for users/assign."""
        lines = (self.home / "users/accounts/assign").read_text().splitlines()
        return [line.partition(":")[0] for line in lines]

    def modify(self, ldif: str) -> None:
        """Change the directory."""
        words = ["ldapmodify", "-a", "-x", "-H", self.server.uri, "-D", MANAGER, "-w", PASSWORD]
        subprocess.run(words, input=ldif.encode(), check=True, capture_output=True)


@pytest.fixture
def place(single_user_home: Path, tmp_path: Path) -> Iterator[Place]:
    if subprocess.run(["/usr/bin/python3", "-c", "import ldap"], capture_output=True).returncode:
        pytest.skip("python3-ldap is not installed")
    ldif = tmp_path / "ldif"
    ldif.write_text((EXAMPLES / "people.ldif").read_text() + MORE)
    with slapd(ldif) as server:
        yield Place(single_user_home, server)


def test_a_directory_is_compiled_and_its_odd_values_are_left_out(place: Place) -> None:
    done = place.run(PROGRAM, "qmail_accounts", "sync")
    assert done.stdout == "2 domains, 2 users, 3 targets of aliases, 0 senders\n", done.stderr
    wanted = ["+example.org-", "+shop.example.org-", "=example.org-ann.example", "=example.org-ann"]
    assert place.assigned() == wanted
    assert place.forwards() == {
        b":*info@shop.example.org": b"&ann@example.org\0&sales@example.net\0",
        b":*lines@example.org": b"&ann@example.org\0",
    }
    for start in ("a/b@example.org", "*)(mail=*@example.org", "star*@example.org", "up@elsewhere.org",
                  "lines", "line?end@example.org"):  # fmt: skip
        assert f"qmail-accounts: {start}: " in done.stderr
    assert (place.home / "homes/example.org/ann.example/Maildir/new").is_dir()


def test_who_may_log_in_says_the_directory(place: Place) -> None:
    asked = {
        ("Ann@Example.org", "change this"): "YES",
        ("ann.example@example.org", "change this"): "YES",
        ("ann@example.org", "change"): "NO",
        ("ann@example.org", ""): "NO",
        ("*@example.org", "change this"): "NO",
        ("*)(mail=*@example.org", "odd"): "YES",
        ("nobody@example.org", "x"): "NO",
    }
    words = [word for pair in asked for word in pair]
    done = place.run(CHECK, str(place.home), *words)
    assert done.stdout.split() == list(asked.values()), done.stderr
    place.server.stop()
    assert place.run(CHECK, str(place.home), "ann@example.org", "change this").stdout == "LATER\n"


def test_a_change_in_the_directory_is_live_at_once_and_none_while_it_is_away(place: Place) -> None:
    environ = {"QMAIL_HOME": str(place.home), "PATH": "/usr/bin:/bin"}
    words = ["/usr/bin/python3", "-IXutf8", "-c", PROGRAM, "qmail_accountsd"]
    daemon = subprocess.Popen(words, env=environ, stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: (place.home / "users/accounts/assign").exists(), "the first sync", 30)
        wait_for(lambda: "=example.org-ann" in place.assigned(), "ann", 30)
        person = (EXAMPLES / "people.ldif").read_text().split("\n\n")[-2]
        place.modify(person.replace("ann", "bob"))
        wait_for(lambda: "=example.org-bob" in place.assigned(), "bob", 30)
        place.modify("dn: uid=bob,ou=people,dc=example,dc=org\nchangetype: delete\n")
        wait_for(lambda: "=example.org-bob" not in place.assigned(), "nobody called bob", 30)
        place.server.stop()
        assert place.run(PROGRAM, "qmail_accounts", "sync").returncode == 111
        assert "=example.org-ann" in place.assigned()
        place.server.start()
        place.modify(person.replace("ann", "eve"))
        wait_for(lambda: "=example.org-eve" in place.assigned(), "eve", 30)
    finally:
        daemon.terminate()
        assert daemon.wait(30) == 0
