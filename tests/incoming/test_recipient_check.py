"""The check of recipients as one session sees it: services and checkers of every kind."""

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pyqmail.control import Control, ControlUnreadable
from pyqmail.incoming import recipient_check
from pyqmail.incoming.recipient_check import RecipientCheck, RecipientClient, run_checker
from pyqmail.protocol.recipients import ACCEPT, NOBODY, SOCKET, parse_question
from pyqmail.system.file_cache import FileCache


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "control").mkdir()
    (tmp_path / "run").mkdir()
    monkeypatch.setattr(recipient_check, "ANSWER_S", 20)
    monkeypatch.setattr(RecipientClient, "kept", None)
    yield tmp_path


def check(home: Path, **environ: str) -> RecipientCheck:
    """A session's check."""
    return RecipientCheck(
        Control(str(home)), str(home), {name.encode(): value.encode() for name, value in environ.items()}
    )


def judge(number: bytes, recipient: bytes) -> bytes | None:
    """The answers of a service that knows nobody@ to be nobody."""
    return number + (NOBODY if recipient.startswith(b"nobody@") else ACCEPT)


@contextmanager
def service(home: Path, answer: Callable[[bytes, bytes], bytes | None] = judge) -> Iterator[list[bytes]]:
    """A service; the recipients that it was asked about."""
    path = str(home) + SOCKET
    Path(path).unlink(missing_ok=True)
    asked: list[bytes] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as door:
        door.bind(path)

        def serve() -> None:
            while True:
                data, sender = door.recvfrom(4096)
                question = parse_question(data)
                if question is None:
                    return
                asked.append(question[1])
                said = answer(*question[:2])
                if said is not None:
                    door.sendto(said, sender)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield asked
        finally:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
                end.sendto(b"end", path)
            thread.join(20)


def test_only_a_definite_no_refuses(home: Path) -> None:
    with service(home) as asked:
        session = check(home)
        assert [session.exists(each) for each in (b"nobody@x", b"joe@x", b"nobody@y")] == [False, True, False]
        session.close()
    assert asked == [b"nobody@x", b"joe@x", b"nobody@y"]


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(lambda number, recipient: number, id="no letter"),
        pytest.param(lambda number, recipient: number + b"NN", id="too much"),
        pytest.param(lambda number, recipient: b"\xff" * 8 + NOBODY, id="of another question"),
        pytest.param(lambda number, recipient: b"", id="nothing"),
    ],
)
def test_an_answer_that_is_none_accepts(home: Path, answer: Callable[[bytes, bytes], bytes]) -> None:
    with service(home, answer):
        session = check(home)
        assert session.exists(b"nobody@x")
        session.close()


def test_a_silent_service_is_waited_for_once(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipient_check, "ANSWER_S", 1)
    with service(home, lambda number, recipient: None) as asked:
        session = check(home)
        start = time.monotonic()
        assert all(session.exists(b"nobody@x") for _ in range(5))
        assert 0.9 < time.monotonic() - start < 10
        session.close()
    assert asked == [b"nobody@x"]


@pytest.mark.parametrize("there", ["nothing", "a file", "a socket that nobody serves"])
def test_without_a_service_everybody_is_accepted(home: Path, there: str) -> None:
    path = Path(str(home) + SOCKET)
    if there == "a file":
        path.touch()
    elif there != "nothing":
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as door:
            door.bind(str(path))
    session = check(home)
    assert session.exists(b"nobody@x")
    session.close()


def test_nobody_is_asked_under_qmailqueue_and_when_it_is_off(home: Path) -> None:
    with service(home) as asked:
        assert check(home, QMAILQUEUE="/bin/other").exists(b"nobody@x")
        (home / "control" / "rcptcheck").write_text("off\n")
        assert check(home).exists(b"nobody@x")
        (home / "control" / "rcptcheck").write_text("\n# empty: the service\n")
        session = check(home)
        assert not session.exists(b"nobody@x")
        session.close()
    assert asked == [b"nobody@x"]


def test_an_unreadable_rcptcheck_is_not_a_missing_one(home: Path) -> None:
    (home / "control" / "rcptcheck").symlink_to("rcptcheck")
    with pytest.raises(ControlUnreadable):
        check(home).exists(b"nobody@x")


def test_a_warm_process_keeps_its_socket_and_finds_the_next_service(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Control, "cache", FileCache())
    before = set(os.listdir("/proc/self/fd"))

    def ask() -> bool:
        session = check(home)
        try:
            return session.exists(b"nobody@x")
        finally:
            session.close()

    with service(home):
        assert [ask() for _ in range(5)] == [False] * 5
        first = set(os.listdir("/proc/self/fd")) - before
    assert ask()
    with service(home):
        assert [ask() for _ in range(3)] == [False] * 3
    with service(home):
        assert not ask()
    assert RecipientClient.kept is not None
    RecipientClient.kept.close()
    assert len(first) == 2  # the service's socket, and one of ours


# A checker of one's own


def checker(home: Path, body: str) -> bytes:
    """A program, named in control/rcptcheck."""
    path = home / "checker"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    (home / "control" / "rcptcheck").write_text(f"{path}\n")
    return bytes(path)


@pytest.mark.parametrize(
    ("body", "exists"),
    [
        ("exit 100", False),
        ("exit 0", True),
        ("exit 111", True),
        ("exit 1", True),
        ("kill -9 $$", True),
        ('[ "$1" = "a b@x" ] && [ $# = 1 ] && exit 100', False),
        ('[ "$TCPREMOTEIP" = 192.0.2.7 ] && exit 100', False),
        ("read line && exit 0; echo output; exit 100", False),
    ],
)
def test_a_checker(home: Path, body: str, exists: bool) -> None:
    checker(home, body)
    session = check(home, TCPREMOTEIP="192.0.2.7", PATH="/usr/bin:/bin")
    assert session.exists(b"a b@x") is exists
    session.close()


def test_a_checker_that_does_not_end_is_killed_with_its_children(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipient_check, "CHECKER_S", 0.3)
    reader, writer = os.pipe()
    os.set_inheritable(writer, True)
    program = checker(home, "sleep 1000 & sleep 1000; exit 100")
    assert run_checker(program, b"a@b", {b"PATH": b"/usr/bin:/bin"}) == -1
    os.close(writer)
    assert os.read(reader, 1) == b""  # its end: nobody of the group is left
    os.close(reader)


def test_a_checker_that_cannot_be_run_accepts() -> None:
    assert run_checker(b"/nonexistent", b"a@b", {}) == -1
    assert run_checker(b"/bin/true", b"a\0@b", {}) == -1
