"""qmail-showctl --check --from DIR: what becomes of netqmail's, sagredo's and s/qmail's trees."""

import os
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from pyqmail.admin import other_run_files
from pyqmail.admin.check_one_file import ADDRESSES
from pyqmail.admin.control_files import BY_NAME
from pyqmail.admin.moving_in import find_tree
from pyqmail.admin.other_trees import FILES, TAKEN, VARIABLES, found_in

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "pyqmail"
TABLES = ("other_trees.py", "moving_in.py", "other_run_files.py", "control_files.py", "check_one_file.py")
SOURCE = "\n".join(path.read_text() for path in sorted(PACKAGE.rglob("*.py")) if path.name not in TABLES)
READ_BY_SCRIPTS = "\n".join(
    path.read_text() for path in sorted((ROOT / "control-examples").rglob("run")) if path.is_file()
)
RULES = '127.:allow,RELAYCLIENT=""\n10.0.0.:allow,RELAYCLIENT="",SMTPD_GREETDELAY="0",CHKUSER_START="NONE"\n:allow\n'

NETQMAIL = {
    "control/me": "mx.example.org\n",
    "control/rcpthosts": "example.org\n",
    "control/smtproutes": "example.net:relay.example.net:587|joe|secret\nexample.com:relay.example.com\n",
    "control/servercert.pem": "key and certificate\n",
    "control/rsa512.pem": "x\n",
    "control/dh1024.pem": "x\n",
    "control/clientcert.pem": "x\n",
    "control/tlshosts/mx.example.com.pem": "x\n",
    "control/authsenders": "a@example.org:relay\n",
    "supervise/qmail-smtpd/run": """\
#!/bin/sh
QMAILDUID=`id -u qmaild`
NOFILESGID=`id -g qmaild`
MAXSMTPD=`cat /var/qmail/control/concurrencyincoming`
SMTPAUTH=""
export SMTPAUTH
exec /usr/local/bin/softlimit -m 30000000 \\
  /usr/local/bin/tcpserver -v -R -l "$LOCAL" -x /etc/tcp.smtp.cdb -c "$MAXSMTPD" \\
  -u "$QMAILDUID" -g "$NOFILESGID" 0 smtp \\
  /usr/local/bin/rblsmtpd -r zen.example /var/qmail/bin/qmail-smtpd /bin/checkpassword /bin/true 2>&1
""",
    "supervise/qmail-send/run": "#!/bin/sh\nexec /var/qmail/rc\n",
}
SAGREDO = {
    "control/me": "mx.example.org\n",
    "control/servercert.pem": "x\n",
    "control/servercerts/mail.example.com/servercert.pem": "x\n",
    "control/tlsserverciphers": "HIGH\n",
    "control/rsa2048.pem": "x\n",
    "control/spfbehavior": "3\n",
    "control/spfguess": "v=spf1 mx\n",
    "control/authservid": "mx.example.org\n",
    "control/badhelo": "x\n",
    "control/badmailfrom": "joe@example.net\n*.example.com\n",
    "control/srs_secrets": "x\n",
    "control/brtlimit": "2\n",
    "supervise/qmail-smtpd/run": """\
#!/bin/sh
export SMTPD_GREETDELAY=5
export DROP_PRE_GREET=1
export CHKUSER_START=ALWAYS
export SPFBEHAVIOR=3 SPFEXP=no
export DKIMVERIFY="FGHKLMNOQRTVWp" DKIMSIGN=/var/qmail/control/domainkeys/%/default
exec softlimit -m 1073741824 tcpserver -v -H -R -l 0 -x /home/vpopmail/etc/tcp.smtp.cdb -c 40 \\
  -u "$(id -u vpopmail)" -g "$(id -g vpopmail)" 0 25 qmail-smtpd
""",
    "supervise/qmail-submission/run": """\
#!/bin/sh
export SMTPAUTH="!" FORCEAUTHMAILFROM=1
exec tcpserver -x /home/vpopmail/etc/tcp.submission.cdb 0 587 qmail-smtpd /home/vpopmail/bin/vchkpw /bin/true
""",
    "supervise/qmail-smtps/run": """\
#!/bin/sh
export SMTPAUTH="!" FORCETLS=0 DISABLETLS=1 CERTFILE=/var/qmail/control/servercert.pem
exec sslserver -e -x /home/vpopmail/etc/tcp.submission.cdb 0 465 qmail-smtpd /home/vpopmail/bin/vchkpw /bin/true
""",
}
SQMAIL = {
    "control/me": "mx.example.org\n",
    "control/mailfromrules": "joe@example.org&joe.doe@example.org\nann@example.org:ann@example.com\n",
    "control/tlsdestinations": "*:\n",
    "control/recipients": "example.org:x\n",
    "control/dkimdomains": "=:default\n",
    "control/maxrecipients": "100\n",
    "service/qmail-smtpd/run": """\
#!/bin/sh
export SMTPAUTH="" UCSPITLS=""
export LOCALMFCHECK=""
export HELOCHECK="."
exec sslserver -seV -Rp -l $HOSTNAME -x /var/qmail/control/rules.smtpd.cdb 0 25 qmail-smtpd qmail-authuser true 2>&1
""",
    "service/qmail-smtpsub/run": """\
#!/bin/sh
export SMTPAUTH="!" UCSPITLS="!"
exec sslserver -seV 0 587 qmail-smtpd qmail-authuser true
""",
    "service/qmail-smtps/run": "#!/bin/sh\nexport SMTPAUTH='!'\nexec sslserver 0 465 qmail-smtpd qmail-authuser true\n",
}


