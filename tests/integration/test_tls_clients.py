"""Other people's programs as clients of ours, over TLS and with AUTH: mail servers, mail programs, and openssl(1)."""

import contextlib
import os
import shlex
import shutil
import smtplib
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.certificates import client_context, self_signed
from tests.integration.receivers import PEERS, POSTFIX_SERVICES, Exim, Opensmtpd, Postfix, Receiver, unpacked
from tests.programs.door import BIN
from tests.programs.tcp_servers import Servers
from tests.waiting import wait_for

NAME, SECRET = "ann", "Tr0ub4dor-3"
SENDER, RECIPIENT = "ann@here.test", "joe@elsewhere.test"
CHECKER = f"""#!/bin/sh
[ "$(tr '\\0' '|' <&3)" = '{NAME}|{SECRET}|' ] && exec "$@"
exit 1
"""
QUEUE = """#!/bin/sh
cat >{base}/queue/$$.new
cat <&1 >{base}/queue/$$.envelope
mv {base}/queue/$$.new {base}/queue/$$.message
"""


class Desk:
    """Our server on three ports: STARTTLS with AUTH, TLS from the start with AUTH, and STARTTLS without AUTH."""

    def __init__(self, base: Path, servers: Servers) -> None:
        self.base = base
        (base / "control/servercerts/other.test").mkdir(parents=True)
        (base / "queue").mkdir()
        self.pem = self_signed(base)
        rsa = self_signed(base, kind="rsa")
        self.other = self_signed(base, "other.test")
        self._write("control/me", "mx.test\n")
        self._write("control/rcpthosts", "here.test\n")
        self._write("control/servercert.pem", self.pem.read_text() + rsa.read_text(), 0o400)
        self._write("control/servercerts/other.test/servercert.pem", self.other.read_text(), 0o400)
        self.authorities = self._write("authorities.pem", self.pem.read_text() + rsa.read_text())
        queue, checker = self._write("queue-program", QUEUE.format(base=base)), self._write("checker", CHECKER)
        environ = {"QMAIL_HOME": str(base), "QMAILQUEUE": str(queue), "SMTPAUTH": "!"}
        command = ["-HRl0", "--", str(BIN / "qmail-smtpd")]
        self.port = servers(*command, str(checker), "true", **environ).port
        self.smtps = servers(*command, str(checker), "true", **environ, SMTPS="1").port
        self.plain = servers(*command, **{**environ, "SMTPAUTH": "-"}).port

    def _write(self, name: str, text: str, mode: int = 0o755) -> Path:
        path = self.base / name
        path.write_text(text)
        path.chmod(mode)
        return path

    def arrived(self, subject: str, recipient: str = RECIPIENT, how: str = "ESMTPSA") -> None:
        """Wait for the one message with that subject, and see that it came as it should."""

        def found() -> list[Path]:
            wanted = f"\nSubject: {subject}\n".encode()
            return [path for path in (self.base / "queue").glob("*.message") if wanted in path.read_bytes()]

        wait_for(found, f"a message about {subject}", 30)
        (path,) = found()
        behind = ";" if how == "SMTP" else " ("  # the cipher
        assert f"with {how}{behind}".encode() in path.read_bytes()
        assert f"T{recipient}\0".encode() in path.with_suffix(".envelope").read_bytes()

    def text(self, subject: str) -> str:
        """A message."""
        return f"From: {SENDER}\nTo: {RECIPIENT}\nSubject: {subject}\n\nIt works.\n"


@pytest.fixture(scope="module")
def desk() -> Iterator[Desk]:
    servers = Servers()
    with tempfile.TemporaryDirectory(prefix="pyqmail-clients-") as base:
        os.chmod(base, 0o755)
        yield Desk(Path(base), servers)
        servers.end()


def run(*words: object, text: str = "", **environ: str) -> str:
    """What a program says; it must succeed."""
    command = [str(word) for word in words]
    if shutil.which(command[0]) is None:
        pytest.skip(f"no {command[0]}")
    place = {"HOME": "/nonexistent", "PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8"}
    done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=60, env=place | environ)
    assert done.returncode == 0, (command, done.stdout, done.stderr)
    return done.stdout + done.stderr


class PostfixClient(Postfix):
    """Hands all mail to our server."""

    SERVICES = POSTFIX_SERVICES + "smtp unix - - n - - smtp\ntlsmgr unix - - n 1000? 1 tlsmgr\n"


class EximClient(Exim):
    """Hands all mail to our server."""

    QUEUEING = f"exim_path = {PEERS}/usr/sbin/exim4\ndeliver_drop_privilege = true"


