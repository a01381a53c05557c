"""qmail-remote under TLS: where it is offered, where it must be, and what is said and done where it cannot be."""

import os
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from pyqmail.remote.connection import REPLY_BYTES_MAX
from tests.certificates import self_signed, server_context, signed_by
from tests.loopback import serving
from tests.mail_sink import MailSink, Transaction, accept_all, mail_sink
from tests.scripted_peers import ACCEPTING, dns_peer, remote_home, run_program, smtp_peer

MODULE = "pyqmail.programs.qmail_remote"
MESSAGE = b"Subject: x\n\nhello\n"
OFFER = b"250-sink\r\n250-PIPELINING\r\n250 STARTTLS\r\n"
NAME = "mx.test"


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An authority, and what it signed: for mx.test and other.test, for mx.test until yesterday and from 2060 on."""
    folder = tmp_path_factory.mktemp("pki")
    authority = self_signed(folder, "ca.test")
    signed_by(authority, folder, NAME)
    signed_by(authority, folder, "other.test")
    (folder / "old").mkdir()
    signed_by(authority, folder / "old", NAME, days=-1)
    (folder / "new").mkdir()
    signed_by(authority, folder / "new", NAME, now="2060-01-01 00:00:00")
    return folder


def offers(line: bytes, transaction: Transaction) -> bytes | None:
    return OFFER if line[:4].upper() == b"EHLO" else accept_all(line, transaction)


@contextmanager
def served(pem: Path, address: str = "127.0.0.1", port: int = 0, *, immediate: bool = False) -> Iterator[MailSink]:
    context = server_context(pem)
    with mail_sink(accept_all if immediate else offers, address, port, context=context, immediate=immediate) as sink:
        yield sink


def deliver(
    directory: Path, zone: dict[tuple[str, str], list[str]], port: int, facts: bytes = b"", **controls: str
) -> bytes:
    """The reports of a delivery by a route to mx.test, which the zone has."""
    folder = Path(os.path.join(directory, f"home{len(list(directory.iterdir()))}"))
    folder.mkdir()
    with dns_peer(zone) as dns:
        folders = {name: controls.pop(name) for name in ("tlshosts", "notlshosts") if name in controls}
        home = remote_home(
            folder, **{"smtproutes": f":{NAME}:{port}", "dnsservers": f"127.0.0.1:{dns.port}", **controls}
        )
        for name, text in folders.items():
            (home / "control" / name).mkdir()
            file, _, content = text.partition("=")
            (home / "control" / name / file).write_text(content and Path(content).read_text())
        status, reports = run_program(MODULE, [b"x.test", b"s@y.test", b"r@x.test"], home, MESSAGE, facts=facts)
    assert status == 0
    return reports


def to_one(directory: Path, sink: MailSink, facts: bytes = b"", **controls: str) -> bytes:
    return deliver(directory, {("mx.test.", "A"): ["127.0.0.1"]}, sink.port, facts, **controls)


def test_tls_is_used_where_it_is_offered_whatever_the_certificate(tmp_path: Path, pki: Path) -> None:
    with served(self_signed(tmp_path, "nobody.test")) as sink:
        reports = to_one(tmp_path, sink)
        sink.wait(lambda: sink.open == 0, "end")
    assert reports.startswith(
        b"r\0K127.0.0.1 accepted message.\nRemote host said: 250 ok\ntls=TLSv1.3, opportunistic\n\0"
    )
    words = [b"EHLO", b"STARTTLS\r\n", b"EHLO", b"MAIL", b"RCPT", b"DATA\r\n", b"QUIT\r\n"]
    assert [line.startswith(word) for line, word in zip(sink.lines, words, strict=True)] == [True] * 7
    assert sink.taken[0].body == MESSAGE.replace(b"\n", b"\r\n")


@pytest.mark.parametrize(
    ("certificate", "taken", "says"),
    [
        pytest.param("mx.test-ecdsa.pem", True, b"tls=TLSv1.3, verified by file\n", id="good"),
        pytest.param("old/mx.test-ecdsa.pem", False, b"TLS failed: certificate: certificate has expired.", id="old"),
        pytest.param("new/mx.test-ecdsa.pem", False, b"certificate is not yet valid", id="our clock is wrong"),
        pytest.param("other.test-ecdsa.pem", False, b"TLS failed: certificate: it is for another name.", id="other"),
        pytest.param("self", False, b"TLS failed: certificate: self-signed certificate.", id="signs itself"),
    ],
)
@pytest.mark.parametrize("by", ["tlshosts", "tlsdestinations"])
def test_a_host_that_must_be_verified_is(
    tmp_path: Path, pki: Path, certificate: str, taken: bool, says: bytes, by: str
) -> None:
    pem = self_signed(tmp_path, NAME) if certificate == "self" else pki / certificate
    authority = pki / "ca.test-ecdsa.pem"
    asked = {"tlshosts": f"{NAME}.pem={authority}", "tlsdestinations": f"x.test:verify|{authority}"}
    with served(pem) as sink:
        reports = to_one(tmp_path, sink, **{by: asked[by]})
        assert says in reports
        assert reports.startswith(b"r\0K") if taken else reports.startswith(b"ZConnected to 127.0.0.1 but TLS failed")
        assert len(sink.taken) == taken


@pytest.mark.parametrize("rule", ["x.test:encrypt", f"{NAME}:encrypt", ".test:encrypt", "*:encrypt"])
def test_who_must_have_tls_and_does_not_offer_it_gets_nothing(tmp_path: Path, rule: str) -> None:
    with mail_sink() as sink:
        reports = to_one(tmp_path, sink, tlsdestinations=rule)
        assert reports == b"ZConnected to 127.0.0.1 but TLS was not offered. (#4.7.4)\n\0" and not sink.taken


@pytest.mark.parametrize(
    "controls",
    [
        pytest.param({"notlshosts": f"{NAME}="}, id="notlshosts"),
        pytest.param({"tlsdestinations": "x.test:none"}, id="none"),
        pytest.param({"tlsdestinations": "*:none"}, id="none for all"),
        pytest.param({"tlshosts": "exhaustivelist="}, id="only listed hosts"),
        pytest.param({"remoteehlo": "0"}, id="no EHLO"),
    ],
)
def test_tls_can_be_switched_off(tmp_path: Path, pki: Path, controls: dict[str, str]) -> None:
    with served(pki / "mx.test-ecdsa.pem") as sink:
        assert to_one(tmp_path, sink, **controls).endswith(b"accepted message.\nRemote host said: 250 ok\n\0")
        assert b"STARTTLS\r\n" not in sink.lines


def test_a_wildcard_does_not_take_back_what_a_host_is_asked_for(tmp_path: Path, pki: Path) -> None:
    with served(pki / "other.test-ecdsa.pem") as sink:
        controls = {"tlsdestinations": "*:none", "tlshosts": f"{NAME}.pem={pki / 'ca.test-ecdsa.pem'}"}
        assert b"it is for another name" in to_one(tmp_path, sink, **controls)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: listens on port 465")
def test_port_465_speaks_tls_from_the_start(tmp_path: Path, pki: Path) -> None:
    with served(pki / "mx.test-ecdsa.pem", "127.86.2.4", 465, immediate=True) as sink:
        reports = deliver(tmp_path, {("mx.test.", "A"): ["127.86.2.4"]}, 465)
        assert reports.endswith(b"tls=TLSv1.3, opportunistic\n\0") and b"STARTTLS\r\n" not in sink.lines
    with mail_sink(accept_all, "127.86.2.4", 465) as sink:
        reports = deliver(tmp_path, {("mx.test.", "A"): ["127.86.2.4"]}, 465)
        assert b" but TLS failed: " in reports and not any(line.startswith(b"EHLO") for line in sink.lines)


@pytest.mark.parametrize("reply", [b"454 not now\r\n", b"502 what?\r\n"])
def test_a_starttls_that_is_refused_goes_on_in_clear(tmp_path: Path, reply: bytes) -> None:
    with mail_sink(lambda line, done: reply if line == b"STARTTLS\r\n" else offers(line, done)) as sink:
        assert to_one(tmp_path, sink).startswith(b"r\0K")
        assert b"tls=" not in to_one(tmp_path, sink)
        assert to_one(tmp_path, sink, tlsdestinations="*:encrypt").startswith(b"ZConnected to 127.0.0.1 but STARTTLS")


TWO = {("mx.test.", "A"): ["127.86.2.2", "127.86.2.3"]}
BROKEN = [b"220 hi\r\n", OFFER, b"220 go\r\nthis is no TLS\r\n"]


def test_after_a_failed_handshake_the_other_exchanger_comes_first(tmp_path: Path, pki: Path) -> None:
    with smtp_peer(BROKEN, "127.86.2.2") as one, served(pki / "mx.test-ecdsa.pem", "127.86.2.3", one.port) as other:
        assert b"127.86.2.3 accepted message" in deliver(tmp_path, TWO, one.port)
        assert other.taken and one.connections == 1


def refuses_handshakes() -> ssl.SSLContext:
    return ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)  # no certificate, no cipher in common


def test_where_all_handshakes_fail_the_best_has_it_in_clear(tmp_path: Path) -> None:
    context = refuses_handshakes()
    with (
        mail_sink(offers, "127.86.2.2", context=context) as one,
        mail_sink(offers, "127.86.2.3", one.port, context=context) as two,
    ):
        assert deliver(tmp_path, TWO, one.port).startswith(b"r\0K127.86.2.2 accepted message.\n")
        assert (one.connections, two.connections) == (2, 1) and not two.taken


def test_where_tls_must_be_nothing_goes_in_clear(tmp_path: Path) -> None:
    with mail_sink(offers, context=refuses_handshakes()) as sink:
        reports = to_one(tmp_path, sink, tlsdestinations="x.test:encrypt")
        assert reports.startswith(b"ZConnected to 127.0.0.1 but TLS failed: ") and sink.connections == 1


def test_a_missing_authority_is_our_own_trouble(tmp_path: Path, pki: Path) -> None:
    with served(pki / "mx.test-ecdsa.pem") as sink:
        reports = to_one(tmp_path, sink, tlsdestinations="x.test:verify|absent.pem")
        assert reports.startswith(b"ZTLS cannot be used as control files ask: ") and not sink.taken
        assert to_one(tmp_path, sink, tlsdestinations="x.test:maybe") == b"ZUnable to read control files. (#4.3.0)\n\0"


def test_a_client_certificate_is_shown_where_the_line_says_so(tmp_path: Path, pki: Path) -> None:
    context = server_context(pki / "mx.test-ecdsa.pem")
    context.load_verify_locations(pki / "ca.test-ecdsa.pem")
    context.verify_mode = ssl.CERT_OPTIONAL
    ours = tmp_path / "clientcert.pem"
    ours.write_bytes((pki / "other.test-ecdsa.pem").read_bytes())
    ours.chmod(0o640)
    shown = []

    def looks(line: bytes, done: Transaction) -> bytes | None:
        if line[:4] == b"MAIL":
            shown.append(sink.secured[-1].getpeercert())
        return offers(line, done)

    with mail_sink(looks, context=context) as sink:
        assert to_one(tmp_path, sink, tlsdestinations=f"x.test:encrypt|||{ours}").startswith(b"r\0K")
        assert to_one(tmp_path, sink, tlsdestinations="x.test:encrypt").startswith(b"r\0K")
        ours.chmod(0o644)
        assert b"others can read it" in to_one(tmp_path, sink, tlsdestinations=f"x.test:encrypt|||{ours}")
    assert shown[0] and shown[0]["subject"] == ((("commonName", "other.test"),),) and not shown[1]


@pytest.mark.parametrize("cut", [0, 1, 300])
def test_a_handshake_that_is_cut_or_hangs_makes_mail_wait(tmp_path: Path, pki: Path, cut: int) -> None:
    """After ``cut`` bytes of the server's; 0: it says nothing and stays."""
    context = server_context(pki / "mx.test-ecdsa.pem")

    def serve(line: socket.socket) -> None:
        for reply in (b"220 hi\r\n", OFFER, b"220 go\r\n"):
            line.sendall(reply)
            heard.append(line.recv(65536))
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        incoming.write(heard[-1])
        with suppress(ssl.SSLWantReadError):
            context.wrap_bio(incoming, outgoing, server_side=True).do_handshake()
        line.sendall(outgoing.read()[:cut])
        if not cut:
            heard.append(line.recv(65536))

    heard: list[bytes] = []
    with serving(serve) as port:
        home = remote_home(
            tmp_path,
            smtproutes=f":127.0.0.1:{port}",
            tlsdestinations="*:encrypt",
            timeoutremote="20" if cut else "1",
        )
        reports = run_program(MODULE, [b"x.test", b"", b"r@x.test"], home, MESSAGE)[1]
    assert reports.startswith(b"ZConnected to 127.0.0.1 but TLS failed: "), reports
    assert len(heard) == (4 if cut == 0 else 3) and not any(b"MAIL" in each for each in heard)


