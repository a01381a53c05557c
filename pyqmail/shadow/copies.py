"""The copies that a worker of qmail-queued asks for, and hears of before it puts messages into the queue.

    begin   each message and envelope goes to qmail-shadowd: small ones together in one record, else as descriptors that
            can only be read
    settle  its answers are waited for, ANSWER_S at most: whoever has none has no copy
    end     which of the messages are in the queue now

qmail-shadowd withdraws what it was asked for and never hears is in the queue, so a worker that dies leaves nothing.
The kernel keeps the time of each call (SO_RCVTIMEO): with Python's own each would be two more.
"""

import os
import socket
import struct
import time
from _thread import _local
from collections.abc import Iterable, Sequence

from pyqmail.exits import QueueExit
from pyqmail.protocol.shadow import (
    COPY,
    COPY_WORDS,
    KEPT,
    OK,
    RECORD_MAX,
    SMALL_MAX,
    SOCKET,
    WITHDRAW,
    format_record,
    parse_record,
)
from pyqmail.spool.draft import PENDING, Draft
from pyqmail.spool.layout import Layout

ANSWER_S = 20.0  # from the first message of a batch to the last answer, within a second
SEND_S = 5
_TIME = struct.Struct("@ll")  # a struct timeval
_WORDS_SPACE = 64  # bytes: what netstrings of one small message have besides, and its ID


class Copies(_local):
    """Those of one worker, each of its threads with a connection of its own. ``required``: without one is refused."""

    def __init__(self, layout: Layout, *, required: bool) -> None:
        self.required = required
        self._layout = layout
        self._socket: socket.socket | None = None
        self._patience_s = 0  # of that
        self._asked: set[bytes] = set()
        self._until = 0.0

    @staticmethod
    def new_id() -> bytes:
        """One that nobody has."""
        return os.urandom(16).hex().encode()

    def begin(self, drafts: Iterable[Draft]) -> None:
        """Have each of ``drafts`` copied. Never raises."""
        self._asked.clear()
        self._until = time.monotonic() + ANSWER_S
        words: list[bytes] = []
        room = RECORD_MAX
        try:
            for draft in drafts:
                if draft.exit_code != PENDING:
                    continue
                facts = draft.facts if draft.token else b""
                envelope, message = os.pread(draft.envelope, SMALL_MAX, 0), os.pread(draft.message, SMALL_MAX, 0)
                size = len(facts) + len(envelope) + len(message)
                if size >= SMALL_MAX:
                    self._hand_over(draft, facts)
                    continue
                room -= size + _WORDS_SPACE
                if room < 0:
                    self._ask(words)
                    words, room = [], RECORD_MAX - size - _WORDS_SPACE
                words += draft.shadow, facts, envelope, message
            if words:
                self._ask(words)
        except OSError:
            self._close()

    def _ask(self, words: Sequence[bytes]) -> None:
        """Have small messages copied. Raises OSError."""
        self._say(format_record(COPY, *words))
        self._asked.update(words[::COPY_WORDS])

    def _hand_over(self, draft: Draft, facts: bytes) -> None:
        """Have a message copied whose files are to be read. Raises OSError."""
        fds: list[int] = []
        try:
            for fd, path in ((draft.message, self._layout.mess), (draft.envelope, self._layout.intd)):
                fds.append(self._read_only(fd, path(draft.number)))
            self._say(format_record(COPY, draft.shadow, facts), fds)
        finally:
            for fd in fds:
                os.close(fd)
        self._asked.add(draft.shadow)

    def _read_only(self, fd: int, path: str) -> int:
        """The same file, opened once more so that who gets it cannot write."""
        try:
            return os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:  # no /proc: then it has a name
            return os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def _say(self, record: bytes, fds: Sequence[int] = ()) -> None:
        """One record, to the next qmail-shadowd where the one of the batch before has gone. Raises OSError."""
        if self._socket is not None:
            try:
                _send(self._socket, record, fds)
                return
            except ConnectionError:
                self._close()
                if self._asked:
                    raise  # it will not answer for those
        self._socket = self._connected()
        _send(self._socket, record, fds)

    def settle(self) -> set[bytes]:
        """The IDs of what was copied, once all answers are there or cannot come any more."""
        copied: set[bytes] = set()
        try:
            while self._asked and self._socket is not None:
                self._wait_at_most(self._socket, self._until - time.monotonic())
                words = parse_record(self._socket.recv(RECORD_MAX))
                if not words:
                    raise ConnectionError("qmail-shadowd has gone")
                answered = self._asked.intersection(words[1:])
                self._asked -= answered
                if words[0] == OK:
                    copied |= answered
        except OSError:
            self._close()  # an answer that is late goes with it, and what was copied is withdrawn
            copied.clear()
        return copied

    def end(self, drafts: Iterable[Draft], copied: set[bytes]) -> None:
        """Say what became of ``copied``, before anybody is told that a message was accepted. Never raises."""
        kept = {draft.shadow for draft in drafts if draft.exit_code == QueueExit.DONE} & copied
        try:
            for word, ids in ((KEPT, kept), (WITHDRAW, copied - kept)):
                if ids and self._socket is not None:
                    self._socket.send(format_record(word, *ids), socket.MSG_NOSIGNAL)
        except OSError:
            self._close()

    def _connected(self) -> socket.socket:
        """A new connection to qmail-shadowd. Raises OSError."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _TIME.pack(SEND_S, 0))
            sock.connect(self._layout.home + SOCKET)
        except OSError:
            sock.close()
            raise
        self._patience_s = 0
        return sock

    def _wait_at_most(self, sock: socket.socket, seconds: float) -> None:
        """Let the next answer take so long, rounded up. Raises OSError."""
        if seconds <= 0:
            raise TimeoutError
        patience_s = int(seconds) + 1
        if patience_s != self._patience_s:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _TIME.pack(patience_s, 0))
            self._patience_s = patience_s

    def _close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def _send(sock: socket.socket, record: bytes, fds: Sequence[int]) -> None:
    if fds:
        socket.send_fds(sock, [record], fds, socket.MSG_NOSIGNAL)
    else:
        sock.send(record, socket.MSG_NOSIGNAL)
