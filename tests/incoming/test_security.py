"""TLS at the door of qmail-smtpd: real processes, real clients, and clients that no good client is."""

import os
import re
import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from pyqmail.formats.facts import Facts, format_facts
from tests.certificates import client_context, self_signed, signed_by
from tests.programs.door import DEADLINE_S, Door, door_of
from tests.programs.tcp_servers import Servers
from tests.waiting import wait_for

CLEAR = b"250-mx.test\r\n250-PIPELINING\r\n250-SIZE 0\r\n250 8BITMIME\r\n"
OFFERED = b"250-mx.test\r\n250-PIPELINING\r\n250-SIZE 0\r\n250-8BITMIME\r\n250 STARTTLS\r\n"


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return self_signed(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def door(pem: Path) -> Iterator[Door]:
    with door_of("qmail-smtpd", "-x") as made:
        install(made, pem)
        yield made


def install(door: Door, pem: Path, name: str = "servercert.pem", mode: int = 0o400) -> None:
    path = door.base / "control" / name
    shutil.copy(pem, path.with_suffix(".new"))
    path.with_suffix(".new").chmod(mode)
    path.with_suffix(".new").rename(path)


class Client:
    """One session with the program."""

    def __init__(self, door: Door) -> None:
        self.door = door
        self.sock, self.process = door.start()
        self.lines = self.sock.makefile("rb")

    def reply(self) -> bytes:
        """The next reply, all lines of it."""
        said = b""
        while True:
            line = self.lines.readline()
            said += line
            if line[3:4] != b"-":
                return said

    def say(self, command: bytes) -> bytes:
        self.sock.sendall(command + b"\r\n")
        return self.reply()

    def secure(self, context: ssl.SSLContext, name: str | None = "mx.test") -> None:
        self.sock = context.wrap_socket(self.sock, server_hostname=name)
        self.lines = self.sock.makefile("rb")

    def end(self) -> tuple[bytes, int, str]:
        """What is still said, the exit code, and the log."""
        try:
            rest = self.lines.read()
        except OSError:
            rest = b"(broken)"
        self.sock.close()
        return rest, self.process.wait(DEADLINE_S), self.door.log.read_text()


def test_without_a_certificate_nothing_is_offered(door: Door) -> None:
    (door.base / "control/servercert.pem").unlink()
    client = Client(door)
    assert client.reply().startswith(b"220 ")
    assert client.say(b"EHLO c") == CLEAR
    assert client.say(b"STARTTLS") == b"502 unimplemented (#5.5.1)\r\n"


@pytest.mark.parametrize(
    ("environ", "answer"),
    [
        ({"DISABLETLS": "1"}, CLEAR),
        ({"DISABLETLS": "0"}, OFFERED),
        ({"UCSPITLS": "-"}, CLEAR),
        ({"UCSPITLS": ""}, OFFERED),
    ],
)
def test_what_the_environment_says(door: Door, environ: dict[str, str], answer: bytes) -> None:
    door.environ |= environ
    client = Client(door)
    client.reply()
    assert client.say(b"EHLO c") == answer


def test_a_message_over_tls(door: Door, pem: Path) -> None:
    client = Client(door)
    client.reply()
    client.say(b"EHLO before.test")
    assert client.say(b"STARTTLS") == b"220 ready for tls\r\n"
    client.secure(client_context(pem))
    assert client.say(b"EHLO after.test") == CLEAR
    assert client.say(b"STARTTLS") == b"502 unimplemented (#5.5.1)\r\n"
    for command in (b"MAIL FROM:<a@b>", b"RCPT TO:<c@here.test>"):
        assert client.say(command) == b"250 ok\r\n"
    assert client.say(b"DATA") == b"354 go ahead\r\n"
    assert client.say(b"Subject: x\r\n\r\ny\r\n.").startswith(b"250 ok ")
    assert client.say(b"QUIT") == b"221 mx.test\r\n"
    rest, code, log = client.end()
    assert (rest, code) == (b"", 0)  # close_notify came: Python would raise without it
    received = (door.base / "message").read_bytes().partition(b";")[0].split(b"\n  ")
    assert received == [
        b"Received: from unknown (HELO after.test) (192.0.2.7)",
        b"by mx.test with ESMTPS (TLS_AES_256_GCM_SHA384 encrypted)",
    ]
    assert re.fullmatch(r"qmail-smtpd: accepted ip=192\.0\.2\.7 helo=after\.test .* qp=\d+ encrypted=TLSv1\.3\n", log)


def test_smtps_greets_under_tls_and_knows_that_it_is_there(door: Door, pem: Path) -> None:
    door.environ |= {"SMTPS": "1", "UCSPITLS": "!"}
    client = Client(door)
    client.secure(client_context(pem))
    assert client.reply() == b"220 mx.test ESMTP\r\n"
    assert client.say(b"EHLO c") == CLEAR
    assert client.say(b"MAIL FROM:<a@b>") == b"250 ok\r\n"
    client.say(b"QUIT")
    assert client.end()[:2] == (b"", 0)


def test_the_queue_program_hears_of_the_connection(door: Door, pem: Path) -> None:
    door.queue(f"env >{door.base}/environ")
    door.environ |= {"SSL_CIPHER": "claimed", "SSL_CLIENT_S_DN_Email": "claimed", "SMTPAUTHUSER": "claimed"}
    client = Client(door)
    client.reply()
    client.say(b"STARTTLS")
    client.secure(client_context(pem))
    for command in (b"HELO c", b"MAIL FROM:<a@b>", b"RCPT TO:<c@here.test>", b"DATA", b"x: y\r\n."):
        client.say(command)
    variables = dict(line.split("=", 1) for line in (door.base / "environ").read_text().splitlines())
    assert variables["SSL_PROTOCOL"] == "TLSv1.3" and variables["SSL_CIPHER"] == "TLS_AES_256_GCM_SHA384"
    assert variables["SSL_CIPHER_ALGKEYSIZE"] == "256"
    assert "claimed" not in variables.values()


def test_requiretls_is_for_sessions_under_tls(door: Door, pem: Path) -> None:
    """RFC 8689: section 2, who is offered it, and section 4.1, the message is tagged."""
    door.queue(f'printf %s "$QMAILFACTS" >{door.base}/facts')
    door.control(requiretls="1", factsafe=door.environ["QMAILQUEUE"])
    client = Client(door)
    client.reply()
    assert b"REQUIRETLS" not in client.say(b"EHLO c")
    assert client.say(b"MAIL FROM:<a@b> REQUIRETLS") == b"555 REQUIRETLS is not offered here (#5.7.30)\r\n"
    client.say(b"STARTTLS")
    client.secure(client_context(pem))
    assert client.say(b"EHLO c").endswith(b"250 REQUIRETLS\r\n")
    for command in (b"MAIL FROM:<a@b> REQUIRETLS", b"RCPT TO:<c@here.test>", b"DATA", b"x: y\r\n."):
        client.say(command)
    assert (door.base / "facts").read_bytes() == format_facts(Facts(requiretls=True), b"a@b")
    client.say(b"QUIT")
    assert " requiretls=yes\n" in client.end()[2]
    door.control(factsafe="/another")
    client = Client(door)
    client.reply()
    client.say(b"STARTTLS")
    client.secure(client_context(pem))
    assert b"REQUIRETLS" not in client.say(b"EHLO c")


def test_what_was_said_in_clear_is_forgotten(door: Door, pem: Path) -> None:
    client = Client(door)
    client.reply()
    for command in (b"EHLO c", b"MAIL FROM:<a@b>", b"RCPT TO:<c@here.test>", b"STARTTLS"):
        client.say(command)
    client.secure(client_context(pem))
    assert client.say(b"RCPT TO:<c@here.test>").startswith(b"503 ")
    assert client.say(b"DATA").startswith(b"503 ")


def test_chunks_that_came_in_clear_are_forgotten(door: Door, pem: Path) -> None:
    door.control(chunking="1")
    client = Client(door)
    client.reply()
    for command in (b"EHLO c", b"MAIL FROM:<a@b>", b"RCPT TO:<c@here.test>", b"BDAT 6\r\nbody", b"STARTTLS"):
        client.say(command)
    client.secure(client_context(pem))
    assert client.say(b"BDAT 6 LAST\r\nbody") == b"503 MAIL first (#5.5.1)\r\n"


@pytest.mark.parametrize("injected", [b"EHLO injected\r\nMAIL FROM:<a@b>\r\n", b"BDAT 6 LAST\r\nQUIT\r\n"])
def test_what_follows_starttls_in_clear_ends_the_session(door: Door, injected: bytes) -> None:
    door.control(chunking="1")
    client = Client(door)
    client.reply()
    client.sock.sendall(b"STARTTLS\r\n" + injected)
    assert client.reply() == b"501 nothing may follow STARTTLS in clear (#5.5.1)\r\n"
    assert client.end()[:2] == (b"", 1)


def test_starttls_takes_no_parameters(door: Door) -> None:
    client = Client(door)
    client.reply()
    assert client.say(b"STARTTLS now").startswith(b"501 ")
    assert client.say(b"NOOP") == b"250 ok\r\n"


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"EHLO c\r\n", id="a command"),
        pytest.param(b"GET / HTTP/1.0\r\n\r\n", id="HTTP"),
        pytest.param(b"\x16\x03\x01\xff\xff" + bytes(100_000), id="100 KiB of a ClientHello"),
        pytest.param(b"\x16\x03\x01\x00\x05" + b"\x01\x00\x00", id="half a record"),
        pytest.param(bytes(range(256)) * 20, id="noise"),
        pytest.param(b"", id="nothing"),
    ],
)
@pytest.mark.parametrize("implicit", [False, True], ids=["STARTTLS", "SMTPS"])
def test_what_is_no_handshake_ends_it_with_a_line(door: Door, data: bytes, implicit: bool) -> None:
    if implicit:
        door.environ["SMTPS"] = "1"
    client = Client(door)
    if not implicit:
        client.reply()
        client.say(b"STARTTLS")
    try:
        client.sock.sendall(data)
        client.sock.shutdown(socket.SHUT_WR)
    except OSError:
        pass  # it has hung up already
    _, code, log = client.end()
    assert code == 1
    assert re.fullmatch(r"qmail-smtpd: tls-failed ip=192\.0\.2\.7 reason=[ -~]{1,120}\n", log)
    assert not (door.base / "pids").exists()