def postfix(desk: Desk) -> Receiver:
    return PostfixClient(
        [],
        f"relayhost = [127.0.0.1]:{desk.port}\nsmtp_tls_security_level = secure\nsmtp_tls_secure_cert_match = mx.test\n"
        f"smtp_tls_CAfile = {desk.authorities}\nsmtp_sasl_auth_enable = yes\nsmtp_sasl_security_options = noanonymous\n"
        f"smtp_sasl_password_maps = inline:{{[127.0.0.1]:{desk.port}={NAME}:{SECRET}}}\n",
    )


def exim(desk: Desk) -> Receiver:
    return EximClient(
        [],
        f"""
begin routers
out:
  driver = manualroute
  transport = out
  route_list = * 127.0.0.1::{desk.port}
  self = send
begin transports
out:
  driver = smtp
  hosts_require_auth = *
  hosts_require_tls = *
  tls_verify_certificates = {desk.authorities}
  tls_verify_hosts = *
  tls_verify_cert_hostnames =
begin authenticators
plain:
  driver = plaintext
  public_name = PLAIN
  client_send = ^{NAME}^{SECRET}
""",
    )


def opensmtpd(desk: Desk) -> Receiver:
    return Opensmtpd(
        [],
        f'table secrets {{ x = "{NAME}:{SECRET}" }}\n'
        f'action "hold" relay host smtp+tls://x@127.0.0.1:{desk.port} auth <secrets> tls no-verify',
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="runs mail servers")
@pytest.mark.parametrize("start", [postfix, exim, opensmtpd])
def test_a_mail_server_relays_through_ours(desk: Desk, start: Callable[[Desk], Receiver]) -> None:
    if start is not postfix and not unpacked({exim: "exim4", opensmtpd: "smtpd"}[start]):
        pytest.skip("needs the unpacked peers")
    receiver = start(desk)
    with contextlib.closing(_Ending(receiver)), smtplib.SMTP("127.0.0.1", receiver.port, timeout=60) as client:
        client.sendmail(SENDER, [RECIPIENT], desk.text(f"by {start.__name__}"))
        desk.arrived(f"by {start.__name__}")


@pytest.mark.skipif(os.geteuid() != 0, reason="runs mail servers")
def test_postfix_takes_tls_by_itself_where_it_is_offered(desk: Desk) -> None:
    more = f"relayhost = [127.0.0.1]:{desk.plain}\nsmtp_tls_security_level = may\n"
    receiver = PostfixClient([], more)
    with contextlib.closing(_Ending(receiver)), smtplib.SMTP("127.0.0.1", receiver.port, timeout=60) as client:
        client.sendmail("joe@elsewhere.test", [SENDER], desk.text("by opportunity"))
        desk.arrived("by opportunity", SENDER, "ESMTPS")


@pytest.mark.skipif(os.geteuid() != 0, reason="runs mail servers")
def test_a_broken_certificate_does_not_keep_postfix_waiting() -> None:
    """It hears 454 and sends in clear; after a handshake that fails it would wait for five minutes."""
    servers = Servers()
    with tempfile.TemporaryDirectory(prefix="pyqmail-clients-") as base:
        os.chmod(base, 0o755)
        desk = Desk(Path(base), servers)
        pem = desk.base / "control/servercert.pem"
        pem.chmod(0o600)
        pem.write_text(desk.other.read_text()[:300])
        more = f"relayhost = [127.0.0.1]:{desk.plain}\nsmtp_tls_security_level = may\n"
        receiver = PostfixClient([], more)
        with contextlib.closing(_Ending(receiver)), smtplib.SMTP("127.0.0.1", receiver.port, timeout=60) as client:
            client.sendmail("joe@elsewhere.test", [SENDER], desk.text("in clear"))
            desk.arrived("in clear", SENDER, "SMTP")
        servers.end()


class _Ending:
    """Ends a server."""

    def __init__(self, receiver: Receiver) -> None:
        self.close = receiver.stop


