"""The examples of control/accounts for other people's tables, in Debian's PostgreSQL: vpopmail's and Postfixadmin's."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyqmail.formats.cdb import Cdb
from tests.integration.mailhost import ROOT
from tests.postgresql import PASSWORD, PostgreSQL, postgresql

EXAMPLES = ROOT / "control-examples" / "cluster"
PROGRAM = f"import sys; sys.path.insert(0, {str(ROOT)!r})\nfrom pyqmail.launch import run\n"
PROGRAM += "run('pyqmail.programs.qmail_accounts', crash_exit=111)\n"
CHECK = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from pyqmail.login.account_check import check_account
for address, password in zip(sys.argv[2::2], sys.argv[3::2]):
    print(check_account(sys.argv[1], address.encode(), password.encode()).name)
"""
MD5, SHA512 = (
    subprocess.run(["openssl", "passwd", kind, "-salt", "saltsalt", "right"], capture_output=True, text=True).stdout
    for kind in ("-1", "-6")
)
# As it was before 5.4.8, with columns that are padded.
VPOPMAIL = f"""
CREATE TABLE vpopmail (pw_name char(32) NOT NULL, pw_domain char(96) NOT NULL, pw_passwd char(40), pw_uid int,
    pw_gid int, pw_gecos char(48), pw_dir char(160), pw_shell char(20), pw_clear_passwd char(16),
    PRIMARY KEY (pw_domain, pw_name));
CREATE TABLE valias (alias char(32) NOT NULL, domain char(96) NOT NULL, valias_line text NOT NULL);
INSERT INTO vpopmail VALUES
    ('ann', 'v.test', '{MD5.strip()}', 0, 0, 'Ann', 'HOMES/v.test/ann', '1000000S', NULL),
    ('ben', 'v.test', '', 0, 0, 'Ben', 'HOMES/v.test/0/ben', 'NOQUOTA', NULL);
INSERT INTO valias VALUES ('team', 'v.test', '&ann@v.test'), ('team', 'v.test', '&out@far.test'),
    ('run', 'v.test', '|/bin/true'), ('box', 'v.test', '/home/box/Maildir/');
"""
POSTFIXADMIN = f"""
CREATE TABLE domain (domain varchar(255) PRIMARY KEY, description varchar(255) NOT NULL DEFAULT '',
    aliases int NOT NULL DEFAULT 0, mailboxes int NOT NULL DEFAULT 0, maxquota bigint NOT NULL DEFAULT 0,
    quota bigint NOT NULL DEFAULT 0, transport varchar(255), backupmx boolean NOT NULL DEFAULT false,
    created timestamptz DEFAULT now(), modified timestamptz DEFAULT now(), active boolean NOT NULL DEFAULT true);
CREATE TABLE mailbox (username varchar(255) PRIMARY KEY, password varchar(255) NOT NULL DEFAULT '',
    name varchar(255) NOT NULL DEFAULT '', maildir varchar(255) NOT NULL DEFAULT '', quota bigint NOT NULL DEFAULT 0,
    local_part varchar(255) NOT NULL, domain varchar(255) REFERENCES domain, created timestamptz DEFAULT now(),
    modified timestamptz DEFAULT now(), active boolean NOT NULL DEFAULT true);
CREATE TABLE alias (address varchar(255) PRIMARY KEY, goto text NOT NULL, domain varchar(255) REFERENCES domain,
    created timestamptz DEFAULT now(), modified timestamptz DEFAULT now(), active boolean NOT NULL DEFAULT true);
INSERT INTO domain (domain, backupmx, active) VALUES ('ALL', false, true), ('v.test', false, true),
    ('backup.test', true, true), ('off.test', false, false);
INSERT INTO mailbox (username, password, maildir, quota, local_part, domain, active) VALUES
    ('Ann@v.test', '{{SHA512-CRYPT}}{SHA512.strip()}', 'v.test/ann/', 1000000, 'ann', 'v.test', true),
    ('ben@v.test', '', 'v.test/ben/', 0, 'ben', 'v.test', true), ('off@v.test', '', '', 0, 'off', 'v.test', false);
INSERT INTO alias (address, goto, domain, active) VALUES ('Ann@v.test', 'Ann@v.test', 'v.test', true),
    ('ben@v.test', 'ben@v.test', 'v.test', true), ('team@v.test', 'ann@v.test,out@far.test', 'v.test', true),
    ('none@v.test', '', 'v.test', true), ('off@v.test', 'ann@v.test', 'v.test', false);
"""


@pytest.fixture(scope="module")
def server() -> Iterator[PostgreSQL]:
    with postgresql() as made:
        yield made


@pytest.mark.parametrize(("name", "tables"), [("vpopmail", VPOPMAIL), ("postfixadmin", POSTFIXADMIN)])
def test_the_queries_of_the_examples_find_users_aliases_and_passwords(
    server: PostgreSQL, single_user_home: Path, name: str, tables: str
) -> None:
    home = single_user_home
    server.run("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    server.run(tables.replace("HOMES", str(home / "homes")))
    text = (EXAMPLES / f"accounts.{name}").read_text()
    connection = f"host=127.0.0.1 port={server.port} dbname=postgres user=pyqmail password='{PASSWORD}'"
    for setting, value in (("connection", connection), ("homes", str(home / "homes"))):
        text = re.sub(f"(?m)^{setting}:.*", f"{setting}: {value}", text)
    (home / "control/accounts").touch(mode=0o600)
    (home / "control/accounts").write_text(text)
    (home / "users").mkdir()
    (home / "run").mkdir()

    def run(program: str, *words: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-IXutf8", "-c", program, *words]
        return subprocess.run(command, env={"QMAIL_HOME": str(home)}, capture_output=True, text=True, timeout=60)

    done = run(PROGRAM, "sync")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("1 domains, 2 users, ") and "left out" not in done.stderr, done.stdout + done.stderr
    with (home / "users/accounts/forwards.cdb").open("rb") as file:
        forwards = dict(Cdb(file.fileno()).records())
    assert forwards[b":*team@v.test"] == b"&ann@v.test\0&out@far.test\0"
    assigned = (home / "users/accounts/assign").read_text()
    assert "=v.test-ann:" in assigned and "=v.test-ben:" in assigned
    assert not any(word in assigned for word in ("off", "none", "box", "run"))
    asked = ["Ann@v.test", "right", "ann@v.test", "wrong", "ben@v.test", "right", "nobody@v.test", "right"]
    done = run(CHECK, str(home), *asked)
    assert done.stdout.split() == ["YES", "NO", "NO", "NO"], done.stderr