def test_a_handshake_in_pieces_of_a_byte(door: Door, pem: Path) -> None:
    client = Client(door)
    client.reply()
    client.say(b"STARTTLS")
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = client_context(pem).wrap_bio(incoming, outgoing, server_hostname="mx.test")
    while True:
        try:
            tls.do_handshake()
            break
        except ssl.SSLWantReadError:
            for byte in outgoing.read():
                client.sock.send(bytes((byte,)))
            incoming.write(client.sock.recv(1))
    tls.write(b"NOOP\r\n")
    for byte in outgoing.read():
        client.sock.send(bytes((byte,)))
    said = b""
    while not said.endswith(b"\r\n"):
        try:
            said += tls.read()
        except ssl.SSLWantReadError:
            incoming.write(client.sock.recv(1))
    assert said == b"250 ok\r\n"


def test_a_name_in_8_bits_is_a_line_and_no_more(door: Door, pem: Path) -> None:
    """Where there are certificates for names the interpreter reads what the client asks for, and would tell of it."""
    (door.base / "control/servercerts").mkdir()
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    asking = client_context(pem).wrap_bio(incoming, outgoing, server_hostname="mx.test")
    with pytest.raises(ssl.SSLWantReadError):
        asking.do_handshake()
    client = Client(door)
    client.reply()
    client.say(b"STARTTLS")
    client.sock.sendall(outgoing.read().replace(b"mx.test", b"m\xff.test"))
    _, code, log = client.end()
    assert (code, log.count("\n")) == (1, 1), log
    assert log.startswith("qmail-smtpd: tls-failed ip=192.0.2.7 reason=")