@pytest.mark.parametrize("secured", ["STARTTLS", "from the start"])
class TestMailPrograms:
    """Each logs in and sends one message; with STARTTLS on one port, with TLS from the start on the other."""

    def test_swaks(self, desk: Desk, secured: str) -> None:
        how, port = ("--tls-on-connect", desk.smtps) if secured != "STARTTLS" else ("-tls", desk.port)
        words = ["swaks", "--server", f"127.0.0.1:{port}", how, "-a", "LOGIN", "-au", NAME, "-ap", SECRET]
        run(*words, "-f", SENDER, "-t", RECIPIENT, "--h-Subject", f"swaks {secured}")
        desk.arrived(f"swaks {secured}")

    def test_curl_verifies(self, desk: Desk, secured: str) -> None:
        scheme, port = ("smtps", desk.smtps) if secured != "STARTTLS" else ("smtp", desk.port)
        words = ["curl", "-sS", "--ssl-reqd", f"{scheme}://mx.test:{port}/", "--resolve", f"mx.test:{port}:127.0.0.1"]
        words += ["--cacert", desk.authorities, "-u", f"{NAME}:{SECRET}", "--mail-from", SENDER]
        run(*words, "--mail-rcpt", RECIPIENT, "-T", "-", text=desk.text(f"curl {secured}").replace("\n", "\r\n"))
        desk.arrived(f"curl {secured}")

    def test_msmtp_verifies(self, desk: Desk, secured: str, tmp_path: Path) -> None:
        later = secured == "STARTTLS"
        settings = tmp_path / "msmtprc"
        settings.write_text(
            f"account x\nhost 127.0.0.1\nport {desk.port if later else desk.smtps}\ntls on\ntls_host_override mx.test\n"
            f"tls_starttls {'on' if later else 'off'}\ntls_trust_file {desk.authorities}\nauth plain\nuser {NAME}\n"
            f"password {SECRET}\nfrom {SENDER}\n"
        )
        settings.chmod(0o600)
        run("msmtp", "-C", settings, "-a", "x", RECIPIENT, text=desk.text(f"msmtp {secured}"))
        desk.arrived(f"msmtp {secured}")

    def test_mutt(self, desk: Desk, secured: str) -> None:
        scheme, port = ("smtps", desk.smtps) if secured != "STARTTLS" else ("smtp", desk.port)
        settings = [f'smtp_url="{scheme}://{NAME}:{SECRET}@127.0.0.1:{port}/"', "ssl_force_tls=yes", "copy=no"]
        settings += ["ssl_verify_host=no", f"certificate_file={desk.authorities}", f"from={SENDER}"]
        words = [word for setting in settings for word in ("-e", f"set {setting}")]
        run("mutt", "-n", "-F", "/dev/null", *words, "-s", f"mutt {secured}", "--", RECIPIENT, text="It works.\n")
        desk.arrived(f"mutt {secured}")

    def test_s_nail(self, desk: Desk, secured: str) -> None:
        scheme, port = ("smtps", desk.smtps) if secured != "STARTTLS" else ("smtp", desk.port)
        settings = ["v15-compat=yes", f"mta={scheme}://{NAME}:{SECRET}@127.0.0.1:{port}", f"from={SENDER}"]
        settings += ["smtp-use-starttls" if secured == "STARTTLS" else "smtp-auth=plain", "tls-verify=ignore"]
        words = [word for setting in settings for word in ("-S", setting)]
        run("s-nail", "-n", *words, "-s", f"s-nail {secured}", RECIPIENT, text="It works.\n")
        desk.arrived(f"s-nail {secured}")

    def test_smtplib_verifies(self, desk: Desk, secured: str) -> None:
        context = client_context(desk.authorities)
        context.check_hostname = False
        if secured == "STARTTLS":
            client = smtplib.SMTP("127.0.0.1", desk.port, timeout=60)
            client.starttls(context=context)
        else:
            client = smtplib.SMTP_SSL("127.0.0.1", desk.smtps, timeout=60, context=context)
        with client:
            client.login(NAME, SECRET)
            client.sendmail(SENDER, [RECIPIENT], desk.text(f"smtplib {secured}"))
        desk.arrived(f"smtplib {secured}")

    def test_node_verifies(self, desk: Desk, secured: str, tmp_path: Path) -> None:
        script = tmp_path / "client.js"
        script.write_text(NODE)
        port = desk.port if secured == "STARTTLS" else desk.smtps
        given = [port, secured, desk.authorities, NAME, SECRET, SENDER, RECIPIENT, f"node {secured}"]
        run("node", script, *given)
        desk.arrived(f"node {secured}")


NODE = r"""
const net = require('net'), tls = require('tls'), fs = require('fs')
const [port, secured, ca, name, secret, sender, recipient, subject] = process.argv.slice(2)
let take, heard = ''
const listen = socket => socket.on('data', data => {
  heard += data
  const end = heard.match(/^\d{3} .*\r\n/m)
  if (end) { const text = heard; heard = ''; take(text) }
})
const reply = () => new Promise(resolve => { take = resolve })
async function say(socket, line, code) {
  const answer = reply()
  if (line !== null) socket.write(line + '\r\n')
  const text = await answer
  if (!text.startsWith(code)) { console.error(line, text); process.exit(1) }
}
const options = { ca: fs.readFileSync(ca), servername: 'mx.test' }
const secure = more => new Promise((resolve, reject) => {
  const socket = tls.connect({ ...options, ...more }, () => resolve(socket))
  socket.on('error', reject)
  listen(socket)
})
async function main() {
  let socket
  if (secured === 'STARTTLS') {
    const clear = net.connect(port, '127.0.0.1')
    listen(clear)
    await say(clear, null, '220')
    await say(clear, 'EHLO node', '250')
    await say(clear, 'STARTTLS', '220')
    clear.removeAllListeners('data')
    socket = await secure({ socket: clear })
  } else {
    const greeting = reply()
    socket = await secure({ host: '127.0.0.1', port })
    await greeting
  }
  await say(socket, 'EHLO node', '250')
  await say(socket, 'AUTH PLAIN ' + Buffer.from(`\0${name}\0${secret}`).toString('base64'), '235')
  await say(socket, `MAIL FROM:<${sender}>`, '250')
  await say(socket, `RCPT TO:<${recipient}>`, '250')
  await say(socket, 'DATA', '354')
  await say(socket, `Subject: ${subject}\r\n\r\nIt works.\r\n.`, '250')
  await say(socket, 'QUIT', '221')
  socket.end()
}
main().catch(error => { console.error(error); process.exit(1) })
"""


