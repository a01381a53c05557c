"""Which certificate a server shows, and what happens when a file of it is none."""

import os
import ssl
import time
from pathlib import Path

import pytest

from pyqmail.system.alert_clock import AlertClock
from pyqmail.tcp import certificates as module
from pyqmail.tcp import certificates as tcp_certificates
from pyqmail.tcp.certificates import NoCertificate, ServerCertificates, TlsSettings, load
from pyqmail.tcp.pem import split_pairs
from tests.certificates import self_signed, signed_by

DEFAULT = TlsSettings()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Keys with certificates: for two names, of two types, and an encrypted one."""
    folder = tmp_path_factory.mktemp("certificates")
    pems = {
        f"{name}-{kind}": self_signed(folder, name, kind)
        for name in ("mx.test", "other.test")
        for kind in ("ecdsa", "rsa")
    }
    pems["signed"] = signed_by(pems["mx.test-rsa"], folder, "signed.test")
    return {name: path.read_bytes() for name, path in pems.items()}


def parts(pem: bytes) -> tuple[bytes, bytes]:
    """The key and the certificate in ``pem``."""
    end = pem.index(b"-----END PRIVATE KEY-----\n") + 26
    return pem[:end], pem[end:]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "control" / "servercerts").mkdir(parents=True)
    return tmp_path


def put(home: Path, data: bytes, name: str = "", mode: int = 0o400) -> Path:
    """Install ``data`` as an admin's tool does: by rename."""
    path = home / "control" / (f"servercerts/{name}/servercert.pem" if name else "servercert.pem")
    path.parent.mkdir(exist_ok=True)
    fresh = path.with_suffix(".new")
    fresh.write_bytes(data)
    fresh.chmod(mode)
    fresh.rename(path)
    return path


def shown(context: ssl.SSLContext, name: str | None = None, ciphers: str = "") -> bytes:
    """The certificate (DER) that a client sees that asks for ``name``."""
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
    if ciphers:
        client.maximum_version = ssl.TLSVersion.TLSv1_2
        client.set_ciphers(ciphers)
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [client.wrap_bio(back, there, server_hostname=name), context.wrap_bio(there, back, server_side=True)]
    for _ in range(6):
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                pass
    return ends[0].getpeercert(True) or b""


def der(pem: bytes) -> bytes:
    return ssl.PEM_cert_to_DER_cert(parts(pem)[1].decode())


def said(certificates: ServerCertificates, settings: TlsSettings = DEFAULT) -> list[str]:
    """What the log hears of it when the next client comes."""
    lines: list[str] = []
    try:
        certificates.context(settings, lines.append)
    except NoCertificate:
        pass
    return lines


def test_no_file_is_no_certificate(home: Path) -> None:
    with pytest.raises(NoCertificate):
        ServerCertificates(str(home)).context(DEFAULT, print)


def test_a_renewed_certificate_serves_the_next_client(home: Path, made: dict[str, bytes]) -> None:
    put(home, made["mx.test-ecdsa"])
    certificates = ServerCertificates(str(home))
    assert shown(certificates.context(DEFAULT, print)) == der(made["mx.test-ecdsa"])
    put(home, made["other.test-rsa"])
    assert shown(certificates.context(DEFAULT, print)) == der(made["other.test-rsa"])


def test_both_types_of_key_side_by_side(home: Path, made: dict[str, bytes]) -> None:
    put(home, made["mx.test-rsa"] + made["mx.test-ecdsa"])
    context = ServerCertificates(str(home)).context(DEFAULT, print)
    assert shown(context, ciphers="aRSA") == der(made["mx.test-rsa"])
    assert shown(context, ciphers="aECDSA") == der(made["mx.test-ecdsa"])


def test_key_and_chain_in_either_order(made: dict[str, bytes]) -> None:
    turned = b"".join(reversed(parts(made["mx.test-rsa"]))) + b"".join(reversed(parts(made["mx.test-ecdsa"])))
    assert len(split_pairs(turned)) == 2
    assert shown(load(turned, DEFAULT), ciphers="aRSA") == der(made["mx.test-rsa"])