def test_a_handshake_that_stops_is_left(door: Door) -> None:
    door.control(timeoutsmtpd="1")
    client = Client(door)
    client.reply()
    client.say(b"STARTTLS")
    client.sock.sendall(b"\x16\x03\x01\x02\x00")
    _, code, log = client.end()
    assert (code, log) == (1, "qmail-smtpd: tls-failed ip=192.0.2.7 reason=the_handshake_took_too_long\n")


def test_the_end_without_a_goodbye_in_a_message_is_no_message(door: Door, pem: Path) -> None:
    client = Client(door)
    client.reply()
    client.say(b"STARTTLS")
    client.secure(client_context(pem))
    for command in (b"HELO c", b"MAIL FROM:<a@b>", b"RCPT TO:<c@here.test>", b"DATA"):
        client.say(command)
    client.sock.sendall(b"Subject: half\r\n\r\nof a mess")
    raw = socket.socket(fileno=os.dup(client.sock.fileno()))
    raw.shutdown(socket.SHUT_RDWR)
    raw.close()
    assert client.end()[1] == 1
    assert not (door.base / "envelope").exists() or door.envelope() == b""


@pytest.mark.parametrize("word", ["!", "@"])
def test_no_mail_without_tls_where_it_is_required(door: Door, word: str) -> None:
    door.environ["UCSPITLS"] = word
    client = Client(door)
    client.reply()
    assert client.say(b"EHLO c") == OFFERED
    assert client.say(b"MAIL FROM:<a@b>") == b"530 must issue STARTTLS first (#5.7.0)\r\n"
    assert client.say(b"RCPT TO:<c@here.test>") == b"503 MAIL first (#5.5.1)\r\n"