def make(root: Path, files: Mapping[str, str]) -> Path:
    """A copy of the other host's root, with /var/qmail and the rules of tcpserver."""
    for name, text in {**{f"var/qmail/{name}": text for name, text in files.items()}, "etc/tcp.smtp": RULES}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o640 if name.endswith("servercert.pem") else 0o644)
    return root


def report(directory: Path) -> tuple[int, list[str]]:
    """Exit status and lines of the command for ``directory``."""
    command = [str(ROOT / "bin" / "qmail-showctl"), "--check", "--from", str(directory)]
    done = subprocess.run(command, env={"QMAIL_HOME": "/nowhere"}, capture_output=True, timeout=60)
    assert done.stderr == b""
    return done.returncode, done.stdout.decode().splitlines()


def assert_says(lines: list[str], *beginnings: str) -> None:
    for beginning in beginnings:
        assert any(line.startswith(beginning) for line in lines), beginning + "\n" + "\n".join(lines)


def test_each_variable_that_is_said_to_be_taken_is_read() -> None:
    missing = {name for name in TAKEN if not re.search(rf"""b?["']{name}["']""", SOURCE)}
    assert missing == set()


def test_each_control_file_that_is_said_to_be_taken_is_read() -> None:
    databases = {name + ".cdb" for name in ADDRESSES}
    read_otherwise = {"morercpthosts", "servercerts"}  # qmail-newmrh and the certificates have constants of their own
    missing = {
        name
        for name in set(BY_NAME) - read_otherwise - databases
        if not re.search(rf"""["'/]{re.escape(name)}["']""", SOURCE)
        and not re.search(rf"control/{re.escape(name)}\b", READ_BY_SCRIPTS)
    }
    assert missing == set()


def test_no_name_is_taken_and_refused_at_once() -> None:
    assert [name for name in TAKEN if found_in(VARIABLES, name)] == []
    assert [name for name in BY_NAME if found_in(FILES, name)] == []


def test_netqmail_with_tls_and_auth(tmp_path: Path) -> None:
    code, lines = report(make(tmp_path, NETQMAIL))
    run = "supervise/qmail-smtpd/run: "
    assert code == 1
    assert "control/me: taken" in lines
    assert f"{run}SMTPAUTH: taken" in lines
    assert_says(
        lines,
        "control/rsa512.pem: ignored: because ",
        "control/dh1024.pem: ignored: because ",
        "control/clientcert.pem: not supported: because it is shown only to servers",
        "control/tlshosts: taken",
        "control/authsenders: taken",
        "control/smtproutes: not supported: because it has passwords that others may read",
        f"{run}QMAILDUID: ignored: because only the script",
        f"{run}softlimit -m 30000000: not supported: because Python needs at least 67108864 bytes",
        f"{run}tcpserver -x: taken",
        f"{run}rblsmtpd -r: taken",
        f"{run}/bin/checkpassword /bin/true: taken: the checker runs as",
        "/etc/tcp.smtp: taken",
        "/etc/tcp.smtp: RELAYCLIENT: taken",
        "/etc/tcp.smtp: CHKUSER_START: not supported: because ",
    )
    assert not any("secret" in line or "joe" in line or "example.com:relay" in line for line in lines)


def test_sagredos(tmp_path: Path) -> None:
    code, lines = report(make(tmp_path, SAGREDO) / "var" / "qmail")
    assert code == 1
    for name in ("SMTPD_GREETDELAY", "DROP_PRE_GREET", "SPFBEHAVIOR"):
        assert f"supervise/qmail-smtpd/run: {name}: taken" in lines
    for name in ("SMTPAUTH", "FORCEAUTHMAILFROM"):
        assert f"supervise/qmail-submission/run: {name}: taken" in lines
    for name in ("FORCETLS", "DISABLETLS"):
        assert f"supervise/qmail-smtps/run: {name}: taken" in lines
    assert_says(
        lines,
        "control/servercerts: taken",
        "control/tlsserverciphers: taken",
        "control/spfbehavior: taken",
        "control/spfguess: not supported: because a domain without a record",
        "control/authservid: taken",
        "control/badhelo: taken",
        "control/badmailfrom: '*.example.com': not supported: because ",
        "control/srs_secrets: not supported: because others than its owner may read it",
        "control/brtlimit: taken",
        "supervise/qmail-smtpd/run: CHKUSER_START: not supported: because qmail-rcptd",
        "supervise/qmail-smtpd/run: DKIMVERIFY: not supported: because control/dmarcbehavior",
        "supervise/qmail-smtpd/run: DKIMSIGN: not supported: because qmail-remote signs with every key",
        "supervise/qmail-smtpd/run: SPFEXP: not supported: because control/spfbehavior, spfrules and spfexp",
        "supervise/qmail-smtpd/run: softlimit -m 1073741824: taken",
        "supervise/qmail-smtps/run: CERTFILE: ignored: because sslserver reads it",
        "supervise/qmail-smtps/run: sslserver: ignored: because it is not ours",
        "supervise/qmail-submission/run: /home/vpopmail/bin/vchkpw /bin/true: taken",
        "/home/vpopmail/etc/tcp.smtp: not supported: because its source cannot be read",
    )
    assert not any(line.startswith("control/badmailfrom: 'joe") for line in lines)
    assert not any("538" in line for line in lines)  # FORCETLS=0 stands there