def test_the_old_name_of_a_certificate_is_understood(home: Path, made: dict[str, bytes]) -> None:
    put(home, made["mx.test-ecdsa"].replace(b" CERTIFICATE", b" X509 CERTIFICATE"))
    certificates = ServerCertificates(str(home))
    for _ in range(2):
        assert shown(certificates.context(DEFAULT, print)) == der(made["mx.test-ecdsa"])


def broken(made: dict[str, bytes], how: str) -> bytes:
    """A file that is none."""
    key, certificate = parts(made["mx.test-ecdsa"])
    other_key, other_certificate = parts(made["mx.test-rsa"])
    return {
        "a key of another type": other_key + certificate,
        "another key of the same type": parts(made["other.test-ecdsa"])[0] + certificate,
        "an ECDSA certificate with an RSA key beside a good pair": made["mx.test-rsa"] + other_key + certificate,
        "two keys of one type": made["mx.test-rsa"] + made["other.test-rsa"],
        "no key": certificate,
        "no certificate": key,
        "half a file": made["mx.test-ecdsa"][:-200],
        "nothing": b"",
        "something else": b"hello\n" * 1000,
        "keys first, chains after": key + other_key + certificate + other_certificate,
        "line noise in a certificate": key + certificate.replace(b"M", b"N", 3),
    }[how]


HOW = [
    "a key of another type", "another key of the same type", "two keys of one type", "no key", "no certificate",
    "an ECDSA certificate with an RSA key beside a good pair", "half a file", "nothing", "something else",
    "keys first, chains after", "line noise in a certificate",
]  # fmt: skip


@pytest.mark.parametrize("how", HOW)
def test_a_broken_file_leaves_the_one_before_in_force(home: Path, made: dict[str, bytes], how: str) -> None:
    put(home, made["mx.test-ecdsa"])
    certificates = ServerCertificates(str(home))
    assert said(certificates) == []
    put(home, broken(made, how))
    (line,) = said(certificates)
    assert line.startswith("control/servercert.pem: ") and line.endswith("; the one before stays in force")
    assert b"PRIVATE" not in line.encode()
    assert shown(certificates.context(DEFAULT, print)) == der(made["mx.test-ecdsa"])
    put(home, made["mx.test-rsa"])
    assert said(certificates) == []
    assert shown(certificates.context(DEFAULT, print)) == der(made["mx.test-rsa"])


@pytest.mark.parametrize("how", HOW)
def test_a_broken_file_without_one_before_is_an_error(home: Path, made: dict[str, bytes], how: str) -> None:
    put(home, broken(made, how))
    certificates = ServerCertificates(str(home))
    assert len(said(certificates)) == 1
    with pytest.raises(NoCertificate):
        certificates.context(DEFAULT, print)


def test_an_encrypted_key_asks_nobody(home: Path, made: dict[str, bytes], tmp_path: Path) -> None:
    import subprocess

    path = put(home, made["mx.test-rsa"])
    words = ["openssl", "pkcs8", "-topk8", "-in", str(path), "-passout", "pass:secret"]
    encrypted = subprocess.run(words, capture_output=True, check=True).stdout
    put(home, encrypted + parts(made["mx.test-rsa"])[1])
    assert said(ServerCertificates(str(home))) == ["control/servercert.pem: the key is encrypted"]


@pytest.mark.parametrize(
    ("mode", "text"), [(0o404, "others can read it"), (0o420, "others can write it"), (0o644, "others can read it")]
)
def test_a_file_that_others_may_touch_is_not_used(home: Path, made: dict[str, bytes], mode: int, text: str) -> None:
    put(home, made["mx.test-rsa"], mode=mode)
    assert said(ServerCertificates(str(home))) == [f"control/servercert.pem: {text}"]


