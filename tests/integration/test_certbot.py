"""certbot gets a certificate from a real ACME server, pebble, and its deploy hook puts it before our clients."""

import json
import os
import shutil
import signal
import smtplib
import ssl
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.certificates import self_signed
from tests.integration.receivers import listening
from tests.loopback import free_port
from tests.programs.door import BIN
from tests.programs.tcp_servers import Servers
from tests.waiting import wait_for

HOOK = BIN.parent / "control-examples/certificates/certbot-deploy-hook"
NAME = "mx.test"


class Authority:
    """A running pebble, which believes that everybody has the names that he asks for."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.port = free_port()
        self.pem = self_signed(base, "localhost")
        key, certificate = (str(self.pem.with_suffix(end)) for end in (".key", ".crt"))
        places = {"listenAddress": f"127.0.0.1:{self.port}", "managementListenAddress": f"127.0.0.1:{free_port()}"}
        settings = {**places, "certificate": certificate, "privateKey": key, "httpPort": 5002, "tlsPort": 5001}
        (base / "pebble.json").write_text(json.dumps({"pebble": settings}))
        environ = {"PEBBLE_VA_ALWAYS_VALID": "1", "PEBBLE_VA_NOSLEEP": "1", "PEBBLE_WFE_NONCEREJECT": "0"}
        with (base / "pebble.log").open("wb") as log:
            command = ["pebble", "-config", str(base / "pebble.json")]
            self.process = subprocess.Popen(command, env=environ | {"PATH": os.environ["PATH"]}, stdout=log, stderr=log)
        wait_for(lambda: listening(self.port), "pebble")

    def certbot(self, *words: str) -> None:
        """Run certbot to its end, as cron or an administrator does."""
        places = [f"--{name}-dir={self.base}/{name}" for name in ("config", "work", "logs")]
        environ = {"QMAIL_HOME": str(self.base / "home"), "PATH": os.environ["PATH"]}
        environ["REQUESTS_CA_BUNDLE"] = str(self.pem)
        command = ["certbot", *words, "-n", *places]
        done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "reported error" not in done.stdout + done.stderr  # which it says, and goes on

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(30)


@pytest.fixture
def authority() -> Iterator[Authority]:
    for program in ("pebble", "certbot"):
        if shutil.which(program) is None:
            pytest.skip(f"no {program}")
    with tempfile.TemporaryDirectory(prefix="pyqmail-acme-") as base:
        made = Authority(Path(base))
        yield made
        made.stop()


def shown(port: int) -> bytes:
    """The certificate that a client of the server is shown."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with smtplib.SMTP("127.0.0.1", port, timeout=60) as client:
        client.starttls(context=context)
        assert isinstance(client.sock, ssl.SSLSocket)
        found = client.sock.getpeercert(True)
        assert found is not None
        return found


def test_a_new_certificate_and_a_renewed_one_serve_the_next_connection(authority: Authority) -> None:
    home = authority.base / "home"
    for name in ("control", "bin"):
        (home / name).mkdir(parents=True)
    (home / "control/me").write_text(f"{NAME}\n")
    (home / "control/rcpthosts").write_text("here.test\n")
    if os.geteuid():
        (home / "control/conf-users").write_text(f"{os.geteuid()}\n" * 8)
        (home / "control/conf-groups").write_text(f"{os.getegid()}\n" * 2)
    (home / "bin/qmail-cert").write_text(f'#!/bin/sh\nexec {BIN}/qmail-cert "$@"\n')
    (home / "bin/qmail-cert").chmod(0o755)
    server = f"https://localhost:{authority.port}/dir"
    first = ["certonly", "--server", server, "--agree-tos", "--register-unsafely-without-email", "-d", NAME]
    first += ["--standalone", "--http-01-port", str(free_port()), "--deploy-hook", str(HOOK)]
    authority.certbot(*first)
    pem = home / "control/servercert.pem"
    assert pem.stat().st_mode & 0o777 == 0o400
    assert pem.read_text().count("BEGIN CERTIFICATE") == 2  # the issuer's too
    servers = Servers()
    try:
        port = servers("-HRl0", "--", str(BIN / "qmail-smtpd"), QMAIL_HOME=str(home)).port
        before = shown(port)
        live = (authority.base / f"config/live/{NAME}/cert.pem").read_text()
        assert before == ssl.PEM_cert_to_DER_cert(live)
        authority.certbot("renew", "--force-renewal", "--no-random-sleep-on-renew")
        after = shown(port)
    finally:
        servers.end()
    renewed = (authority.base / f"config/live/{NAME}/cert.pem").read_text()
    assert renewed != live
    assert after == ssl.PEM_cert_to_DER_cert(renewed)
