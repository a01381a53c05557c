"""Virtual users from qmail-vuser to real POP3 clients, on an installed tree, behind our tcpserver and Debian's."""

import os
import pwd
import shutil
import smtplib
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.certificates import self_signed
from tests.integration.mailhost import MailHost, ensure_user, install
from tests.public_directory import public_directory
from tests.waiting import wait_for

DOMAIN = "v.example.test"
OWNER = "pqvmail"
SERVERS = {"ours": "", "Debian's": "/usr/bin/tcpserver"}


class PopHost:
    """An installed tree with one virtual domain, delivering, with SMTP and POP3."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.host = MailHost(base / "qmail")
        self.mail = base / "qmail/domains" / DOMAIN
        self.port = 0

    def vuser(self, *words: str, password: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(self.host.home / "bin/qmail-vuser"), *words],
            input=password + "\n",
            env={"QMAIL_HOME": str(self.host.home)},
            capture_output=True,
            text=True,
            check=False,
        )

    def start_pop(self, server: str, **environ: str) -> subprocess.Popen[bytes]:
        words = [server or str(self.host.home / "bin/tcpserver"), "-1", "-H", "-R", "-l", "0", "127.0.0.1", "0"]
        words += ["qmail-popup", "pop.example.test", "checkpassword", "qmail-pop3d", "Maildir"]
        with self.host.log.open("ab") as log:
            process = subprocess.Popen(words, env=self.host.environ() | environ, stdout=subprocess.PIPE, stderr=log)
        assert process.stdout is not None
        self.port = int(process.stdout.readline())
        return process

    def send(self, recipient: str, body: str) -> None:
        with smtplib.SMTP("127.0.0.1", self.host.port) as smtp:
            smtp.sendmail("sender@example.test", [recipient], f"Subject: {body}\n\n{body}\n")

    def new(self, name: str) -> list[Path]:
        return sorted((self.mail / name / "Maildir/new").glob("*"))

    def empty(self) -> None:
        """A new Maildir for joe."""
        shutil.rmtree(self.mail / "joe/Maildir")
        for part in ("", "/tmp", "/new", "/cur"):
            path = self.mail / f"joe/Maildir{part}"
            path.mkdir(mode=0o700)
            os.chown(path, pwd.getpwnam(OWNER).pw_uid, -1)

    def fill(self, *bodies: str) -> None:
        """A message for joe with each of the bodies, ten seconds apart; qmail-pop3d lists none of this very second."""
        for body in bodies:
            self.send(f"joe@{DOMAIN}", body)
        wait_for(lambda: len(self.new("joe")) == len(bodies), "all messages")
        for path in self.new("joe"):
            text = path.read_text()
            (place,) = (number for number, body in enumerate(bodies) if f"\n\n{body}\n" in text)
            os.utime(path, (path.stat().st_mtime - 10 * (len(bodies) - place),) * 2)


@pytest.fixture(scope="module")
def pop_host() -> Iterator[PopHost]:
    if os.geteuid() != 0:
        pytest.skip("needs root: the tree has seven users")
    with public_directory() as base:
        ensure_user(OWNER)
        install(base / "qmail", me="mx.example.test\n", locals="example.test\n")
        made = PopHost(base)
        assert made.vuser("add-domain", DOMAIN, OWNER).returncode == 0
        for name in ("joe", "ann.b"):
            result = made.vuser("add", "--apop", f"{name}@{DOMAIN}", password=f"pass of {name}")
            assert result.returncode == 0, result.stderr
        made.host.log.touch()
        made.host.start_delivery()
        made.host.start_smtp()
        yield made
        made.host.stop()


@pytest.fixture(params=SERVERS)
def popped(pop_host: PopHost, request: pytest.FixtureRequest) -> Iterator[PopHost]:
    """The host with two old messages for joe, and POP3 under one tcpserver."""
    pop_host.empty()
    pop_host.fill("first", ".second")
    server = pop_host.start_pop(SERVERS[request.param])
    yield pop_host
    server.terminate()
    server.wait()
    assert server.stdout is not None
    server.stdout.close()


def curl(host: PopHost, path: str, *options: str, password: str = "pass of joe", code: int = 0) -> str:
    result = subprocess.run(
        ["curl", "-s", "-u", f"joe@{DOMAIN}:{password}", f"pop3://127.0.0.1:{host.port}/{path}", *options],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == code, result.stderr
    return result.stdout


def test_curl_lists_fetches_and_deletes(popped: PopHost) -> None:
    listed = curl(popped, "").split()
    assert listed[::2] == ["1", "2"]
    uids = curl(popped, "", "-X", "UIDL")
    assert ".second" in curl(popped, "2")
    assert curl(popped, "", "-X", "UIDL") == uids
    curl(popped, "1", "-X", "DELE", "-I")
    assert len(curl(popped, "").split()) == 2
    assert "Subject: .second" in curl(popped, "1")


def test_a_wrong_password_is_refused(popped: PopHost) -> None:
    curl(popped, "", password="wrong", code=67)


def run(words: list[str], home: Path, user: str = "root") -> str:
    """What it says. It ends well: some clients do so though they have fetched nothing."""
    environ = {"HOME": str(home), "PATH": os.environ["PATH"]}
    entry = pwd.getpwnam(user)
    result = subprocess.run(
        words, env=environ, capture_output=True, text=True, check=False, cwd=home,
        user=entry.pw_uid, group=entry.pw_gid, extra_groups=[],
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout + result.stderr


@pytest.mark.parametrize("auth", ["user", "apop"])
def test_mpop_fetches_all_and_leaves_nothing(popped: PopHost, tmp_path: Path, auth: str) -> None:
    box = tmp_path / "box"
    words = ["mpop", "--host=127.0.0.1", f"--port={popped.port}", "--tls=off", f"--auth={auth}", "--keep=off"]
    words += [f"--user=joe@{DOMAIN}", "--passwordeval=echo pass of joe", f"--delivery=mbox,{box}"]
    run([*words, f"--uidls-file={tmp_path}/uidls"], tmp_path)
    text = box.read_text()
    assert text.count("\nDelivered-To: ") == 2
    assert "\n.second\n" in text
    assert curl(popped, "").split() == []


def test_fetchmail_fetches_new_mail_once(popped: PopHost, tmp_path: Path) -> None:
    rc = tmp_path / "fetchmailrc"
    rc.write_text(
        f'poll 127.0.0.1 service {popped.port} protocol pop3 uidl user "joe@{DOMAIN}" password "pass of joe"'
        f' sslproto "" keep mda "cat >>{tmp_path}/box"\n'
    )
    rc.chmod(0o600)
    words = ["fetchmail", "-f", str(rc), "-i", str(tmp_path / "ids"), "--pidfile", str(tmp_path / "pid")]
    run(words, tmp_path)
    assert (tmp_path / "box").read_text().count("Subject: ") == 2
    again = subprocess.run(words, env={"HOME": str(tmp_path), "PATH": os.environ["PATH"]}, check=False)
    assert again.returncode == 1  # nothing new: the UIDs are the same, though the messages are in cur now
    assert (tmp_path / "box").read_text().count("Subject: ") == 2


@pytest.fixture
def other_home() -> Iterator[Path]:
    """A home of the mail owner's: getmail delivers nothing as root."""
    made = Path(tempfile.mkdtemp(prefix="getmail-"))
    for part in ("", "in", "in/tmp", "in/new", "in/cur"):
        (made / part).mkdir(exist_ok=True)
        os.chown(made / part, pwd.getpwnam(OWNER).pw_uid, -1)
    yield made
    shutil.rmtree(made)


