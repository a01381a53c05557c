"""What a worker of qmail-queued makes of a qmail-shadowd that answers, dies, or is silent, at each step."""

import contextlib
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pyqmail.exits import QueueExit
from pyqmail.protocol import shadow
from pyqmail.shadow import copies as module
from pyqmail.shadow.copies import Copies
from pyqmail.spool.draft import Draft
from pyqmail.spool.layout import Layout

Said = list[list[bytes]]
Answer = Callable[[socket.socket, list[bytes]], None]


class Shadowd:
    """One that answers as it is told, and remembers what it heard by connection."""

    def __init__(self, listener: socket.socket, answer: Answer) -> None:
        self.heard: list[Said] = []
        self.answer = answer
        self.ended = threading.Semaphore(0)  # of connections
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                with listener.accept()[0] as sock, contextlib.suppress(OSError):
                    self._serve(sock)
                self.ended.release()

    def _serve(self, sock: socket.socket) -> None:
        said: Said = []
        self.heard.append(said)
        while True:
            data, fds, _, _ = socket.recv_fds(sock, shadow.RECORD_MAX, 2)
            for fd in fds:
                with pytest.raises(OSError, match="Bad file descriptor"):
                    os.write(fd, b"x")  # it can only be read
                os.close(fd)
            if not data:
                return
            said.append(shadow.parse_record(data))
            self.answer(sock, said[-1])


def asked(words: list[bytes]) -> list[bytes]:
    """The IDs of what that record wants copied: one in files, or some that are whole."""
    return words[1:2] if len(words) == 3 else words[1 :: shadow.COPY_WORDS]


def willing(sock: socket.socket, words: list[bytes]) -> None:
    if words[0] == shadow.COPY:
        sock.send(shadow.format_record(shadow.OK, *asked(words)))


def unwilling(sock: socket.socket, words: list[bytes]) -> None:
    if words[0] == shadow.COPY:
        sock.send(shadow.format_record(shadow.NO, *asked(words)))


def dying(sock: socket.socket, words: list[bytes]) -> None:
    sock.shutdown(socket.SHUT_RDWR)


def talking_nonsense(sock: socket.socket, words: list[bytes]) -> None:
    sock.send(b"9:x")


def silent(sock: socket.socket, words: list[bytes]) -> None:
    return


def answering_once(sock: socket.socket, words: list[bytes]) -> None:
    sock.send(shadow.format_record(shadow.OK, *asked(words)[:1]))
    sock.shutdown(socket.SHUT_RDWR)


def answering_for_others(sock: socket.socket, words: list[bytes]) -> None:
    sock.send(shadow.format_record(shadow.OK, b"0" * 32))
    unwilling(sock, words)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "run").mkdir()
    return tmp_path


@pytest.fixture
def copies(place: Path, monkeypatch: pytest.MonkeyPatch) -> Copies:
    monkeypatch.setattr(module, "ANSWER_S", 20.0)
    return Copies(Layout(str(place), 23), required=True)


def drafts(place: Path, copies: Copies, count: int, size: int = 0) -> list[Draft]:
    made = []
    for number in range(count):
        identity = copies.new_id()
        fds = [os.open(place / f"{identity.decode()}{part}", os.O_RDWR | os.O_CREAT) for part in "me"]
        os.write(fds[0], b"x" * size)
        os.write(fds[1], b"Fann@x\0")
        made.append(Draft(fds[0], number, classic=False, head=b""))
        made[-1].envelope = fds[1]
        made[-1].name_copy(identity)
    return made


@pytest.fixture
def listener(place: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.bind(str(place) + shadow.SOCKET)
        sock.listen()
        yield sock


def test_batches_share_a_connection_and_end_with_what_became_of_each(
    place: Path, copies: Copies, listener: socket.socket
) -> None:
    shadowd = Shadowd(listener, willing)
    for _ in range(3):
        batch = drafts(place, copies, 2)
        copies.begin(batch)
        copied = copies.settle()
        assert copied == {draft.shadow for draft in batch}
        batch[0].exit_code, batch[1].exit_code = QueueExit.DONE, QueueExit.WRITE_ERROR
        copies.end(batch, copied)
        kept, left = batch[0].shadow, batch[1].shadow
    copies.begin(drafts(place, copies, 1))  # so that it has heard the last word
    copies.settle()
    (said,) = shadowd.heard
    assert [words[0] for words in said[:3]] == [shadow.COPY, shadow.KEPT, shadow.WITHDRAW]
    assert said[-3:-1] == [[shadow.KEPT, kept], [shadow.WITHDRAW, left]]


def test_small_messages_share_records_and_large_ones_go_as_files(
    place: Path, copies: Copies, listener: socket.socket
) -> None:
    shadowd = Shadowd(listener, willing)
    batch = [
        draft for size in (10, shadow.SMALL_MAX, 20_000, 20_000, 20_000, 20_000)
        for draft in drafts(place, copies, 1, size)
    ]  # fmt: skip
    copies.begin(batch)
    assert copies.settle() == {draft.shadow for draft in batch}
    (said,) = shadowd.heard
    assert said[0] == [shadow.COPY, batch[1].shadow, b""]
    whole = [shadow.COPY, batch[0].shadow, b"", b"Fann@x\0", b"x" * 10]
    assert said[1][: len(whole)] == whole
    assert [len(asked(words)) for words in said] == [1, 4, 1]


def test_a_batch_after_the_end_of_a_qmail_shadowd_goes_to_the_next_one(
    place: Path, copies: Copies, listener: socket.socket
) -> None:
    shadowd = Shadowd(listener, willing)
    for _ in range(2):
        batch = drafts(place, copies, 2)
        copies.begin(batch)
        copied = copies.settle()
        assert copied == {draft.shadow for draft in batch}
        shadowd.answer = dying
        copies.end(batch[:1], copied)  # the first to hear nothing is whoever has ended
        shadowd.ended.acquire()
        shadowd.answer = willing
    assert len(shadowd.heard) == 2


@pytest.mark.parametrize("answer", [unwilling, dying, talking_nonsense, silent, answering_once, answering_for_others])
def test_what_has_no_whole_answer_has_no_copy_and_the_next_batch_another_chance(
    place: Path, copies: Copies, listener: socket.socket, answer: Answer, monkeypatch: pytest.MonkeyPatch
) -> None:
    shadowd = Shadowd(listener, answer)
    batch = drafts(place, copies, 2)
    with monkeypatch.context() as patch:
        if answer is silent:
            patch.setattr(module, "ANSWER_S", 1.0)
        copies.begin(batch)
        assert copies.settle() == set()
    copies.end(batch, set())
    shadowd.answer = willing
    again = drafts(place, copies, 1)
    copies.begin(again)
    assert copies.settle() == {again[0].shadow}


def test_without_a_qmail_shadowd_nothing_has_a_copy(place: Path, copies: Copies) -> None:
    batch = drafts(place, copies, 1)
    copies.begin(batch)
    assert copies.settle() == set()
    copies.end(batch, set())


def test_a_thread_neither_hears_nor_forgets_what_another_one_asked_for(tmp_path: Path) -> None:
    copies = Copies(Layout(str(tmp_path), 23), required=True)
    copies._asked.add(b"0" * 32)
    seen: list[set[bytes]] = []

    def other() -> None:
        copies.begin([])
        seen.append(set(copies._asked))

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert seen == [set()] and copies._asked == {b"0" * 32}
