"""MTA-STS with Debian's postfix-mta-sts-resolver, which looks policies up in a name server and a web server here."""

import http.server
import os
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import cast

import pytest

from pyqmail.failure import TemporaryFailure
from pyqmail.remote.dane import Dane, Keys
from pyqmail.remote.mta_sts import ask_policy
from pyqmail.remote.published import Published
from pyqmail.remote.security import BY_DANE, Level, Security
from pyqmail.remote.tlsa import Tlsa, Usage
from tests.certificates import self_signed, server_context, signed_by
from tests.nameserver import nameserver, own_network
from tests.waiting import wait_for

DAEMON = shutil.which("mta-sts-daemon", path="/usr/bin")
pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: port 443 and a resolv.conf of its own"),
    pytest.mark.skipif(DAEMON is None or not shutil.which("nsd", path="/usr/sbin"), reason="needs nsd and the daemon"),
]
POLICY = "version: STSv1\r\nmode: {}\r\nmx: mx.x.test\r\nmx: *.wild.test\r\nmax_age: 86400\r\n"
MODES = {"x.test": "enforce", "testing.test": "testing", "none.test": "none"}
ENFORCED = {b"mx.x.test", b".wild.test"}  # the daemon keeps no order


class Policies(http.server.BaseHTTPRequestHandler):
    """Each domain's policy, by the name that the client asks for."""

    def do_GET(self) -> None:
        """The policy."""
        text = POLICY.format(MODES[self.headers["Host"].removeprefix("mta-sts.")]).encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: object) -> None:
        """Nothing."""


def web_server(address: str, folder: Path, authority: Path) -> http.server.ThreadingHTTPServer:
    """One with a certificate for each policy host."""
    contexts = {f"mta-sts.{name}": server_context(signed_by(authority, folder, f"mta-sts.{name}")) for name in MODES}
    context = contexts["mta-sts.x.test"]

    def choose(sock: ssl.SSLObject, name: str | None, _: object) -> None:
        sock.context = contexts.get(name or "", context)

    context.sni_callback = choose
    server = http.server.ThreadingHTTPServer((address, 443), Policies)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def connects(path: Path) -> bool:
    """Whether somebody takes connections there."""
    with socket.socket(socket.AF_UNIX) as sock:
        return sock.connect_ex(str(path)) == 0


@pytest.fixture(scope="module")
def where(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """What control/mtasts says of the daemon."""
    folder = tmp_path_factory.mktemp("sts")
    address = own_network() + ".9"
    (folder / "resolv.conf").write_text(f"nameserver {address}\noptions attempts:1\n")
    (folder / "daemon.yml").write_text(
        f"path: {folder}/socket\nmode: 0666\ncache:\n  type: internal\n  options:\n    cache_size: 100\n"
        "default_zone:\n  strict_testing: false\n  timeout: 4\n"
    )
    authority = self_signed(folder, "ca.test", strict=True)
    zone = ['_mta-sts TXT "v=STSv1; id=1;"', f"mta-sts A {address}", "@ MX 10 mx"]
    zones = {name: zone for name in MODES} | {"plain.test": ["@ MX 10 mx"], "broken.test": [zone[0]]}
    script = f"mount --bind {folder}/resolv.conf /etc/resolv.conf && exec {DAEMON} -c {folder}/daemon.yml"
    with nameserver(address, zones):
        server = web_server(address, folder, authority)
        with (folder / "log").open("wb") as log:
            daemon = subprocess.Popen(
                ["unshare", "--mount", "sh", "-c", script],
                env={**os.environ, "SSL_CERT_FILE": str(authority)},
                stdout=log,
                stderr=log,
            )
        try:
            wait_for(lambda: connects(folder / "socket"), "the daemon")
            yield f"unix:{folder}/socket"
        finally:
            daemon.terminate()
            daemon.wait(20)
            server.shutdown()
            server.server_close()


@pytest.mark.parametrize(
    ("domain", "patterns"),
    [
        pytest.param(b"x.test", ENFORCED, id="in force"),
        pytest.param(b"X.Test", ENFORCED, id="in another case"),
        pytest.param(b"testing.test", None, id="in testing mode"),
        pytest.param(b"none.test", None, id="of mode none"),
        pytest.param(b"plain.test", None, id="none"),
        pytest.param(b"broken.test", None, id="promised by DNS alone, and never seen"),
    ],
)
def test_what_the_daemon_says_of_a_domain(where: str, domain: bytes, patterns: set[bytes] | None) -> None:
    policy = ask_policy(where, domain)
    assert (policy and set(policy.patterns)) == patterns


@pytest.mark.parametrize(
    ("exchanger", "says"),
    [(b"mx.x.test", b"tls=TLSv1.3, verified by sts\n"), (b"mx.y.test", b"no exchanger that MTA-STS allows")],
)
def test_mail_goes_to_listed_exchangers_alone(
    deliver: Callable[..., bytes], where: str, exchanger: bytes, says: bytes
) -> None:
    assert says in deliver((b"", exchanger, True), mtasts=where)


def test_testing_mode_never_blocks(where: str) -> None:
    published = Published(b"testing.test", sts=partial(ask_policy, where), dane=lambda: b"")
    assert published.of(b"mx.elsewhere.test", Security(Level.MAY)) == Security(Level.MAY)


def test_dane_is_asked_first_and_wins(where: str) -> None:
    """The exchanger that the policy does not list has TLSA records."""

    class Signed:
        """What the look-up finds."""

        def of(self, name: bytes) -> Keys:
            """One record."""
            record = Tlsa(Usage.END_ENTITY, of_key=True, digest="sha256", data=bytes(32))
            return Keys((record,), (name, b"x.test"), via_signed=True)

    published = Published(b"x.test", sts=partial(ask_policy, where), dane=lambda: cast(Dane, Signed()))
    found = published.of(b"mx.y.test", Security(Level.DANE))
    assert found.by == BY_DANE and found.records


def test_a_daemon_that_is_gone_makes_mail_wait(where: str) -> None:
    with pytest.raises(TemporaryFailure, match="Unable to learn the MTA-STS policy"):
        ask_policy(where + ".gone", b"x.test")