def test_tls_is_required_even_where_the_certificate_is_gone(door: Door) -> None:
    (door.base / "control/servercert.pem").unlink()
    door.environ["UCSPITLS"] = "!"
    client = Client(door)
    client.reply()
    assert client.say(b"MAIL FROM:<a@b>").startswith(b"530 ")


@pytest.mark.parametrize("mode", [0o444, 0o400], ids=["others can read it", "it is empty"])
def test_a_broken_certificate_is_454_and_an_alert(door: Door, tmp_path: Path, pem: Path, mode: int) -> None:
    (tmp_path / "empty").touch()
    install(door, pem if mode == 0o444 else tmp_path / "empty", mode=mode)
    client = Client(door)
    client.reply()
    assert client.say(b"EHLO c") == OFFERED
    assert client.say(b"STARTTLS") == b"454 TLS not available at the moment (#4.3.0)\r\n"
    assert client.say(b"QUIT") == b"221 mx.test\r\n"
    log = client.end()[2]
    reason = "others can read it" if mode == 0o444 else "no private key in it"
    assert log == f"qmail-smtpd: alert: control/servercert.pem: {reason}\n"


def test_a_broken_certificate_closes_the_port_of_smtps(door: Door, pem: Path) -> None:
    install(door, pem, mode=0o444)
    door.environ["SMTPS"] = "1"
    client = Client(door)
    rest, code, log = client.end()
    assert (rest, code) == (b"", 1) and "alert: control/servercert.pem" in log


def test_without_a_certificate_the_port_of_smtps_closes_with_a_line(door: Door) -> None:
    (door.base / "control/servercert.pem").unlink()
    door.environ["SMTPS"] = "1"
    rest, code, log = Client(door).end()
    assert (rest, code) == (b"", 1)
    assert log == "qmail-smtpd: alert: control/servercert.pem: No such file or directory\n"