def test_getmail_fetches_and_deletes(popped: PopHost, other_home: Path) -> None:
    (other_home / "getmailrc").write_text(
        f"[retriever]\ntype = SimplePOP3Retriever\nserver = 127.0.0.1\nport = {popped.port}\n"
        f"username = joe@{DOMAIN}\npassword = pass of joe\n"
        f"[destination]\ntype = Maildir\npath = {other_home}/in/\n[options]\ndelete = true\n"
    )
    said = run(["getmail", "-g", str(other_home), "-r", "getmailrc"], other_home, OWNER)
    assert sorted("second" in path.read_text() for path in (other_home / "in/new").iterdir()) == [False, True], said
    assert curl(popped, "").split() == []


def test_names_with_dots_aliases_forwards_and_defaults_take_mail(pop_host: PopHost) -> None:
    joe = len(pop_host.new("joe"))
    ann = len(pop_host.new("ann.b"))
    assert pop_host.vuser("alias", f"info@{DOMAIN}", f"joe@{DOMAIN}").returncode == 0
    assert pop_host.vuser("forward", f"ann.b@{DOMAIN}", f"joe@{DOMAIN}").returncode == 0
    pop_host.send(f"Info@{DOMAIN}", "alias")
    pop_host.send(f"Ann.B@{DOMAIN}", "forward")
    wait_for(lambda: len(pop_host.new("joe")) == joe + 2 and len(pop_host.new("ann.b")) == ann + 1, "three copies")
    with pytest.raises(smtplib.SMTPRecipientsRefused):
        pop_host.send(f"nobody@{DOMAIN}", "nobody")
    assert pop_host.vuser("default", DOMAIN, f"joe@{DOMAIN}").returncode == 0
    pop_host.send(f"nobody@{DOMAIN}", "default")
    wait_for(lambda: len(pop_host.new("joe")) == joe + 3, "the copy for nobody")
    assert pop_host.vuser("default", DOMAIN).returncode == 0


