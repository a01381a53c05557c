"""Targets for TLS: files with keys and certificates, and the bytes of a client in its handshake and behind it."""

import ssl
from contextlib import suppress
from functools import cache

from pyqmail.admin.certificates import self_signed
from pyqmail.stream.stream import Stream, StreamEnded
from pyqmail.tcp.certificates import TlsSettings, load
from pyqmail.tcp.pem import Kind, PemError, blocks, split_pairs
from pyqmail.tcp.records import Records

SAID = b"MAIL FROM:<a@b>\r\n" * 3
OLD, IN_BYTES, BY_RECORDS = 1, 2, 4  # bits of what ``handshakes`` is given


@cache
def pem(name: str) -> bytes:
    """A key and a certificate that signs itself, of this process."""
    return self_signed(name)


@cache
def server_context() -> ssl.SSLContext:
    """What a server shows."""
    return load(pem("mx.test"), TlsSettings())


@cache
def client_context(*, old: bool) -> ssl.SSLContext:
    """What a client brings that trusts everybody."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if old:
        context.maximum_version = ssl.TLSVersion.TLSv1_2
    return context


def certificate_files(data: bytes) -> None:
    """Any text, used or named. In it stand {K} for a key, {C} for its certificate, {X} for that with its old label, and
    {c} for somebody else's."""
    (_, key), (_, own) = blocks(pem("mx.test"))
    _, (_, other) = blocks(pem("other.test"))
    old = own.replace(b" CERTIFICATE", b" X509 CERTIFICATE")
    for mark, text in ((b"{K}", key), (b"{C}", own), (b"{X}", old), (b"{c}", other)):
        data = data.replace(mark, text)
    assert all(b"\r" not in text for _, text in blocks(data))
    with suppress(PemError):
        pairs = split_pairs(data)
        load(data, TlsSettings())  # in force only if it shows a certificate with its own key
        firsts = [next(text for kind, text in blocks(pair) if kind is Kind.CERTIFICATE) for pair in pairs]
        assert own in firsts or key not in data


class Client(Stream):
    """One that says SAID under TLS, and whose bytes are replaced from ``at`` on by ``put``."""

    def __init__(self, at: int, put: bytes, *, old: bool, in_bytes: bool) -> None:
        super().__init__()
        self._at, self._put, self._in_bytes = at, put, in_bytes
        self._sent = 0
        self._wire = bytearray()
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._ssl = client_context(old=old).wrap_bio(self._incoming, self._outgoing, server_hostname="mx.test")
        self._over = False

    def until(self, deadline: float | None) -> None:
        """No wait is long."""

    def close(self) -> None:
        """It hears of nothing."""

    def _receive(self) -> bytes:
        if not self._wire and not self._over:
            self._go_on()
        if not self._wire:
            raise StreamEnded
        piece = bytes(self._wire[: 1 if self._in_bytes else len(self._wire)])
        del self._wire[: len(piece)]
        return piece

    def _go_on(self) -> None:
        """One step: what it has to say once the handshake is done, or more of that."""
        try:
            self._ssl.do_handshake()
            self._over = True
            self._ssl.write(SAID)
            self._ssl.unwrap()
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError:
            self._over = True
        data = bytearray(self._outgoing.read())
        first, last = self._at - self._sent, self._at - self._sent + len(self._put)
        for place in range(max(0, first), min(len(data), last)):
            data[place] = self._put[place - first]
        self._sent += len(data)
        self._wire += data

    def _send(self, data: bytes | bytearray) -> None:
        self._incoming.write(bytes(data))

    def _surrender(self) -> Stream:
        return self


def handshakes(data: bytes) -> None:
    """A client whose bytes are damaged somewhere: an end, and never a word that it has not said."""
    at, options, put = int.from_bytes(data[:2], "big"), int.from_bytes(data[2:3], "big"), data[3:]
    client = Client(at, put, old=bool(options & OLD), in_bytes=bool(options & IN_BYTES))
    heard = b""
    with suppress(StreamEnded):
        stream = client.start_tls(server_context(), server_side=True)
        if options & BY_RECORDS:
            records = Records(stream)
            heard, over = records.open(b"")
            while not over:
                more, over = records.open(client.read())
                heard += more
        while not options & BY_RECORDS:
            heard += stream.read()
    assert SAID.startswith(heard)
    assert put or heard == SAID
