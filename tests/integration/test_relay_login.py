"""qmail-remote logs in at an Exim, by each mechanism that it offers alone at one of its addresses."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.certificates import self_signed
from tests.integration.receivers import DOMAIN, Exim, unpacked
from tests.loopback import free_port
from tests.scripted_peers import remote_home, run_program

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: starts Exim"),
    pytest.mark.skipif(not unpacked("exim4"), reason="needs exim4"),
]
OFFERED = {"PLAIN": "127.0.0.1", "LOGIN": "127.0.0.2", "CRAM-MD5": "127.0.0.3"}
SECTIONS = """
begin authenticators
plain:
  driver = plaintext
  public_name = PLAIN
  server_prompts = :
  server_condition = ${if and{{eq{$auth2}{joe}}{eq{$auth3}{se|ret}}}}
  server_advertise_condition = ${if eq{$received_ip_address}{127.0.0.1}}
login:
  driver = plaintext
  public_name = LOGIN
  server_prompts = User : Password
  server_condition = ${if and{{eq{$auth1}{joe}}{eq{$auth2}{se|ret}}}}
  server_advertise_condition = ${if eq{$received_ip_address}{127.0.0.2}}
cram:
  driver = cram_md5
  public_name = CRAM-MD5
  server_secret = ${if eq{$auth1}{joe}{se|ret}fail}
  server_advertise_condition = ${if eq{$received_ip_address}{127.0.0.3}}
"""


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return self_signed(tmp_path_factory.mktemp("pem"))


@pytest.fixture(scope="module")
def exim(pem: Path) -> Iterator[Exim]:
    server = Exim([], SECTIONS, pems={address: pem for address in OFFERED.values()}, port=free_port())
    try:
        yield server
    finally:
        server.stop()


@pytest.mark.parametrize("mechanism", OFFERED)
def test_it_is_let_in_with_the_password_and_mail_waits_without(exim: Exim, tmp_path: Path, mechanism: str) -> None:
    for number, password in enumerate(("se|ret", "guess")):
        folder = tmp_path / str(number)
        folder.mkdir()
        home = remote_home(folder, smtproutes=f":[{OFFERED[mechanism]}]:{exim.port}/unverified|joe|{password}")
        (home / "control" / "smtproutes").chmod(0o640)
        words = [DOMAIN.encode(), b"s@y.test", f"{mechanism.lower()}@{DOMAIN}".encode()]
        status, reports = run_program("pyqmail.programs.qmail_remote", words, home, b"Subject: x\n\nhello\n")
        assert status == 0 and password.encode() not in reports
        if number == 0:
            assert reports.startswith(b"r\0K") and reports.endswith(b"encrypted by login\n\0"), reports
        else:
            assert reports.startswith(b"ZConnected to") and b"but our login was rejected." in reports, reports
    stored = exim.stored(mechanism.lower())
    assert stored is not None and stored.endswith(b"hello\n")
