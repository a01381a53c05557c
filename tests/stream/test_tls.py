"""TLS over sockets, pipes and TLS, with Python's own SSLSocket and openssl(1) at the other end."""

import contextlib
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from pyqmail.stream.descriptors import DescriptorStream
from pyqmail.stream.lines import LineReader
from pyqmail.stream.stream import CHUNK, Stream, StreamEnded, StreamTimedOut, TlsFailed
from pyqmail.stream.tls import TlsStream
from tests.certificates import client_context, self_signed, server_context

DEADLINE_S = 30.0


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return self_signed(tmp_path_factory.mktemp("certificates"))


@contextmanager
def peer(act: Callable[[socket.socket], None], *, shared: bool = False) -> Iterator[Stream]:
    """A stream to somebody who does ``act`` in a thread; what that raises is raised here."""
    ours, theirs = socket.socketpair()
    theirs.settimeout(DEADLINE_S)
    errors: list[BaseException] = []

    def run() -> None:
        try:
            with theirs:
                act(theirs)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    with ours:
        yield DescriptorStream(ours.fileno(), ours.fileno(), DEADLINE_S, shared=shared)
    thread.join(DEADLINE_S)
    if errors:
        raise errors[0]


def client(pem: Path, talk: Callable[[ssl.SSLSocket], None]) -> Callable[[socket.socket], None]:
    """A client that trusts ``pem``, asks for mx.test and then does ``talk``."""

    def act(sock: socket.socket) -> None:
        with client_context(pem).wrap_socket(sock, server_hostname="mx.test") as tls:
            talk(tls)

    return act


def test_both_say_much_and_part_politely(pem: Path) -> None:
    def talk(tls: ssl.SSLSocket) -> None:
        assert tls.recv(100) == b"hello"
        tls.sendall(b"y" * 300000)
        heard = 0
        while heard < 10 * CHUNK:
            heard += len(tls.recv(CHUNK))
        assert tls.recv(100) == b""  # close_notify came: without it this raises
        tls.unwrap()

    with peer(client(pem, talk)) as clear:
        stream = clear.start_tls(server_context(pem), server_side=True)
        assert stream.secured is not None and stream.secured.version == "TLSv1.3" and stream.secured.bits >= 128
        stream.write(b"hello")
        heard = 0
        while heard < 300000:
            heard += len(stream.read())
        for _ in range(10):
            stream.write(b"x" * CHUNK)
        stream.close()
        with pytest.raises(StreamEnded):
            stream.read()


def test_as_a_client_it_knows_whom_it_talks_to(pem: Path) -> None:
    names: list[object] = []

    def act(sock: socket.socket) -> None:
        context = server_context(pem)
        context.sni_callback = lambda _sock, name, _context: names.append(name)
        with context.wrap_socket(sock, server_side=True) as tls:
            tls.sendall(tls.recv(100).upper())

    with peer(act) as clear:
        stream = clear.start_tls(client_context(pem), server_side=False, name="mx.test")
        stream.write(b"hello")
        assert stream.read() == b"HELLO"
        assert stream.secured is not None and stream.secured.certificate
        assert names == ["mx.test"]


def test_a_certificate_for_somebody_else_is_said(pem: Path) -> None:
    def act(sock: socket.socket) -> None:
        with pytest.raises(ssl.SSLError):  # our alert
            server_context(pem).wrap_socket(sock, server_side=True).recv(1)

    with peer(act) as clear, pytest.raises(TlsFailed, match="certificate: .*other.test"):
        clear.start_tls(client_context(pem), server_side=False, name="other.test")


def test_what_was_read_in_clear_never_comes_out_of_the_new_stream(pem: Path) -> None:
    """RFC 3207 section 6 and CVE-2011-0411: commands that are put in behind STARTTLS."""

    def act(sock: socket.socket) -> None:
        sock.sendall(b"STARTTLS\r\nMAIL FROM:<eve@client.test>\r\n")
        assert sock.recv(100) == b"220 go\r\n"
        client(pem, talk)(sock)

    def talk(tls: ssl.SSLSocket) -> None:
        tls.sendall(b"NOOP\r\n")
        assert tls.recv(100) == b"250 ok\r\n"

    with peer(act) as clear:
        lines = LineReader(clear, 1000)
        assert lines.line() == b"STARTTLS\r"
        assert lines.pending
        clear.write(b"220 go\r\n")
        stream = clear.start_tls(server_context(pem), server_side=True)
        assert LineReader(stream, 1000).line() == b"NOOP\r"
        stream.write(b"250 ok\r\n")
        stream.close()


