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
from pyqmail.system.typed import Any

RENAMED = {"number": "msg", "size": "bytes"}
COUNTS = (b"bytes", b"qp")  # words of a decision that are numbers
REMEMBERED_MAX = 65536  # messages whose submission is known; of more the oldest are forgotten

_MORE = re.compile(r"(?:^|,)\+(\d{1,9})\Z")
_TIME = re.compile(r"(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)\.(\d{1,9})Z\Z")


class JsonLines:
    """Writes the events of one process; ``session`` is its connection, if it serves one.

    A delivery's end has its message, recipient and submission too, so that a line says enough by itself: these are
    remembered from its start.
    """

    def __init__(self, program: str, session: str = "", clock: Callable[[], float] = time.time) -> None:
        self._who = f'"program":{encode_basestring(program)}'
        if session:
            self._who += f',"session":{encode_basestring(session)}'
        self._clock = clock
        self._submissions: dict[int, int] = {}  # by message
        self._running: dict[int, str] = {}  # by delivery: the members that its end has too

    def format(self, event: Event) -> bytes:
        """The object of ``event``, without the newline."""
        kind = type(event)
        known = _EVENTS.get(kind)
        if known is None:
            return self.format_line(event.format())
        name, form = known
        members = form(event)
        if kind in _REMEMBERED:
            members += self._remembered(event)
        return self._line(name, members)

    def format_line(self, text: bytes) -> bytes:
        """The object of a line that is no event: ``text`` as it is."""
        return self._line("line", f',"text":{_text(text)}')

    def _line(self, name: str, members: str) -> bytes:
        return f'{{"time":"{self._moment()}",{self._who},"event":"{name}"{members}}}'.encode()

    def _moment(self) -> str:
        seconds, fraction = divmod(int(self._clock() * 1_000_000), 1_000_000)
        return f"{_second(seconds)}.{fraction:06}Z"

    def _remembered(self, event: Event) -> str:
        """What its object has and ``event`` does not know."""
        match event:
            case MessageInfo(number=number, qp=submission):
                if len(self._submissions) >= REMEMBERED_MAX:
                    del self._submissions[next(iter(self._submissions))]
                self._submissions[number] = submission
            case DeliveryStarted(delivery=delivery, number=number, channel=channel, recipient=recipient):
                message = f',"msg":{number},"channel":"{channel}","recipient":{_text(recipient)}'
                self._running[delivery] = message + _submission(self._submissions.get(number))
                return self._running[delivery]
            case DeliveryEnded(delivery=delivery):
                return self._running.pop(delivery, "")
            case MessageEnded(number=number):
                return _submission(self._submissions.pop(number, None))
        return ""


_REMEMBERED = frozenset({MessageInfo, DeliveryStarted, DeliveryEnded, MessageEnded})


@lru_cache(maxsize=1)
def _second(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


def _text(value: bytes) -> str:
    return encode_basestring(value.decode("utf-8", "replace"))


def _submission(number: int | None) -> str:
    return "" if number is None else f',"qp":{number}'


def _decision(event: Decision) -> str:
    to, more = event.to.decode("ascii", "replace"), ""
    if to and not to.endswith(">") and (match := _MORE.search(to)):
        to, more = to[: match.start()], f',"more":{int(match[1])}'
    recipients = ",".join(map(encode_basestring, to[1:-1].split(">,<"))) if to else ""
    words = {b"more": more} if more else {}
    for key, value in event.words:
        if key not in _DECIDED and key not in words:
            shown = f"{int(value)}" if key in COUNTS and value.isdigit() else _text(value)
            words[key] = f",{encode_basestring(key.decode('ascii', 'replace'))}:{shown}"
    return (
        f',"result":{encode_basestring(event.result)},"ip":{_text(event.ip)},"helo":{_text(event.helo)}'
        f',"sender":{_text(event.sender)},"to":[{recipients}]{"".join(words.values())}'
    )


_DECIDED = frozenset({b"result", b"ip", b"helo", b"sender", b"to"})

# What each event is called, and its members, a comma before each. One text for all of them: an encoder, or a loop over
# the fields, takes three times as long, and a message has seven lines.
_EVENTS: dict[type, tuple[str, Callable[[Any], str]]] = {
    NewMessage: ("new", lambda e: f',"msg":{e.number}'),
    MessageInfo: (
        "info",
        lambda e: f',"msg":{e.number},"bytes":{e.size},"sender":{_text(e.sender)},"qp":{e.qp},"uid":{e.uid}',
    ),
    DeliveryStarted: ("start", lambda e: f',"delivery":{e.delivery}'),  # and what is remembered for its end
    DeliveryEnded: ("delivery", lambda e: f',"delivery":{e.delivery},"result":"{e.result}","text":{_text(e.text)}'),
    BounceQueued: ("bounce", lambda e: f',"msg":{e.number},"qp":{e.qp}'),
    BounceDiscarded: ("discard", lambda e: f',"msg":{e.number},"kind":"{e.kind}"'),
    BounceSuppressed: ("suppressed", lambda e: f',"msg":{e.number}'),
    NoticeQueued: ("notice", lambda e: f',"msg":{e.number},"qp":{e.qp},"kind":"{e.kind}"'),
    MessageEnded: ("end", lambda e: f',"msg":{e.number}'),
    Running: (
        "status",
        lambda e: (
            f',"local":{e.local},"local_limit":{e.local_limit},"remote":{e.remote},"remote_limit":{e.remote_limit}'
            f',"exiting":{"true" if e.exiting else "false"}'
        ),
    ),
    Exiting: ("exiting", lambda e: ""),
    OrderGiven: ("control", lambda e: f',"text":{_text(e.text)}'),
    Warn: ("warning", lambda e: f',"text":{_text(e.text)}'),
    Alert: ("alert", lambda e: f',"text":{_text(e.text)}'),
    Decision: ("decision", _decision),
}
_CLASSES: dict[str, type[Known]] = {name: kind for kind, (name, _) in _EVENTS.items()}


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
