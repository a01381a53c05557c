"""qmail-stated at work: one loop that answers questions, each at once, and keeps a file for the next process.

Only whom it trusts is read.
"""

import os
import socket
from collections.abc import Callable
from functools import lru_cache

from pyqmail.dependencies import missing_module
from pyqmail.formats.logline import safe_words
from pyqmail.protocol import state
from pyqmail.protocol.state import format_record, parse_record, parse_rule
from pyqmail.state import snapshot
from pyqmail.state.alerts import Alerts
from pyqmail.state.clock import Clock
from pyqmail.state.local import Local, Store
from pyqmail.state.table import Damaged
from pyqmail.system import files
from pyqmail.system.helper_log import HelperLog
from pyqmail.system.loop import Loop
from pyqmail.system.peer import peer_credentials

CONNECTIONS_MAX = 8000
SWEEP_S = 60.0  # from one look for what has expired to the next
SAVE_S = 300.0  # from one file to the next
FILE = "state"  # in the directory that is current
NAME = b"qmail-stated"
_parsed = lru_cache(maxsize=256)(parse_record)  # who sends much asks the same again and again


class Service:
    """One loop. ``trusted`` says of a uid whether it is answered."""

    def __init__(
        self,
        loop: Loop,
        listener: socket.socket,
        home: str,
        trusted: Callable[[int], bool],
        store: tuple[bytes, str] = (b"", ""),
    ) -> None:
        """``store`` is what ``read_store`` has found."""
        self._loop = loop
        self._listener = listener
        self._trusted = trusted
        self._say = HelperLog(NAME).say
        self._clock = Clock()
        self._local = Local(self._clock)
        self._store = self._choose_store(*store)
        self._alerts = Alerts(loop, home, self._say)
        self._open = 0
        loop.add_reader(listener.fileno(), self._accept)
        self._restore()
        loop.call_later(SWEEP_S, self._sweep)
        loop.call_later(SAVE_S, self._save_again)

    def _choose_store(self, url: bytes, problem: str) -> Store:
        """The server at ``url``, if it can be used."""
        try:
            if problem:
                raise ValueError(problem)
            if not url:
                return self._local
            from pyqmail.state.shared import Preferred, Shared, parse_url  # seldom wanted: its libraries are large

            return Preferred(Shared(parse_url(url.decode("ascii"))), self._local, self._say)
        except (ImportError, ValueError) as error:
            self._say(b"alert: control/statestore is not used: " + safe_words(explained(error)))
            return self._local

    def _restore(self) -> None:
        try:
            snapshot.load(FILE, self._clock, self._local.tables)
        except (OSError, Damaged) as error:
            self._say(b"alert: what was counted is forgotten: run/state/%b: %b" % (FILE.encode(), str(error).encode()))
            self._local.clear()

    def save(self) -> None:
        """Leave a file to the next process. Never raises."""
        try:
            snapshot.save(FILE, self._clock, self._local.tables)
        except OSError as error:
            self._say(b"warning: unable to write run/state/%b: %b" % (FILE.encode(), str(error).encode()))

    def _save_again(self) -> None:
        self.save()
        self._loop.call_later(SAVE_S, self._save_again)

    def _sweep(self) -> None:
        self._local.sweep()
        self._loop.call_later(SWEEP_S, self._sweep)

    # clients

    def _accept(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except OSError:
            return
        uid = peer_credentials(sock)[1]
        if not self._trusted(uid) or self._open >= CONNECTIONS_MAX:
            sock.close()
            return
        self._open += 1
        sock.setblocking(False)
        self._loop.add_reader(sock.fileno(), lambda: self._hear(sock, uid))

    def _hear(self, sock: socket.socket, uid: int) -> None:
        """One question, or the end of a client; one who asks what is no question, or takes no answer, is left."""
        try:
            words = _parsed(sock.recv(state.RECORD_MAX + 1))
            if self._answer(sock, words, from_root=uid in (0, os.geteuid())):
                return
        except OSError:
            pass
        self._loop.remove_reader(sock.fileno())
        sock.close()
        self._open -= 1

    def _answer(self, sock: socket.socket, words: list[bytes], *, from_root: bool) -> bool:
        """Whether that was a question, and is answered. Raises OSError."""
        word, *rest = words or [b""]
        if word == state.TAKE and 1 < len(rest) <= 1 + state.RULES_MAX and len(rest[0]) <= state.KEY_MAX:
            answer = self._take(rest[0], rest[1:])
        elif word == state.FIRST and len(rest) == 4 and len(rest[0]) <= state.KEY_MAX:
            answer = self._first(rest[0], rest[1:])
        elif word == state.RESET and len(rest) == 1 and from_root:
            answer = [state.OK, b"%d" % self._store.reset(rest[0])]
        elif word == state.SHOW and from_root:
            return self._show(sock)
        else:
            return False
        return bool(answer) and sock.send(format_record(*answer), socket.MSG_NOSIGNAL) > 0

    def _take(self, key: bytes, texts: list[bytes]) -> list[bytes]:
        rules = [rule for text in texts if (rule := parse_rule(text))]
        if len(rules) < len(texts):
            return []
        over = self._store.take(key, rules)
        if over is None:
            return [state.OK]
        self._alerts.tell(key, over)
        return [state.OVER, over.rule.format(), b"%d" % over.seconds]

    def _first(self, key: bytes, texts: list[bytes]) -> list[bytes]:
        if not all(text.isdigit() and len(text) <= 9 for text in texts):
            return []
        wait_s, again_s, keep_s = map(int, texts)
        left = self._store.left(key, wait_s, again_s, keep_s)
        return [state.WAIT, b"%d" % left] if left else [state.OK]

    def _show(self, sock: socket.socket) -> bool:
        fd = os.memfd_create("qmail-stated", os.MFD_CLOEXEC)
        try:
            lines = [
                b"%b %d %d %d %b\n" % (count.kind, count.seconds, count.count, count.refused, count.key)
                for count in self._store.counts()
            ]
            files.write_all(fd, b"".join(lines))
            return socket.send_fds(sock, [format_record(state.OK)], [fd], socket.MSG_NOSIGNAL) > 0
        finally:
            os.close(fd)


def explained(error: Exception) -> str:
    """What is wrong, and what to do about a library that is missing."""
    remedy = missing_module(error.name or "") if isinstance(error, ModuleNotFoundError) else None
    return f"{error}: run {remedy}" if remedy else str(error)
