"""control/statestore with Debian's redis-server: two machines count together, and one that is left alone goes on."""

import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from valkey import Valkey, exceptions
from valkey.exceptions import ConnectionError as ValkeyConnectionError

from pyqmail.protocol.state import Rule
from pyqmail.state.clock import Clock
from pyqmail.state.local import Local
from pyqmail.state.shared import Away, Preferred, Shared, answered, parse_url
from pyqmail.state.store_url import read_store, without_password
from tests.certificates import self_signed
from tests.loopback import free_port
from tests.waiting import wait_for

KEY = b"ann@example.test"
HOUR, DAY = Rule(b"recipients", 1, 2, 3600), Rule(b"recipients", 1, 3, 86400)


class Redis:
    """A server on a socket of its own."""

    def __init__(self, base: Path) -> None:
        self.path = base / "socket"
        self.url = parse_url(f"redis+unix://{self.path}")
        command = ["redis-server", "--port", "0", "--unixsocket", str(self.path), "--save", "", "--dir", str(base)]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        self.client = Valkey(unix_socket_path=str(self.path))
        wait_for(self._answers, "redis-server")

    def _answers(self) -> bool:
        try:
            return self.path.exists() and bool(self.client.ping())
        except ValkeyConnectionError:  # it is bound, and does not listen yet
            return False


@pytest.fixture
def redis() -> Iterator[Redis]:
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed")
    with tempfile.TemporaryDirectory(prefix="pyqmail-redis-") as base:
        made = Redis(Path(base))
        try:
            yield made
        finally:
            made.process.send_signal(signal.SIGCONT)
            made.process.kill()
            made.process.wait()


def test_two_machines_count_together_and_all_that_is_kept_expires(redis: Redis) -> None:
    one, other = Shared(redis.url), Shared(redis.url)
    assert one.take(KEY, [HOUR, DAY]) is None and other.take(KEY, [HOUR, DAY]) is None
    over = one.take(KEY, [HOUR, DAY])
    assert over is not None and over.rule is HOUR and 0 < over.seconds <= 7200
    assert {(count.key, count.seconds, count.count) for count in one.counts()} == {(KEY, 3600, 2), (KEY, 86400, 2)}
    assert other.reset(KEY) == 2 and other.reset(KEY) == 0
    assert one.take(KEY, [HOUR, DAY]) is None
    assert one.left(b"net\0a\0b", 1, 100, 1000) == 1 and other.left(b"net\0a\0c", 9, 100, 1000) == 9
    wait_for(lambda: other.left(b"net\0a\0b", 1, 100, 1000) == 0, "the newcomer to be known")
    assert one.left(b"net\0a\0b", 50, 100, 1000) == 0
    assert all(int(redis.client.ttl(name)) > 0 for name in redis.client.scan_iter())


def test_a_server_that_hangs_or_is_lost_is_waited_for_once_and_counting_goes_on_here(redis: Redis) -> None:
    said: list[bytes] = []
    store = Preferred(Shared(redis.url), Local(Clock()), said.append)
    assert store.take(KEY, [HOUR]) is None
    redis.process.send_signal(signal.SIGSTOP)
    assert [store.take(KEY, [HOUR]) is None for _ in range(3)] == [True, True, False], "its own count begins at nothing"
    assert len(said) == 1 and said[0].startswith(b"warning: control/statestore: ")
    redis.process.send_signal(signal.SIGCONT)
    store._until = 0.0
    assert store.take(KEY, [HOUR]) is None, "what is shared counts again"
    redis.process.kill()
    redis.process.wait()
    assert store.left(b"x", 5, 9, 9) == 5 and list(store.counts()) != [] and store.reset(KEY) == 1
    assert len(said) == 2


