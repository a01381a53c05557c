"""Log lines of qmail-send and qmail-smtpd as values, and the time stamps that loggers put before them (qmail-log(5)).

@400000006b043c8536046074 ...          multilog: TAI64N
2026-11-23_13:15:02.12345 ...          svlogd -tt, in UTC
1795440902.123456 ...                  splogger, journalctl -o short-unix
Nov 23 13:15:02 host qmail: 1795440902.123456 ...   syslog: what splogger wrote counts
2026-11-23T13:15:02.123456+00:00 host qmail: 1795440902.123456 ...   syslog with RFC 5424 times
"""

import calendar
import re
from dataclasses import dataclass

TAI_OFFSET_S = 10  # what multilog takes TAI to be ahead of UTC, leap seconds being the system clock's own affair
TAI_LABEL = 1 << 62

_TAI = re.compile(r"@([0-9a-f]{16})([0-9a-f]{8})? ?")
_SVLOGD = re.compile(r"(\d{4})-(\d\d)-(\d\d)[_T](\d\d):(\d\d):(\d\d)(?:\.(\d+))? ?")
_OURS = r"(?:delivery \d+|[\w-]+): "  # what looks like a host and a program, and is the line itself
_UNIX = re.compile(rf"(\d{{9,11}}\.\d+) (?:(?!{_OURS})[\w.:-]+ [\w./@-]+(?:\[\d+\])?: )?")
_SYSLOG = re.compile(
    r"(?:<\d+>)?(?:[A-Z][a-z]{2} [ \d]\d (?:\d{4} )?\d\d:\d\d:\d\d|\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\S*) "
    r"\S+ [^:]+: (?=\d{9,11}\.\d+ )"
)

_NEW = re.compile(r"new msg (\d+)\Z")
_INFO = re.compile(r"info msg (\d+): bytes (\d+) from <(.*)> qp (\d+) uid (\d+)")
_START = re.compile(r"starting delivery (\d+): msg (\d+) to (local|remote) (.*)\Z")
_END = re.compile(r"delivery (\d+): (success|failure|deferral): ?(.*)\Z")
_BOUNCE = re.compile(r"(?:(double|triple) )?bounce msg (\d+)(?: qp (\d+))?")
_DONE = re.compile(r"end msg (\d+)\Z")
_SMTP = re.compile(r"qmail-(?:smtpd|qmtpd|qmqpd): (accepted|refused) ip=(\S*) helo=(\S*) from=<(.*?)> to=(.*)\Z")
_TROUBLE = re.compile(r"(?:alert|warning): ")


@dataclass(frozen=True, slots=True)
class New:
    """qmail-send has found message ``number``."""

    number: int


@dataclass(frozen=True, slots=True)
class Info:
    """What message ``number`` is."""

    number: int
    size: int
    sender: str
    qp: int
    uid: int


@dataclass(frozen=True, slots=True)
class Start:
    """Delivery ``delivery`` of message ``number`` begins."""

    delivery: int
    number: int
    channel: str
    recipient: str


@dataclass(frozen=True, slots=True)
class End:
    """Delivery ``delivery`` has ended."""

    delivery: int
    result: str
    text: str


@dataclass(frozen=True, slots=True)
class Bounce:
    """Message ``number`` has bounced."""

    number: int


@dataclass(frozen=True, slots=True)
class Done:
    """Message ``number`` has left the queue."""

    number: int


@dataclass(frozen=True, slots=True)
class Session:
    """qmail-smtpd has accepted or refused mail."""

    result: str
    ip: str
    helo: str
    sender: str
    rest: str


@dataclass(frozen=True, slots=True)
class Trouble:
    """An alert or a warning."""

    text: str


Event = New | Info | Start | End | Bounce | Done | Session | Trouble


def parse_line(line: str) -> tuple[float | None, Event | None]:
    """The time (seconds of the epoch) and the event of a log line; None for a part that is not known."""
    when, text = split_stamp(line.rstrip("\r\n"))
    return when, parse_event(text)


def split_stamp(line: str) -> tuple[float | None, str]:
    """The time before a line, and the line without it."""
    if match := _TAI.match(line):
        seconds = int(match[1], 16) - TAI_LABEL - TAI_OFFSET_S
        return seconds + int(match[2] or "0", 16) / 1e9, line[match.end() :]
    if match := _SYSLOG.match(line):
        line = line[match.end() :]
    elif match := _SVLOGD.match(line):
        fields = [int(match[index]) for index in range(1, 7)]
        whole = calendar.timegm((*fields, 0, 0, 0))
        return whole + float(f"0.{match[7] or 0}"), line[match.end() :]
    if match := _UNIX.match(line):
        inner = _UNIX.match(line, match.end())  # the journal's time, then splogger's
        when = inner or match
        return float(when[1]), line[when.end() :]
    return None, line


def parse_event(text: str) -> Event | None:
    """What ``text``, a line without its time, says; None for status lines and everything else."""
    if match := _NEW.match(text):
        return New(int(match[1]))
    if match := _INFO.match(text):
        return Info(int(match[1]), int(match[2]), match[3], int(match[4]), int(match[5]))
    if match := _START.match(text):
        return Start(int(match[1]), int(match[2]), match[3], match[4])
    if match := _END.match(text):
        return End(int(match[1]), match[2], match[3].strip("/"))
    if match := _BOUNCE.match(text):
        return Bounce(int(match[2]))
    if match := _DONE.match(text):
        return Done(int(match[1]))
    if match := _SMTP.match(text):
        return Session(match[1], match[2], match[3], match[4], match[5])
    if _TROUBLE.match(text):
        return Trouble(text)
    return None
