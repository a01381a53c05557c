"""Which of an exchanger's addresses is taken, with listeners that answer and listeners that do not."""

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyqmail.programs import qmail_remote
from pyqmail.remote import attempts
from pyqmail.remote import race as race_module
from pyqmail.remote.connection import Place
from pyqmail.remote.exchangers import Candidate
from pyqmail.remote.race import race
from pyqmail.remote.tcpto import parse_table, record_key
from tests.loopback import free_port
from tests.mail_sink import mail_sink
from tests.scripted_peers import remote_home
from tests.waiting import wait_for

FOUR, SIX = b"\x7f\0\0\1", bytes(15) + b"\1"
pytestmark = pytest.mark.skipif(not os.path.exists("/proc/net/if_inet6"), reason="needs IPv6")


@contextlib.contextmanager
def silent(address: str, port: int) -> Iterator[None]:
    """A listener at ``address`` whose queue is full: who connects hears nothing."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket(family))
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, port))
        listener.listen(0)
        for _ in range(8):  # one too many is dropped
            filler = stack.enter_context(socket.socket(family))
            filler.setblocking(False)
            filler.connect_ex((address, port))
        yield


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(race_module, "HEAD_START_S", 0.2)
    return free_port()


def run(port: int, first: bytes, second: bytes, timeout_s: float = 30) -> tuple[Place, socket.socket]:
    return race(Place(first, port, b"mx.test"), Place(second, port, b"mx.test"), timeout_s)


@pytest.mark.parametrize(("hanging", "first", "second"), [("::1", SIX, FOUR), ("127.0.0.1", FOUR, SIX)])
def test_the_second_is_taken_where_the_first_says_nothing(port: int, hanging: str, first: bytes, second: bytes) -> None:
    well = "127.0.0.1" if hanging == "::1" else "::1"
    with silent(hanging, port), mail_sink(address=well, port=port) as sink:
        place, sock = run(port, first, second)
        with sock:
            assert place.packed == second and sock.recv(100) == b"220 sink\r\n"
        sink.wait(lambda: sink.connections == 1, "one connection")


def test_the_first_is_taken_where_it_answers_and_the_second_hears_nothing(port: int) -> None:
    with mail_sink(address="::1", port=port) as six, mail_sink(port=port) as four:
        place, sock = run(port, SIX, FOUR)
        sock.close()
        assert place.packed == SIX
        six.wait(lambda: six.connections == 1, "a connection")
    assert four.connections == 0


def test_one_that_refuses_is_no_race(port: int) -> None:
    with mail_sink(port=port) as sink, pytest.raises(ConnectionRefusedError):
        run(port, SIX, FOUR)
    assert sink.connections == 0


def test_nobody_takes_it(port: int) -> None:
    with silent("::1", port), pytest.raises(TimeoutError):
        run(port, SIX, FOUR, 0.5)
    with silent("::1", port), silent("127.0.0.1", port), pytest.raises(TimeoutError):
        run(port, SIX, FOUR, 0.5)


def test_a_message_goes_by_ipv4_where_ipv6_leads_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes], port: int
) -> None:
    found = [Candidate(SIX, 5, b"mx.test", rival=FOUR), Candidate(FOUR, 5, b"mx.test")]
    monkeypatch.setattr(attempts, "find_candidates", lambda *_: iter(found))
    monkeypatch.setattr(attempts, "SMTP_PORT", port)
    monkeypatch.chdir(tmp_path)
    home = remote_home(tmp_path)
    with silent("::1", port), mail_sink(port=port) as sink:
        words = [b"qmail-remote", b"x.test", b"", b"r@x.test"]
        assert qmail_remote.main(words, {b"QMAIL_HOME": os.fsencode(home)}) == 0
        wait_for(lambda: len(sink.taken) == 1, "the message")
    assert capfdbinary.readouterr().out.startswith(b"r\0K127.0.0.1 accepted message.")
    entries = [entry for _, entry in parse_table((home / "queue/lock/tcpto").read_bytes()) if entry.count]
    assert [(entry.key, entry.count) for entry in entries] == [(record_key(SIX), 1)]