class TestOpenssl:
    """What openssl s_client sees: versions, ciphers, the chain and names."""

    def see(self, desk: Desk, options: str, say: str = "QUIT\n", port: int = 0) -> tuple[int, str]:
        """Exit code and output."""
        if shutil.which("openssl") is None:
            pytest.skip("no openssl")
        words = ["openssl", "s_client", "-connect", f"127.0.0.1:{port or desk.smtps}", "-CAfile", str(desk.authorities)]
        words += ["-crlf", "-ign_eof", *shlex.split(options)]
        done = subprocess.run(words, input=say, capture_output=True, text=True, timeout=60)
        return done.returncode, (done.stdout + done.stderr).replace(" = ", "=")  # as later versions have it

    @pytest.mark.parametrize(
        ("options", "shown"),
        [
            ("-tls1_2", ["Protocol  : TLSv1.2", "Secure Renegotiation IS supported", "Verify return code: 0 (ok)"]),
            ("-tls1_3", ["TLSv1.3", "Verify return code: 0 (ok)", "221 mx.test"]),
            ("-tls1_3 -groups X25519", ["Temp Key: X25519"]),
            ("-tls1_3 -groups P-521:P-256", ["TLSv1.3", "221 mx.test"]),
            ("-tls1_2 -cipher aRSA", ["Protocol  : TLSv1.2", "public key is 2048 bit", "221 mx.test"]),
            ("-tls1_2 -cipher aECDSA", ["Protocol  : TLSv1.2", "public key is 256 bit", "221 mx.test"]),
            ("-noservername", ["CN=mx.test", "Verify return code: 0 (ok)"]),
            ("-servername unknown.test", ["CN=mx.test", "Verify return code: 0 (ok)"]),
            ("-servername OTHER.test", ["CN=other.test"]),
            ("-servername mx.test -verify_hostname mx.test -verify_return_error", ["Verified peername: mx.test"]),
            ("-sess_out /dev/null -tls1_3", ["Verify return code: 0 (ok)"]),
        ],
        ids=lambda value: value if isinstance(value, str) else "",
    )
    def test_what_is_served(self, desk: Desk, options: str, shown: list[str]) -> None:
        code, text = self.see(desk, options)
        assert code == 0, text
        assert all(one in text for one in shown), text
        assert "New Session Ticket arrived" not in text and "TLS session ticket:" not in text

    @pytest.mark.parametrize(
        "options",
        [
            "-tls1 -cipher ALL:@SECLEVEL=0",
            "-tls1_1 -cipher ALL:@SECLEVEL=0",
            "-tls1_2 -cipher aNULL:eNULL:@SECLEVEL=0",
            "-tls1_2 -cipher RC4:3DES:DES:EXPORT:PSK:SRP:@SECLEVEL=0",
            "-servername other.test -verify_hostname mx.test -verify_return_error",
        ],
    )
    def test_what_is_not_served(self, desk: Desk, options: str) -> None:
        code, text = self.see(desk, options)
        assert code != 0 and "221 mx.test" not in text, text

    def test_no_renegotiation_by_the_client(self, desk: Desk) -> None:
        words = ["openssl", "s_client", "-connect", f"127.0.0.1:{desk.smtps}", "-tls1_2"]
        done = subprocess.run(words, input="R\nQUIT\n", capture_output=True, text=True, timeout=60)
        assert "RENEGOTIATING" in done.stdout + done.stderr
        assert "no renegotiation" in done.stderr

    def test_starttls(self, desk: Desk) -> None:
        code, text = self.see(desk, "-starttls smtp -servername mx.test", "EHLO x\nQUIT\n", desk.port)
        assert code == 0 and "250 AUTH LOGIN PLAIN" in text and "Verify return code: 0 (ok)" in text, text
