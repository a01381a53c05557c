"""Asking and ordering a running qmail-send through run/send/control, as qmail-q does (protocol/control)."""

import json
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field

from pyqmail.protocol import control
from pyqmail.protocol.control import Request
from pyqmail.spool import queue_view

ANSWER_S = 120.0


class QueueError(Exception):
    """Nothing more can be done with the queue; the text is the line to print."""


@dataclass(slots=True)
class Live:
    """What is not in the message's own files. ``times`` is by channel and number."""

    running: bool
    times: dict[str, dict[int, int]] = field(default_factory=lambda: {name: {} for name in queue_view.CHANNELS})
    held: frozenset[int] = frozenset()
    endings: frozenset[int] = frozenset()
    domains: tuple[str, ...] = ()
    delivering: frozenset[tuple[str, int]] = frozenset()


class Running:
    """A conversation with a running qmail-send. Raises QueueError when it breaks off."""

    def __init__(self, sock: socket.socket, answer_s: float = ANSWER_S) -> None:
        sock.settimeout(answer_s)
        self._sock = sock
        self._lines = sock.makefile("rb")

    def _ask(self, request: Request) -> None:
        try:
            self._sock.sendall(control.format_request(request))
        except OSError as error:
            raise QueueError(f"qmail-send does not take the order: {error.strerror}") from None

    def _answer(self) -> dict[str, object]:
        try:
            line = self._lines.readline()
            answer = json.loads(line)
        except (OSError, ValueError):
            raise QueueError("qmail-send did not answer; its log says what it has done") from None
        if not isinstance(answer, dict):
            raise QueueError("qmail-send gave an answer that is none")
        return answer

    def act(self, request: Request) -> tuple[dict[int, str], str]:
        """What came of each message, and what failed as a whole."""
        self._ask(request)
        answer = self._answer()
        ids = answer.get("ids")
        states = {int(number): str(state) for number, state in ids.items()} if isinstance(ids, dict) else {}
        return states, str(answer.get("trouble", ""))

    def metrics(self) -> str:
        """The counters of qmail-send in Prometheus' text format."""
        self._ask(Request(control.METRICS))
        return str(self._answer().get("metrics", ""))

    def close(self) -> None:
        """Hang up."""
        self._lines.close()
        self._sock.close()

    def state(self, ids: tuple[int, ...]) -> Live:
        """What qmail-send knows of ``ids``, or of everything."""
        self._ask(Request(control.STATE, ids))
        live = Live(True)
        while True:
            answer = self._answer()
            if "times" not in answer:
                break
            for name, number, when in _rows(answer["times"]):
                live.times[str(name)][int(number)] = int(when)
        live.held = frozenset(_integers(answer.get("held")))
        live.endings = frozenset(_integers(answer.get("endings")))
        live.domains = tuple(str(name) for name in _list(answer.get("domains")))
        live.delivering = frozenset((str(name), int(number)) for name, number in _rows(answer.get("delivering")))
        return live


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def _rows(value: object) -> Iterator[list[str]]:
    for row in _list(value):
        if isinstance(row, list):
            yield row


def _integers(value: object) -> Iterator[int]:
    for number in _list(value):
        if isinstance(number, int):
            yield number