@pytest.mark.parametrize("mode", [0o400, 0o600, 0o440, 0o640])
def test_owner_and_group_may_read_it(home: Path, made: dict[str, bytes], mode: int) -> None:
    put(home, made["mx.test-rsa"], mode=mode)
    assert said(ServerCertificates(str(home))) == []


def test_a_fifo_holds_up_nobody(home: Path) -> None:
    os.mkfifo(home / "control/servercert.pem", 0o400)
    assert said(ServerCertificates(str(home))) == ["control/servercert.pem: no regular file"]


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("other.test", "other.test-rsa"),
        ("OTHER.test", "other.test-rsa"),
        ("mx.test", "mx.test-ecdsa"),
        ("unknown.test", "mx.test-ecdsa"),
        (None, "mx.test-ecdsa"),
        ("a_b.test", "mx.test-ecdsa"),
        ("x" * 63 + ".test", "mx.test-ecdsa"),
    ],
)
def test_the_name_that_a_client_asks_for_chooses(
    home: Path, made: dict[str, bytes], asked: str | None, found: str
) -> None:
    put(home, made["mx.test-ecdsa"])
    put(home, made["other.test-rsa"], "other.test")
    assert shown(ServerCertificates(str(home)).context(DEFAULT, print), asked) == der(made[found])


def test_without_the_directory_no_client_is_asked_for_a_name(home: Path, made: dict[str, bytes]) -> None:
    put(home, made["mx.test-ecdsa"])
    put(home, made["other.test-rsa"], "other.test")
    certificates = ServerCertificates(str(home))
    for named, found in ((True, "other.test-rsa"), (False, "mx.test-ecdsa"), (True, "other.test-rsa")):
        context = certificates.context(DEFAULT, print, named=named)
        assert shown(context, "other.test") == der(made[found])
        assert (context.sni_callback is not None) is named


@pytest.mark.parametrize(
    "name", ["..", ".", "../servercerts/other.test", "other.test/", "a..b", ".a", "a.", "", "x\0y", "x" * 254]
)
def test_a_name_that_is_no_host_name_leads_nowhere(name: str) -> None:
    from pyqmail.tcp.certificates import host_name

    assert not host_name(name)


def test_a_broken_file_of_a_name_shows_the_default(home: Path, made: dict[str, bytes]) -> None:
    put(home, made["mx.test-ecdsa"])
    put(home, b"", "other.test")
    lines: list[str] = []
    context = ServerCertificates(str(home)).context(DEFAULT, lines.append)
    assert shown(context, "other.test") == der(made["mx.test-ecdsa"])
    assert lines == ["control/servercerts/other.test/servercert.pem: no private key in it"]


def test_a_name_that_is_taken_away_is_forgotten(home: Path, made: dict[str, bytes]) -> None:
    put(home, made["mx.test-ecdsa"])
    path = put(home, made["other.test-rsa"], "other.test")
    certificates = ServerCertificates(str(home))
    assert shown(certificates.context(DEFAULT, print), "other.test") == der(made["other.test-rsa"])
    path.unlink()
    assert shown(certificates.context(DEFAULT, print), "other.test") == der(made["mx.test-ecdsa"])


def test_a_worker_keeps_32_names(home: Path, made: dict[str, bytes]) -> None:
    put(home, made["mx.test-ecdsa"])
    for number in range(40):
        put(home, made["other.test-rsa"], f"n{number}.test")
    certificates = ServerCertificates(str(home))
    for number in range(40):
        shown(certificates.context(DEFAULT, print), f"n{number}.test")
    assert len(certificates._named) == 32


def test_one_alert_a_minute_for_all_who_share_a_clock(
    home: Path, made: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    put(home, b"")
    clock = AlertClock()
    workers = [ServerCertificates(str(home), clock=clock) for _ in range(3)]
    pid = os.fork()
    if pid == 0:
        os._exit(len(said(workers[0])))
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1
    assert [said(worker) for worker in workers] == [[], [], []]
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 61)
    assert [len(said(worker)) for worker in workers] == [1, 0, 0]


