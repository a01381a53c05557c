"""The copies that a worker of qmail-queued asks for, and hears of before it puts messages into the queue.

    begin   each message and envelope goes to qmail-shadowd, as descriptors that can only be read
    settle  its answers are waited for, ANSWER_S at most: whoever has none has no copy
    end     which of the messages are in the queue now

qmail-shadowd withdraws what it was asked for and never hears is in the queue, so a worker that dies leaves nothing.
"""

import os
import select
import socket
import time
from _thread import _local
from collections.abc import Iterable

from pyqmail.exits import QueueExit
from pyqmail.protocol.shadow import COPY, KEPT, OK, RECORD_MAX, SOCKET, WITHDRAW, format_record, parse_record
from pyqmail.spool.draft import PENDING, Draft
from pyqmail.spool.layout import Layout

ANSWER_S = 20.0  # from the first message of a batch to the last answer
SEND_S = 5.0


class Copies(_local):
    """Those of one worker, each of its threads with a connection of its own. ``required``: without one is refused."""

    def __init__(self, layout: Layout, *, required: bool) -> None:
        self.required = required
        self._layout = layout
        self._socket: socket.socket | None = None
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
        try:
            sock = self._connection()
            for draft in drafts:
                if draft.exit_code == PENDING:
                    self._ask(sock, draft)
                    self._asked.add(draft.shadow)
        except OSError:
            self._close()

    def _ask(self, sock: socket.socket, draft: Draft) -> None:
        fds = []
        try:
            for fd, path in ((draft.message, self._layout.mess), (draft.envelope, self._layout.intd)):
                fds.append(self._read_only(fd, path(draft.number)))
            facts = draft.facts if draft.token else b""
            socket.send_fds(sock, [format_record(COPY, draft.shadow, facts)], fds, socket.MSG_NOSIGNAL)
        finally:
            for fd in fds:
                os.close(fd)

    def _read_only(self, fd: int, path: str) -> int:
        """The same file, opened once more so that who gets it cannot write."""
        try:
            return os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:  # no /proc: then it has a name
            return os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def settle(self) -> set[bytes]:
        """The IDs of what was copied, once all answers are there or cannot come any more."""
        copied: set[bytes] = set()
        try:
            while self._asked and self._socket is not None:
                left = self._until - time.monotonic()
                if left <= 0:
                    raise TimeoutError
                self._socket.settimeout(left)
                words = parse_record(self._socket.recv(RECORD_MAX))
                if not words:
                    raise ConnectionError("qmail-shadowd has gone")
                word, *ids = words
                self._asked.difference_update(ids)
                if word == OK:
                    copied.update(ids)
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
                    self._socket.settimeout(SEND_S)
                    self._socket.send(format_record(word, *ids), socket.MSG_NOSIGNAL)
        except OSError:
            self._close()

    def _connection(self) -> socket.socket:
        """A connection to qmail-shadowd, whose other end is there. Raises OSError."""
        if self._socket is not None and not _is_open(self._socket):
            self._close()
        if self._socket is None:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            sock.settimeout(SEND_S)
            try:
                sock.connect(self._layout.home + SOCKET)
            except OSError:
                sock.close()
                raise
            self._socket = sock
        self._socket.settimeout(SEND_S)
        return self._socket

    def _close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def _is_open(sock: socket.socket) -> bool:
    """Whether the other end has said nothing: between batches there is nothing to say but its end."""
    look = select.poll()
    look.register(sock, select.POLLIN)
    return not look.poll(0)