@pytest.mark.parametrize("shared", [True, False])
def test_the_stream_in_clear_is_at_its_end(pem: Path, shared: bool) -> None:
    def talk(tls: ssl.SSLSocket) -> None:
        tls.sendall(b"secret")
        assert tls.recv(100) == b"bye"

    with peer(client(pem, talk), shared=shared) as clear:
        stream = clear.start_tls(server_context(pem), server_side=True)
        with pytest.raises(StreamEnded):
            clear.read()
        clear.write(b"in clear")
        with pytest.raises(StreamEnded):
            clear.flush()
        clear.close()
        assert stream.read() == b"secret"
        stream.write(b"bye")
        stream.flush()


def test_tls_in_tls(pem: Path) -> None:
    context = client_context(pem)

    def talk(outer: ssl.SSLSocket) -> None:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        inner = context.wrap_bio(incoming, outgoing, server_hostname="mx.test")
        done = False
        while not done:
            try:
                inner.do_handshake()
                inner.write(b"deep")
                done = True
            except ssl.SSLWantReadError:
                outer.sendall(outgoing.read())
                incoming.write(outer.recv(CHUNK))
        outer.sendall(outgoing.read())
        with contextlib.suppress(BrokenPipeError):  # how some OpenSSLs tell a reader that the other side has closed
            outer.recv(CHUNK)

    with peer(client(pem, talk)) as clear:
        outer = clear.start_tls(server_context(pem), server_side=True)
        inner = outer.start_tls(server_context(pem), server_side=True)
        assert inner.read() == b"deep"
        with pytest.raises(StreamEnded):
            outer.read()