def test_settings_are_part_of_what_is_in_force(home: Path, made: dict[str, bytes]) -> None:
    put(home, made["mx.test-rsa"])
    certificates = ServerCertificates(str(home))
    context = certificates.context(TlsSettings(ciphers="ECDHE-RSA-AES128-GCM-SHA256"), print)
    with pytest.raises(ssl.SSLError):
        shown(context, ciphers="ECDHE-RSA-AES256-GCM-SHA384")
    assert shown(certificates.context(DEFAULT, print), ciphers="ECDHE-RSA-AES256-GCM-SHA384")


def test_without_settings_they_are_the_usual_ones_again(home: Path, made: dict[str, bytes]) -> None:
    put(home, made["mx.test-rsa"])
    certificates, alerts = ServerCertificates(str(home)), list[str]()
    first = certificates.context(None, alerts.append)
    assert certificates.context(DEFAULT, alerts.append) is first
    other = certificates.context(TlsSettings(ciphers="ECDHE-RSA-AES128-GCM-SHA256"), alerts.append)
    again = certificates.context(None, alerts.append)
    assert len(other.get_ciphers()) < len(first.get_ciphers()) == len(again.get_ciphers())
    assert not alerts


def test_what_is_in_force_stays_so_while_others_have_other_settings(home: Path, made: dict[str, bytes]) -> None:
    """As where a rule of tcpserver gives $TLSCIPHERS to some clients."""
    put(home, made["mx.test-rsa"])
    certificates = ServerCertificates(str(home))
    all_settings = (DEFAULT, TlsSettings(ciphers="aRSA"))
    before = [certificates.context(settings, print) for settings in all_settings]
    put(home, b"broken")
    for _ in range(2):
        after = [certificates.context(settings, lambda text: None) for settings in all_settings]
        assert [one is other for one, other in zip(before, after, strict=True)] == [True, True]
        assert shown(after[0]) == shown(after[1]) == der(made["mx.test-rsa"])


def test_few_settings_are_kept(home: Path, made: dict[str, bytes]) -> None:
    put(home, made["mx.test-rsa"])
    certificates = ServerCertificates(str(home))
    all_settings = [TlsSettings(ciphers=":".join(["aRSA"] * count)) for count in range(1, 7)]
    first = certificates.context(all_settings[0], print)
    for settings in all_settings[1:]:
        certificates.context(settings, print)
    assert len(certificates._others) == tcp_certificates.OTHERS_MAX
    assert certificates.context(all_settings[0], print) is not first


def test_ciphers_that_there_are_not_are_named(home: Path, made: dict[str, bytes]) -> None:
    put(home, made["mx.test-rsa"])
    (line,) = said(ServerCertificates(str(home)), TlsSettings(ciphers="no-such-cipher"))
    assert line == "control/servercert.pem: TLS settings: No cipher can be selected."


def test_tls_before_1_2_is_not_spoken(made: dict[str, bytes]) -> None:
    context = load(made["mx.test-rsa"], DEFAULT)
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2


def test_a_file_proves_itself_once_for_all_processes_and_another_anew(
    made: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    hands: list[int] = []
    shake = module._shake_hands
    monkeypatch.setattr(module, "_shake_hands", lambda *words: hands.append(1) or shake(*words))
    monkeypatch.setattr(module.Proof, "inherited", module.Proof())
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            load(made["mx.test-rsa"], DEFAULT)
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0
    assert handshakes_of(made, hands, "mx.test-rsa") == 0
    assert handshakes_of(made, hands, "mx.test-ecdsa") == 1
    assert handshakes_of(made, hands, "mx.test-ecdsa") == 0
    hands.clear()
    load(made["mx.test-ecdsa"], TlsSettings(ciphers="ECDHE-ECDSA-AES128-GCM-SHA256"))
    assert len(hands) == 1


def handshakes_of(made: dict[str, bytes], hands: list[int], name: str) -> int:
    """How many handshakes a load of ``name`` takes."""
    hands.clear()
    load(made[name], DEFAULT)
    return len(hands)
