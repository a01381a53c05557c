"""The time stamps that loggers put before a line (qmail-log(5)).

@400000006b043c8536046074 ...          multilog: TAI64N
2026-11-23_13:15:02.12345 ...          svlogd -tt, in UTC
2026-11-23 13:15:02.123456789 ...      tai64nlocal, in local time
1795440902.123456 ...                  splogger, journalctl -o short-unix
Nov 23 13:15:02 host qmail: ...        syslog, journalctl -o short; local time, the year is this or the last
2026-11-23T13:15:02.123456+00:00 host qmail: ...   syslog with RFC 5424 times, journalctl -o short-iso
{"__REALTIME_TIMESTAMP":"1795440902123456","MESSAGE":"..."}   journalctl -o json

Where splogger's time stands behind one of syslog or the journal, it counts.
"""

import calendar
import json
import re
import time

from pyqmail.log.events import Known
from pyqmail.log.json_lines import parse_json
from pyqmail.log.parse import parse_event

TAI_OFFSET_S = 10  # what multilog takes TAI to be ahead of UTC, leap seconds being the system clock's own affair
TAI_LABEL = 1 << 62
DAY_S = 86400

_TAI = re.compile(r"@([0-9a-f]{16})([0-9a-f]{8})? ?")
_CLOCK = r"(\d\d):(\d\d):(\d\d)(?:[.,](\d{1,9}))?"
_DATE = r"(\d{4})-(\d\d)-(\d\d)"
_TAG = r"(?:\S+ [\w./@()-]+(?:\[\d+\])?: )"  # host program[pid]:
_SVLOGD = re.compile(rf"{_DATE}[_T]{_CLOCK} ?(?!\S+ [\w./@-]+\[\d+\]: )")
_ZONED = re.compile(rf"(?:<\d+>)?{_DATE}T{_CLOCK}(Z|[+-]\d\d:?\d\d) {_TAG}")
_LOCAL = re.compile(rf"{_DATE} {_CLOCK} ?")
_SYSLOG = re.compile(rf"(?:<\d+>)?([A-Z][a-z]{{2}}) ([ \d]\d) (?:(\d{{4}}) )?{_CLOCK} {_TAG}")
_OURS = r"(?:delivery \d+|[\w-]+): "  # what looks like a host and a program, and is the line itself
_UNIX = re.compile(rf"(\d{{9,11}}\.\d+) (?:(?!{_OURS})[\w.:-]+ [\w./@-]+(?:\[\d+\])?: )?")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def parse_line(line: str) -> tuple[float | None, Known | None]:
    """The time (seconds of the epoch) and the event of a log line; None for a part that is not known."""
    when, text = split_stamp(line.rstrip("\r\n"))
    if text.startswith("{"):
        own, event = parse_json(text)
        return (when if own is None else own), event
    return when, parse_event(text.encode("utf-8", "surrogateescape"))


def split_stamp(line: str) -> tuple[float | None, str]:
    """The time before a line, and the line without it."""
    if match := _TAI.match(line):
        seconds = int(match[1], 16) - TAI_LABEL - TAI_OFFSET_S
        return seconds + int(match[2] or "0", 16) / 1e9, line[match.end() :]
    outer, rest = _outer_stamp(line)
    if match := _UNIX.match(rest):
        inner = _UNIX.match(rest, match.end())  # the journal's time, then splogger's
        when = inner or match
        return float(when[1]), rest[when.end() :]
    return outer, rest


def _outer_stamp(line: str) -> tuple[float | None, str]:
    if line.startswith('{"'):
        return _journal_object(line)
    if match := _ZONED.match(line):
        return _utc(match.groups()[:6]) + _fraction(match[7]) - _zone(match[8]), line[match.end() :]
    if match := _SYSLOG.match(line):
        return _syslog_time(match), line[match.end() :]
    if match := _SVLOGD.match(line):
        return _utc(match.groups()[:6]) + _fraction(match[7]), line[match.end() :]
    if match := _LOCAL.match(line):
        return _local(tuple(int(match[index]) for index in range(1, 7))) + _fraction(match[7]), line[match.end() :]
    return None, line


def _journal_object(line: str) -> tuple[float | None, str]:
    """What journald says of a line; a MESSAGE with bytes that are no text is a list of them (journalctl(1))."""
    try:
        members = json.loads(line)
        when, message = int(members["__REALTIME_TIMESTAMP"]) / 1e6, members["MESSAGE"]
        return when, message if isinstance(message, str) else bytes(message).decode("utf-8", "surrogateescape")
    except (ValueError, KeyError, TypeError, RecursionError, OverflowError):
        return None, line


def _utc(groups: tuple[str, ...]) -> float:
    return calendar.timegm((*(int(group) for group in groups), 0, 0, 0))


def _local(moment: tuple[int, ...]) -> float:
    try:
        return time.mktime((*moment, 0, 0, -1))  # type: ignore[arg-type]  # nine of them
    except (OverflowError, ValueError):
        return 0.0


def _fraction(digits: str | None) -> float:
    return float(f"0.{digits or 0}")


def _zone(text: str) -> int:
    if text == "Z":
        return 0
    digits = text[1:].replace(":", "")
    return int(text[0] + "1") * (int(digits[:2]) * 3600 + int(digits[2:]) * 60)


def _syslog_time(match: "re.Match[str]") -> float | None:
    if match[1] not in _MONTHS:
        return None
    now = time.time()
    year = int(match[3] or time.localtime(now)[0])
    moment = (_MONTHS.index(match[1]) + 1, *(int(match[index]) for index in (2, 4, 5, 6)))
    when = _local((year, *moment))
    if match[3] is None and when > now + DAY_S:
        when = _local((year - 1, *moment))
    return when + _fraction(match[7])