def test_sqmails(tmp_path: Path) -> None:
    code, lines = report(make(tmp_path, SQMAIL))
    assert code == 1
    assert_says(
        lines,
        "control/mailfromrules: taken",
        "control/mailfromrules: 'joe@example.org&joe.doe@example.org': not supported: because a line is user:address",
        "control/tlsdestinations: taken",
        "control/recipients: taken",
        "control/dkimdomains: not supported: because ",
        "control/maxrecipients: taken",
        "service/qmail-smtpd/run: UCSPITLS=: taken as STARTTLS",
        "service/qmail-smtpd/run: LOCALMFCHECK: not supported: because set FORCEAUTHMAILFROM=1",
        "service/qmail-smtpd/run: HELOCHECK: not supported: because ",
        "service/qmail-smtpsub/run: UCSPITLS=!: taken as no mail without TLS",
        "service/qmail-smtps/run: sslserver: not supported: because qmail-smtpd refuses AUTH behind it (538)",
    )
    assert not any("'ann" in line for line in lines)


def test_a_tree_that_works_as_it_is_ends_with_0(tmp_path: Path) -> None:
    (tmp_path / "control").mkdir()
    (tmp_path / "control" / "me").write_text("mx.example.org\n")
    assert report(tmp_path) == (0, ["control/me: taken"])


def test_no_tree_is_said(tmp_path: Path) -> None:
    code, lines = report(tmp_path)
    assert code == 111
    assert lines == [f"Oops! {tmp_path}: no qmail: neither control nor var/qmail/control is there."]


def test_odd_files_neither_stop_it_nor_reach_the_terminal(tmp_path: Path) -> None:
    root = make(tmp_path, {"control/me": "x.example\n", "control/\033[31mred": "x\n"})
    home = root / "var" / "qmail"
    os.mkfifo(home / "control" / "smtproutes")
    for name in ("one", "two"):
        (home / "service" / name).mkdir(parents=True)
    os.mkfifo(home / "service" / "one" / "run")
    (home / "service" / "two" / "run").write_bytes(b"exec tcpserver 'open \xff quote -x qmail-smtpd\n")
    (root / "etc" / "tcp.smtp").write_bytes(b"1.2.3.4:maybe\n:allow\n")
    code, lines = report(root)
    assert code == 1
    assert_says(
        lines,
        "control/?[31mred: not supported",
        "control/smtproutes: not supported: because it cannot be read: is not a file",
        "service/one/run: not supported: because it cannot be read: is not a file",
        "/etc/tcp.smtp: 1.2.3.4:maybe: not supported: because tcprules refuses the line",
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: gives files to users")
def test_what_our_users_cannot_read_and_what_others_can(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    accounts = {"qmaild": (64010, 64020), "qmailr": (64011, 64021), "qmails": (64012, 64021)}

    class Account:
        def __init__(self, name: str) -> None:
            self.pw_uid, self.pw_gid = accounts[name]

    monkeypatch.setattr("pyqmail.admin.moving_in.pwd.getpwnam", Account)
    home = make(tmp_path, NETQMAIL) / "var" / "qmail"
    certificate, routes = home / "control" / "servercert.pem", home / "control" / "smtproutes"

    def complaints(name: str) -> list[str]:
        found = other_run_files.everything(find_tree(str(home)))
        return [each.why for each in found if each.where == f"control/{name}" and each.why and not each.what]

    os.chown(certificate, 0, 64020)
    assert complaints("servercert.pem") == []
    os.chown(certificate, 64010, 0)
    assert complaints("servercert.pem") == []
    os.chown(certificate, 0, 64021)  # qmail's group, which tcpserver -g does not leave to qmaild
    (told,) = complaints("servercert.pem")
    assert told.startswith("qmaild cannot read it: mode 0640, owner 0:64021")
    certificate.chmod(0o644)
    (told,) = complaints("servercert.pem")
    assert told.startswith("it has a key, and others may read")
    routes.chmod(0o640)
    os.chown(routes, 0, 64021)
    assert complaints("smtproutes") == []
    os.chown(routes, 0, 0)
    (told,) = complaints("smtproutes")
    assert told.startswith("qmailr cannot read it: mode 0640")