@pytest.mark.parametrize("word", [b"EHLO", b"MAIL", b"RCPT", b"DATA", b".\r\n", b"QUIT"])
def test_a_connection_that_dies_under_tls_is_tried_in_no_other_way(tmp_path: Path, pki: Path, word: bytes) -> None:
    def dies(line: bytes, done: Transaction) -> bytes | None:
        return None if sink.secured and line.startswith(word) else offers(line, done)

    with mail_sink(dies, context=server_context(pki / "mx.test-ecdsa.pem")) as sink:
        reports = to_one(tmp_path, sink)
        assert sink.connections == 1 and len(sink.secured) == 1 and len(sink.taken) == (word == b"QUIT")
    letter = reports.rpartition(b"\0K" if word == b"QUIT" else b"Z")[1]
    assert letter and (b"Possible duplicate!" in reports) == (word == b".\r\n") and b"D127" not in reports


@pytest.mark.parametrize("word", [b"MAIL", b".\r\n"])
def test_silence_under_tls_ends_at_timeoutremote(tmp_path: Path, pki: Path, word: bytes) -> None:
    def falls_silent(line: bytes, done: Transaction) -> bytes | None:
        return b"" if sink.secured and line.startswith(word) else offers(line, done)

    with mail_sink(falls_silent, context=server_context(pki / "mx.test-ecdsa.pem")) as sink:
        reports = to_one(tmp_path, sink, timeoutremote="3")
    assert b"ZConnected to 127.0.0.1 but connection died. " in reports
    assert (b"Possible duplicate!" in reports) == (word == b".\r\n")