def test_sendmail_bs_offers_no_tls(door: Door) -> None:
    door.environ |= {"TCPREMOTEINFO": "sendmail-bs", "TCPREMOTEIP": "127.0.0.1", "UCSPITLS": "!"}
    client = Client(door)
    client.reply()
    assert client.say(b"EHLO c") == CLEAR
    assert client.say(b"MAIL FROM:<a@b>") == b"250 ok\r\n"


def test_an_ident_server_that_says_sendmail_bs_changes_nothing(door: Door) -> None:
    door.environ |= {"TCPREMOTEINFO": "sendmail-bs", "UCSPITLS": "!"}
    client = Client(door)
    client.reply()
    assert client.say(b"EHLO c") == OFFERED
    assert client.say(b"MAIL FROM:<a@b>").startswith(b"530 ")


class TestClientCertificates:
    """control/clientca.pem and tlsclients."""

    @pytest.fixture(scope="class")
    def authority(self, tmp_path_factory: pytest.TempPathFactory) -> Path:
        return self_signed(tmp_path_factory.mktemp("authority"), "ca.test")

    @pytest.fixture(scope="class")
    def printer(self, authority: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
        return signed_by(authority, tmp_path_factory.mktemp("clients"), "printer.test", email="printer@here.test")

    def relay(self, door: Door, pem: Path, show: Path | None) -> bytes:
        """What a client hears that wants to send somewhere else."""
        client = Client(door)
        client.reply()
        client.say(b"STARTTLS")
        context = client_context(pem)
        if show is not None:
            context.load_cert_chain(show)
        client.secure(context)
        client.say(b"EHLO c")
        client.say(b"MAIL FROM:<a@b>")
        return client.say(b"RCPT TO:<c@elsewhere.test>")

    def install_authority(self, door: Door, authority: Path) -> None:
        text = authority.read_text()
        (door.base / "control/clientca.pem").write_text(text[text.index("-----BEGIN CERT") :])

    def test_a_listed_one_may_relay(self, door: Door, pem: Path, authority: Path, printer: Path) -> None:
        self.install_authority(door, authority)
        door.control(tlsclients="Printer@here.test")
        assert self.relay(door, pem, printer) == b"250 ok\r\n"
        assert self.relay(door, pem, None).startswith(b"553 ")

    def test_comments_may_be_in_every_script(self, door: Door, pem: Path, authority: Path, printer: Path) -> None:
        self.install_authority(door, authority)
        path = door.base / "control/clientca.pem"
        path.write_bytes("# Hitelesítés-szolgáltató\n".encode() + path.read_bytes())
        door.control(tlsclients="printer@here.test")
        assert self.relay(door, pem, printer) == b"250 ok\r\n"

    def test_one_that_is_not_listed_may_not(self, door: Door, pem: Path, authority: Path, printer: Path) -> None:
        self.install_authority(door, authority)
        door.control(tlsclients="other@here.test")
        assert self.relay(door, pem, printer).startswith(b"553 ")

    def test_without_tlsclients_nobody_is_asked(self, door: Door, pem: Path, authority: Path) -> None:
        self.install_authority(door, authority)
        assert self.relay(door, pem, pem).startswith(b"553 ")  # a certificate of nobody's would end the handshake

    def test_a_stranger_to_the_authority_is_not_served(self, door: Door, pem: Path, authority: Path) -> None:
        self.install_authority(door, authority)
        door.control(tlsclients="printer@here.test")
        with pytest.raises((ssl.SSLError, OSError)):
            assert self.relay(door, pem, pem).startswith(b"250 ")
            raise OSError

    def test_a_certificate_is_required_where_the_rules_say_so(
        self, door: Door, pem: Path, authority: Path, printer: Path
    ) -> None:
        self.install_authority(door, authority)
        door.environ["UCSPITLS"] = "@"
        client = Client(door)
        client.reply()
        client.say(b"STARTTLS")
        client.secure(client_context(pem))
        assert client.say(b"MAIL FROM:<a@b>") == b"530 a client certificate is needed here (#5.7.0)\r\n"
        assert self.relay(door, pem, printer).startswith(b"553 ")

    def test_what_the_authority_has_revoked_is_no_certificate(
        self, door: Door, pem: Path, authority: Path, printer: Path, tmp_path: Path
    ) -> None:
        self.install_authority(door, authority)
        door.control(tlsclients="printer@here.test\nscanner@here.test")
        scanner = signed_by(authority, tmp_path, "scanner.test", email="scanner@here.test")
        control = door.base / "control"
        (control / "clientcrl.pem").write_bytes(revocations(authority, printer) + revocations(pem))
        assert self.refusal(door, pem, printer).endswith("certificate: certificate revoked")
        assert self.relay(door, pem, scanner) == b"250 ok\r\n"
        assert self.relay(door, pem, None).startswith(b"553 ")
        (control / "clientcrl.pem").write_bytes(revocations(authority, days=-1))
        assert self.refusal(door, pem, scanner).endswith("certificate: CRL has expired")
        (control / "clientcrl.pem").write_bytes(revocations(pem))  # another authority's
        assert self.refusal(door, pem, scanner).endswith("certificate: unable to get certificate CRL")

    @pytest.mark.parametrize("name", ["clientca.pem", "clientcrl.pem"])
    def test_a_list_that_cannot_be_used_is_454_and_lets_nobody_relay(
        self, door: Door, authority: Path, name: str
    ) -> None:
        self.install_authority(door, authority)
        door.control(tlsclients="printer@here.test")
        (door.base / "control" / name).write_text("no list\n")
        client = Client(door)
        client.reply()
        assert client.say(b"STARTTLS").startswith(b"454 ")
        client.say(b"QUIT")
        assert "alert: " in client.end()[2]

    def test_a_session_that_is_taken_up_again_relays_nothing(
        self, door: Door, pem: Path, authority: Path, printer: Path
    ) -> None:
        """TLS 1.2 lets a client go on with the session of before, in which it has proved nothing this time."""
        self.install_authority(door, authority)
        door.control(tlsclients="printer@here.test")
        context = client_context(pem)
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(printer)
        servers = Servers()
        server = servers("-HRl0", "-c1", "--", *map(str, door.command), **door.environ)
        said: list[tuple[bool | None, bytes]] = []
        session: ssl.SSLSession | None = None
        for _ in range(2):
            with server.connect() as sock:
                for command in (b"", b"STARTTLS\r\n"):
                    sock.sendall(command)
                    sock.recv(4096)
                with context.wrap_socket(sock, server_hostname="mx.test", session=session) as secured:
                    for command in (b"EHLO c", b"MAIL FROM:<a@b>", b"RCPT TO:<c@elsewhere.test>"):
                        secured.sendall(command + b"\r\n")
                        reply = secured.recv(4096)
                    said.append((secured.session_reused, reply[:4]))
                    session = secured.session
        servers.end()
        assert said == [(False, b"250 "), (True, b"553 ")]

    def test_what_the_files_say_counts_from_the_next_connection(
        self, door: Door, pem: Path, authority: Path, printer: Path
    ) -> None:
        self.install_authority(door, authority)
        context = client_context(pem)
        context.maximum_version = ssl.TLSVersion.TLSv1_2  # whose client hears in its handshake that it is refused
        context.load_cert_chain(printer)
        servers = Servers()
        server = servers("-HRl0", "-c1", "--", *map(str, door.command), **door.environ)

        def recipient() -> bytes:
            """What a client hears that wants to send somewhere else."""
            with server.connect() as sock:
                for command in (b"", b"STARTTLS\r\n"):
                    sock.sendall(command)
                    sock.recv(4096)
                try:
                    secured = context.wrap_socket(sock, server_hostname="mx.test")
                except OSError:
                    return b"none"
                with secured:
                    for command in (b"EHLO c", b"MAIL FROM:<a@b>", b"RCPT TO:<c@elsewhere.test>"):
                        secured.sendall(command + b"\r\n")
                        reply = secured.recv(4096)
                    return reply[:4]

        control = door.base / "control"
        said = [recipient()]
        (control / "tlsclients").write_text("printer@here.test\n")
        said.append(recipient())
        (control / "clientcrl.pem").write_bytes(revocations(authority, printer))
        said.append(recipient())
        (control / "clientcrl.pem").unlink()
        said.append(recipient())
        (control / "tlsclients").unlink()
        said.append(recipient())
        servers.end()
        assert said == [b"553 ", b"250 ", b"none", b"250 ", b"553 "]

    def test_one_that_has_ended_is_refused(self, door: Door, pem: Path, authority: Path, tmp_path: Path) -> None:
        self.install_authority(door, authority)
        door.control(tlsclients="old@here.test")
        old = signed_by(authority, tmp_path, "old.test", email="old@here.test", days=-1)
        assert self.refusal(door, pem, old).endswith("certificate: certificate has expired")

    def refusal(self, door: Door, pem: Path, show: Path) -> str:
        """The line of a handshake that a client with the certificate ``show`` did not get through."""
        with pytest.raises((ssl.SSLError, OSError)):
            assert self.relay(door, pem, show)
            raise OSError  # what is left to say: nothing

        def lines() -> list[str]:
            return [line for line in door.log.read_text().splitlines() if "tls-failed" in line]

        wait_for(lines, "the line of a failed handshake", DEADLINE_S)
        return lines()[0].replace("_", " ")


def revocations(authority: Path, *revoked: Path, days: int = 30) -> bytes:
    """What ``authority`` has revoked, as PEM; ended where ``days`` is -1."""
    text = authority.read_bytes()
    signer, key = x509.load_pem_x509_certificate(text), serialization.load_pem_private_key(text, None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    now = datetime.now(UTC)
    builder = x509.CertificateRevocationListBuilder().issuer_name(signer.subject)
    builder = builder.last_update(now - timedelta(2)).next_update(now + timedelta(days))
    for each in revoked:
        number = x509.load_pem_x509_certificate(each.read_bytes()).serial_number
        entry = x509.RevokedCertificateBuilder().serial_number(number).revocation_date(now - timedelta(2)).build()
        builder = builder.add_revoked_certificate(entry)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def test_swaks_and_curl_send_over_tls(door: Door, pem: Path, tmp_path: Path) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    (tmp_path / "message").write_bytes(b"Subject: curl\r\n\r\nx\r\n")
    envelope = ["--mail-from", "a@b", "--mail-rcpt", "c@here.test", "-T", str(tmp_path / "message")]
    trust = ["--ssl-reqd", "--cacert", str(pem), "--connect-to", f"mx.test:{port}:127.0.0.1:{port}"]
    commands = {
        "swaks": ["swaks", "--server", f"127.0.0.1:{port}", "--tls", "-f", "a@b", "-t", "c@here.test", "--hide-all"],
        "curl": ["curl", "-s", f"smtp://mx.test:{port}", *trust, *envelope],
    }
    for name, command in commands.items():
        running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        listener.settimeout(DEADLINE_S)
        connection, _ = listener.accept()
        with connection, door.log.open("ab") as log:
            server = subprocess.Popen(door.command, stdin=connection, stdout=connection, stderr=log, env=door.environ)
        output = running.communicate(timeout=DEADLINE_S)[0]
        assert (running.returncode, server.wait(DEADLINE_S)) == (0, 0), (name, output)
    assert door.log.read_text().count("encrypted=TLSv1.3") == 2
    listener.close()