@pytest.fixture(params=SERVERS)
def secured(pop_host: PopHost, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[PopHost, int, int]]:
    """The host with a certificate and a message for joe: the ports for STLS and for POP3S."""
    name = SERVERS[request.param]
    path = pop_host.host.home / "control/servercert.pem"
    shutil.copy(self_signed(tmp_path, "localhost"), path)
    os.chown(path, pwd.getpwnam("qmaild").pw_uid, -1)
    path.chmod(0o400)
    servers, ports = [], []
    for environ in ({"UCSPITLS": "!"}, {"POP3S": "1"}):
        servers.append(pop_host.start_pop(name, **environ))
        ports.append(pop_host.port)
    pop_host.empty()
    pop_host.fill("secured")
    yield pop_host, ports[0], ports[1]
    for server in servers:
        server.terminate()
        server.wait()
        assert server.stdout is not None
        server.stdout.close()
    path.unlink()


def test_curl_mpop_and_fetchmail_over_tls(secured: tuple[PopHost, int, int], tmp_path: Path) -> None:
    _, stls, pop3s = secured
    login = ["curl", "-s", "-k", "-u", f"joe@{DOMAIN}:pass of joe"]
    plain = subprocess.run([*login, f"pop3://127.0.0.1:{stls}/"], capture_output=True, check=False)
    assert plain.returncode != 0 and plain.stdout == b""  # no password in clear
    for words in (["--ssl-reqd", f"pop3://127.0.0.1:{stls}/"], [f"pop3s://127.0.0.1:{pop3s}/"]):
        run([*login, *words], tmp_path)
    for port, options in ((stls, ["--tls-starttls=on"]), (pop3s, ["--tls-starttls=off"])):
        box = tmp_path / f"box-{port}"
        words = ["mpop", "--host=127.0.0.1", f"--port={port}", "--tls=on", "--tls-certcheck=off", *options, "--keep=on"]
        words += [f"--user=joe@{DOMAIN}", "--passwordeval=echo pass of joe", f"--delivery=mbox,{box}", "--auth=user"]
        run([*words, f"--uidls-file={tmp_path}/uidls-{port}"], tmp_path)
        assert "Subject: secured" in box.read_text()
    for port, option in ((stls, "sslproto tls1.2+"), (pop3s, "ssl")):
        rc = tmp_path / f"rc-{port}"
        rc.write_text(
            f'poll 127.0.0.1 service {port} protocol pop3 uidl user "joe@{DOMAIN}" password "pass of joe"'
            f' {option} no sslcertck keep mda "cat >>{tmp_path}/fetched-{port}"\n'
        )
        rc.chmod(0o600)
        files = ["-i", str(tmp_path / f"ids-{port}"), "--pidfile", str(tmp_path / "pid")]
        run(["fetchmail", "-f", str(rc), *files], tmp_path)
        assert "Subject: secured" in (tmp_path / f"fetched-{port}").read_text()


def test_getmail_over_tls(secured: tuple[PopHost, int, int], other_home: Path) -> None:
    pop_host, _, port = secured
    (other_home / "getmailrc").write_text(
        f"[retriever]\ntype = SimplePOP3SSLRetriever\nserver = 127.0.0.1\nport = {port}\n"
        f"username = joe@{DOMAIN}\npassword = pass of joe\n"
        f"[destination]\ntype = Maildir\npath = {other_home}/in/\n[options]\ndelete = true\n"
    )
    said = run(["getmail", "-g", str(other_home), "-r", "getmailrc"], other_home, OWNER)
    assert ["secured" in path.read_text() for path in (other_home / "in/new").iterdir()] == [True], said
    assert pop_host.new("joe") == [], said
