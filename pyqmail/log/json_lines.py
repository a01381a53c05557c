"""The lines of the logs as JSON objects (RFC 8259), one to a line: the twin of the classic line (qmail-log(5), JSON).

Every object has ``time`` (RFC 3339, UTC, microseconds), ``program`` and ``event``; the other members are the fields of
the event's class in log/events.  Text is UTF-8; bytes that are none become U+FFFD.
"""

import calendar
import json
import re
import time
from collections.abc import Callable
from dataclasses import fields
from functools import lru_cache
from json.encoder import encode_basestring

from pyqmail.log.events import (
    Alert,
    BounceDiscarded,
    BounceQueued,
    BounceSuppressed,
    Decision,
    DeliveryEnded,
    DeliveryStarted,
    Event,
    Exiting,
    Known,
    MessageEnded,
    MessageInfo,
    NewMessage,
    NoticeQueued,
    OrderGiven,
    Running,
    Warn,
)

NAMES: dict[type[Known], str] = {
    NewMessage: "new",
    MessageInfo: "info",
    DeliveryStarted: "start",
    DeliveryEnded: "delivery",
    BounceQueued: "bounce",
    BounceDiscarded: "discard",
    BounceSuppressed: "suppressed",
    NoticeQueued: "notice",
    MessageEnded: "end",
    Running: "status",
    Exiting: "exiting",
    OrderGiven: "control",
    Warn: "warning",
    Alert: "alert",
    Decision: "decision",
}
RENAMED = {"number": "msg", "size": "bytes"}
COUNTS = (b"bytes", b"qp")  # words of a decision that are numbers
REMEMBERED_MAX = 65536  # messages whose submission is known; of more the oldest are forgotten

_CLASSES = {name: kind for kind, name in NAMES.items()}
_MEMBERS = {kind: tuple((field.name, RENAMED.get(field.name, field.name)) for field in fields(kind)) for kind in NAMES}
_MORE = re.compile(r"(?:^|,)\+(\d{1,9})\Z")
_TIME = re.compile(r"(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)\.(\d{1,9})Z\Z")


class JsonLines:
    """Writes the events of one process; ``session`` is its connection, if it serves one.

    A delivery's end has its message, recipient and submission too, so that a line says enough by itself: these are
    remembered from its start.
    """

    def __init__(self, program: str, session: str = "", clock: Callable[[], float] = time.time) -> None:
        self._head = _format_members({"program": program, **({"session": session} if session else {})})
        self._clock = clock
        self._second = (0, "")
        self._submissions: dict[int, int] = {}  # by message
        self._running: dict[int, dict[str, object]] = {}  # by delivery

    def format(self, event: Event) -> bytes:
        """The object of ``event``, without the newline."""
        if not isinstance(event, Known):
            return self.format_line(event.format())
        if isinstance(event, Decision):
            members = _decision_members(event)
        else:
            members = {name: _shown(getattr(event, field)) for field, name in _MEMBERS[type(event)]}
        self._remember(event, members)
        return self._line(NAMES[type(event)], members)

    def format_line(self, text: bytes) -> bytes:
        """The object of a line that is no event: ``text`` as it is."""
        return self._line("line", {"text": _shown(text)})

    def _line(self, kind: str, members: dict[str, object]) -> bytes:
        return f'{{"time":"{self._moment()}"{self._head},"event":"{kind}"{_format_members(members)}}}'.encode()

    def _moment(self) -> str:
        seconds, fraction = divmod(int(self._clock() * 1_000_000), 1_000_000)
        if self._second[0] != seconds:
            self._second = seconds, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
        return f"{self._second[1]}.{fraction:06}Z"

    def _remember(self, event: Event, members: dict[str, object]) -> None:
        match event:
            case MessageInfo(number, _, _, submission):
                if len(self._submissions) >= REMEMBERED_MAX:
                    del self._submissions[next(iter(self._submissions))]
                self._submissions[number] = submission
            case DeliveryStarted(delivery, number):
                self._add_submission(number, members)
                known = ("msg", "channel", "recipient", "qp")
                self._running[delivery] = {name: members[name] for name in known if name in members}
            case DeliveryEnded(delivery):
                members.update(self._running.pop(delivery, {}))
            case BounceQueued():
                pass  # its qp is the bounce's
            case MessageEnded(number):
                self._add_submission(number, members)
                self._submissions.pop(number, None)

    def _add_submission(self, number: int, members: dict[str, object]) -> None:
        submission = self._submissions.get(number)
        if submission is not None:
            members["qp"] = submission