def test_on_pipes(pem: Path) -> None:
    server_in, to_server = os.pipe()
    from_server, server_out = os.pipe()
    tls = ["openssl", "s_client", "-quiet", "-CAfile", str(pem), "-servername", "mx.test", "-verify_return_error"]

    def serve() -> None:
        stream = DescriptorStream(server_in, server_out, DEADLINE_S).start_tls(server_context(pem), server_side=True)
        stream.write(stream.read().upper())
        stream.close()

    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    process = subprocess.Popen(
        [*tls, "-connect", f"127.0.0.1:{port}"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    connection, _ = listener.accept()

    def carry(source: Callable[[], bytes], sink: Callable[[bytes], object]) -> None:
        try:
            while data := source():
                sink(data)
        except OSError:
            pass

    threads = [
        threading.Thread(target=carry, args=(lambda: connection.recv(CHUNK), lambda data: os.write(to_server, data))),
        threading.Thread(target=carry, args=(lambda: os.read(from_server, CHUNK), connection.sendall)),
        threading.Thread(target=serve),
    ]
    for thread in threads:
        thread.start()
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(b"hello\n")
    process.stdin.flush()
    assert process.stdout.readline() == b"HELLO\n"
    threads[2].join(DEADLINE_S)
    os.close(server_out)
    process.communicate(timeout=DEADLINE_S)
    connection.shutdown(socket.SHUT_RDWR)
    for thread in threads:
        thread.join(DEADLINE_S)
    connection.close()
    listener.close()
    for fd in (server_in, to_server, from_server):
        os.close(fd)


def test_a_hello_in_single_bytes(pem: Path) -> None:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    side = client_context(pem).wrap_bio(incoming, outgoing, server_hostname="mx.test")

    def act(sock: socket.socket) -> None:
        done = False
        while not done:
            try:
                side.do_handshake()
                side.write(b"slow")
                done = True
            except ssl.SSLWantReadError:
                pass
            for byte in outgoing.read():
                sock.sendall(bytes((byte,)))
            incoming.write(sock.recv(CHUNK))

    with peer(act) as clear:
        assert clear.start_tls(server_context(pem), server_side=True).read() == b"slow"


@pytest.mark.parametrize(
    ("wire", "words"),
    [
        pytest.param(b"EHLO client.test\r\n", "http request|wrong version number|record", id="EHLO in clear"),
        pytest.param(b"\x16\x03\x01\x40\x01\x01" + b"\0" * 0x4001, ".", id="a record that is too large"),
        pytest.param(b"\x16\x03\x01\x00\x05\x01\x7f\xff\xff\x03", ".", id="a hello of 8 MiB"),
        pytest.param(b"\0" * 100, ".", id="zeros"),
    ],
)
def test_what_is_no_hello_fails_at_once(pem: Path, wire: bytes, words: str) -> None:
    def act(sock: socket.socket) -> None:
        sock.sendall(wire)
        while sock.recv(CHUNK):
            pass  # its alert

    start = time.monotonic()
    with peer(act) as clear, pytest.raises(TlsFailed, match=words):
        clear.start_tls(server_context(pem), server_side=True)
    assert time.monotonic() - start < DEADLINE_S / 2


def test_a_handshake_that_stops_or_drips_has_one_time_limit(pem: Path) -> None:
    stop = threading.Event()

    def act(sock: socket.socket) -> None:
        sock.sendall(b"\x16\x03\x01\x20\x00")
        with suppress(BrokenPipeError):  # the other end may go between the question and the byte
            while not stop.wait(0.05):
                sock.sendall(b"\x01")

    start = time.monotonic()
    with peer(act) as clear:
        with pytest.raises(TlsFailed, match="too long"):
            clear.start_tls(server_context(pem), server_side=True, within_s=0.5)
        stop.set()
    assert 0.4 < time.monotonic() - start < 10


def test_a_peer_that_leaves_in_its_handshake(pem: Path) -> None:
    with peer(lambda sock: sock.sendall(b"\x16\x03\x01")) as clear, pytest.raises(TlsFailed, match="closed"):
        clear.start_tls(server_context(pem), server_side=True)


def test_a_connection_that_is_cut_is_an_end(pem: Path) -> None:
    def talk(tls: ssl.SSLSocket) -> None:
        assert tls.recv(10) == b"354"
        tls.sendall(b"half of a mess")
        os.close(tls.detach())  # no close_notify

    with peer(client(pem, talk)) as clear:
        stream = clear.start_tls(server_context(pem), server_side=True)
        stream.write(b"354")
        assert stream.read() == b"half of a mess"
        with pytest.raises(StreamEnded):
            stream.read()


def test_who_has_said_goodbye_is_waited_for_no_more(pem: Path) -> None:
    def talk(tls: ssl.SSLSocket) -> None:
        tls.sendall(b"last words")
        tls.unwrap()  # which waits for ours, and leaves the socket open until then

    with peer(client(pem, talk)) as clear:
        stream = clear.start_tls(server_context(pem), server_side=True)
        assert stream.read() == b"last words"
        began = time.monotonic()
        for _ in range(2):
            with pytest.raises(StreamEnded):
                stream.read()
        assert time.monotonic() - began < DEADLINE_S / 2
        stream.close()


class Counting(DescriptorStream):
    """A stream that counts its writes."""

    writes = 0

    def _send(self, data: bytes | bytearray) -> None:
        Counting.writes += 1
        super()._send(data)


def test_the_last_words_and_the_goodbye_are_one_write(pem: Path) -> None:
    ours, theirs = socket.socketpair()
    heard: list[bytes] = []

    def act() -> None:
        with client_context(pem).wrap_socket(theirs, server_hostname="mx.test") as tls:
            heard.extend((tls.recv(100), tls.recv(100)))  # without close_notify the second raises

    thread = threading.Thread(target=act)
    thread.start()
    with ours:
        below = Counting(ours.fileno(), ours.fileno(), DEADLINE_S)
        stream = TlsStream(below, server_context(pem), server_side=True)
        before = Counting.writes
        stream.write(b"221 ")
        stream.write(b"bye")
        stream.part()
        stream.close()
        assert Counting.writes == before + 1
        thread.join(DEADLINE_S)
    assert heard == [b"221 bye", b""]


def test_to_part_from_who_has_gone_is_an_end(pem: Path) -> None:
    ours, theirs = socket.socketpair()

    def act() -> None:
        client_context(pem).wrap_socket(theirs, server_hostname="mx.test").close()

    thread = threading.Thread(target=act)
    thread.start()
    with ours:
        stream = DescriptorStream(ours.fileno(), ours.fileno(), DEADLINE_S).start_tls(
            server_context(pem), server_side=True
        )
        thread.join(DEADLINE_S)
        stream.write(b"221 bye")
        with pytest.raises(StreamEnded):
            stream.part()
        stream.close()


def test_the_time_limit_is_that_of_the_stream_below(pem: Path) -> None:
    ours, theirs = socket.socketpair()
    quiet = threading.Event()

    def act() -> None:
        with client_context(pem).wrap_socket(theirs, server_hostname="mx.test"):
            quiet.wait(DEADLINE_S)

    thread = threading.Thread(target=act)
    thread.start()
    clear = DescriptorStream(ours.fileno(), ours.fileno(), 0.3)
    stream = clear.start_tls(server_context(pem), server_side=True)
    with pytest.raises(StreamTimedOut):
        stream.read()
    quiet.set()
    thread.join(DEADLINE_S)
    ours.close()


def test_who_uses_no_tls_does_not_import_it() -> None:
    program = (
        "import sys; from pyqmail.stream import descriptors, lines; "
        "assert not {'ssl', '_ssl', 'socket', 'typing', 're', 'collections.abc'} & set(sys.modules)"
    )
    root = Path(__file__).resolve().parents[2]
    subprocess.run([sys.executable, "-ISc", f"import sys; sys.path.insert(0, {str(root)!r}); {program}"], check=True)