def test_a_reply_without_end_under_tls_makes_mail_wait(tmp_path: Path, pki: Path) -> None:
    context = server_context(pki / "mx.test-ecdsa.pem")

    def serve(line: socket.socket) -> None:
        for reply in (b"220 hi\r\n", OFFER):
            line.sendall(reply)
            line.recv(65536)
        line.sendall(b"220 go\r\n")
        with context.wrap_socket(line, server_side=True) as secured, suppress(OSError):
            secured.recv(65536)
            while True:  # until the client has gone
                secured.sendall(b"250-" + b"x" * 1000 + b"\r\n")
                said.append(1006)

    said: list[int] = []
    with serving(serve) as port:
        home = remote_home(tmp_path, smtproutes=f":127.0.0.1:{port}")
        reports = run_program(MODULE, [b"x.test", b"", b"r@x.test"], home, MESSAGE)[1]
    assert reports == b"ZConnected to 127.0.0.1 but connection died. (#4.4.2)\n\0"
    assert REPLY_BYTES_MAX < sum(said) < 3 * REPLY_BYTES_MAX


def test_nothing_but_ehlo_is_said_before_starttls(tmp_path: Path, pki: Path) -> None:
    """stunnel closes the connection at any other command, and offers nothing else."""

    def strict(line: bytes, done: Transaction) -> bytes | None:
        if sink.secured:
            return accept_all(line, done)
        if line[:4] == b"EHLO":
            return b"250-backend\r\n250 STARTTLS\r\n"
        return b"220 go\r\n" if line == b"STARTTLS\r\n" else None

    with mail_sink(strict, context=server_context(pki / "mx.test-ecdsa.pem")) as sink:
        assert to_one(tmp_path, sink).endswith(b"tls=TLSv1.3, opportunistic\n\0")
        assert sink.connections == 1