def _format_members(members: dict[str, object]) -> str:
    """Each with a comma before it. As json.dumps would, in half of its time: that makes an encoder for each call."""
    parts = []
    for name, value in members.items():
        if type(value) is int:
            parts.append(f"{_format_name(name)}{value}")
        elif type(value) is str:
            parts.append(_format_name(name) + encode_basestring(value))
        else:
            parts.append(_format_name(name) + json.dumps(value, ensure_ascii=False, separators=(",", ":")))
    return "".join(parts)


@lru_cache(maxsize=256)
def _format_name(name: str) -> str:
    return f",{encode_basestring(name)}:"


def _shown(value: object) -> object:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _decision_members(event: Decision) -> dict[str, object]:
    to = event.to.decode("ascii", "replace")
    more = _MORE.search(to)
    if more:
        to = to[: more.start()]
    members: dict[str, object] = {
        "result": event.result,
        "ip": _shown(event.ip),
        "helo": _shown(event.helo),
        "sender": _shown(event.sender),
        "to": to[1:-1].split(">,<") if to else [],
        **({"more": int(more[1])} if more else {}),
    }
    for key, value in event.words:
        name = key.decode("ascii", "replace")
        members.setdefault(name, int(value) if key in COUNTS and value.isdigit() else _shown(value))
    return members


def parse_json(text: str) -> tuple[float | None, Known | None]:
    """The time and the event of an object that JsonLines wrote; None for what is unknown."""
    try:
        members = json.loads(text)
    except (ValueError, RecursionError):
        return None, None
    return parse_object(members) if isinstance(members, dict) else (None, None)


def parse_object(members: dict[str, object]) -> tuple[float | None, Known | None]:
    """The same of an object that is read already."""
    when = _parse_time(members.get("time"))
    kind = _CLASSES.get(str(members.get("event")))
    if kind is None:
        return when, None
    try:
        return when, _parse_decision(members) if kind is Decision else _parse_fields(kind, members)
    except (KeyError, TypeError, ValueError):
        return when, None


def _parse_time(text: object) -> float | None:
    match = _TIME.match(text) if isinstance(text, str) else None
    if match is None:
        return None
    return calendar.timegm((*(int(match[index]) for index in range(1, 7)), 0, 0, 0)) + float(f"0.{match[7]}")


def _parse_fields(kind: type[Known], members: dict[str, object]) -> Known:
    values: list[object] = []
    for field in fields(kind):
        value = members[RENAMED.get(field.name, field.name)]
        wanted = field.type if isinstance(field.type, type) else str
        values.append(value.encode("utf-8", "replace") if wanted is bytes and isinstance(value, str) else value)
        if not isinstance(values[-1], wanted):
            raise TypeError(field.name)
    return kind(*values)  # type: ignore[arg-type]  # looked at, each of them


def _parse_decision(members: dict[str, object]) -> Decision:
    def text(value: object) -> bytes:
        if not isinstance(value, str):
            raise TypeError("not a text")
        return value.encode("utf-8", "replace")

    to = members["to"]
    if not isinstance(to, list):
        raise TypeError("to")
    shown = [b"<" + text(recipient) + b">" for recipient in to]
    if "more" in members:
        shown.append(b"+%d" % int(str(members["more"])))
    known = ("time", "program", "session", "event", "result", "ip", "helo", "sender", "to", "more")
    words = tuple((key.encode(), text(str(value))) for key, value in members.items() if key not in known)
    program, ip, helo, sender = (text(members[name]) for name in ("program", "ip", "helo", "sender"))
    return Decision(program, str(members["result"]), ip, helo, sender, b",".join(shown), words)