def test_nonsense_is_no_answer(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def answer() -> None:
            for _ in range(2):
                sock, _ = listener.accept()
                with sock:
                    sock.recv(4096)
                    sock.sendall(b"220 mail.example ESMTP\r\n\0\xff")

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(Away):
            Shared(parse_url(f"redis+unix://{path}")).take(KEY, [HOUR])
        with pytest.raises(Away):
            Shared(parse_url(f"redis+unix://{path}")).left(b"x", 1, 2, 3)
        thread.join()


ERRORS = [getattr(exceptions, name) for name in ("ConnectionError", "TimeoutError", "ResponseError", "ReadOnlyError")]


@pytest.mark.parametrize("error", [*ERRORS, exceptions.BusyLoadingError, exceptions.NoScriptError, BrokenPipeError])
def test_whatever_the_library_raises_is_a_server_that_is_away(error: type[Exception]) -> None:
    with pytest.raises(Away), answered():
        raise error("of the library's own, and no OSError")


@pytest.mark.parametrize(
    "url",
    [
        "",
        "127.0.0.1",
        "http://x",
        "redis://:se:cret@x:secret",
        "memcached://x",
        "redis://x?ssl_cert_reqs=none",
        "redis://[x",
    ],
)
def test_other_urls_and_options_are_refused_without_a_word_of_them(url: str) -> None:
    with pytest.raises(ValueError, match="wanted") as error:
        parse_url(url)
    assert "secret" not in str(error.value)


def test_only_the_shared_store_imports_what_it_needs() -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import pyqmail.programs.qmail_stated, pyqmail.state.service\n"
        "import pyqmail.programs.qmail_smtpd, pyqmail.incoming.relay_limits, pyqmail.incoming.greylist\n"
        "print(*{'limits', 'valkey', 'wrapt'} & set(sys.modules))\n"
    )
    root = str(Path(__file__).parents[2])
    done = subprocess.run([sys.executable, "-c", code, root], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("\n", "")


@pytest.mark.parametrize(
    ("url", "shown", "secret"),
    [
        (b"redis://:pass@word@127.0.0.1:1/2", b"redis://:***@127.0.0.1:1/2", True),
        (b"rediss://ann:secret@host", b"rediss://ann:***@host", True),
        (b"redis://127.0.0.1", b"redis://127.0.0.1", False),
        (b"redis+unix:///path", b"redis+unix:///path", False),
    ],
)
def test_a_password_is_shown_to_nobody_and_a_file_that_others_read_is_not_used(
    tmp_path: Path, url: bytes, shown: bytes, secret: bool
) -> None:
    assert without_password(url) == shown
    file = tmp_path / "control/statestore"
    file.parent.mkdir()
    file.write_bytes(url + b"\n")
    file.chmod(0o644)
    assert read_store(str(tmp_path)) == (url, "it has a password that others may read: chmod 0640" if secret else "")
    file.chmod(0o640)
    assert read_store(str(tmp_path)) == (url, "")
    file.unlink()
    assert read_store(str(tmp_path)) == (b"", "")


def test_a_password_is_said_to_the_server_and_a_wrong_one_is_none(redis: Redis) -> None:
    redis.client.config_set("requirepass", "s:e/cret")
    right = Shared(parse_url(f"redis+unix://:s%3Ae%2Fcret@{redis.path}"))
    assert right.take(KEY, [HOUR]) is None
    said: list[bytes] = []
    store = Preferred(Shared(parse_url(f"redis+unix://:another@{redis.path}")), Local(Clock()), said.append)
    assert store.take(KEY, [HOUR]) is None and [count.count for count in right.counts()] == [1]
    assert len(said) == 1 and b"another" not in said[0]


def test_tls_is_spoken_to_the_server_that_the_certificate_names(tmp_path: Path) -> None:
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed")
    pem = self_signed(tmp_path, "localhost")
    port = free_port()
    words = ["--port", "0", "--tls-port", str(port), "--tls-auth-clients", "no", "--save", "", "--dir", str(tmp_path)]
    files = [word for name in ("cert", "key", "ca-cert") for word in (f"--tls-{name}-file", str(pem))]
    process = subprocess.Popen(["redis-server", "--bind", "127.0.0.1", *words, *files], stdout=subprocess.DEVNULL)

    def takes(host: str, options: str) -> bool:
        try:
            return Shared(parse_url(f"rediss://{host}:{port}{options}")).take(KEY, [HOUR]) is None
        except Away:
            return False

    try:
        trusted = f"?ssl_ca_certs={pem}"
        wait_for(lambda: takes("localhost", trusted), "redis-server with TLS")
        assert not takes("127.0.0.1", trusted), "another name"
        assert not takes("localhost", ""), "an authority that nobody knows"
    finally:
        process.kill()
        process.wait()