@pytest.mark.parametrize(
    ("everywhere", "there", "cipher"),
    [
        ("ECDHE-ECDSA-AES128-SHA256", "x.test:encrypt", "ECDHE-ECDSA-AES128-SHA256"),
        ("ECDHE-ECDSA-AES128-SHA256", "x.test:encrypt||ECDHE-ECDSA-AES256-SHA384", "ECDHE-ECDSA-AES256-SHA384"),
        ("no such cipher", "x.test:encrypt", ""),
    ],
    ids=["tlsclientciphers", "a line of tlsdestinations before it", "unknown ones"],
)
def test_ciphers_are_those_that_the_control_files_name(
    tmp_path: Path, pki: Path, everywhere: str, there: str, cipher: str
) -> None:
    context = server_context(pki / "mx.test-ecdsa.pem")
    context.maximum_version = ssl.TLSVersion.TLSv1_2  # TLS 1.3 has no choice worth making
    context.set_ciphers("ALL")
    used = []

    def looks(line: bytes, done: Transaction) -> bytes | None:
        if line[:4] == b"MAIL":
            used.append(sink.secured[-1].cipher())
        return offers(line, done)

    with mail_sink(looks, context=context) as sink:
        reports = to_one(tmp_path, sink, tlsclientciphers=everywhere, tlsdestinations=there)
    assert [each[0] for each in used if each] == [cipher] * bool(cipher)
    assert reports.startswith(b"r\0K" if cipher else b"Z"), reports


def test_no_word_in_clear_counts_under_tls(tmp_path: Path) -> None:
    with smtp_peer([b"220 hi\r\n", OFFER, b"220 go\r\n250-x\r\n250 AUTH PLAIN\r\n", *ACCEPTING]) as peer:
        home = remote_home(tmp_path, smtproutes=f":127.0.0.1:{peer.port}")
        reports = run_program(MODULE, [b"x.test", b"", b"r@x.test"], home, MESSAGE)[1]
    assert reports == b"ZConnected to 127.0.0.1 but it spoke between STARTTLS and TLS. (#4.7.0)\n\0"
