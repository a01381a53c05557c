"""The time stamps that loggers put before a line (qmail-log(5)).

@400000006b043c8536046074 ...          multilog: TAI64N
2026-11-23_13:15:02.12345 ...          svlogd -tt, in UTC
1795440902.123456 ...                  splogger, journalctl -o short-unix
Nov 23 13:15:02 host qmail: 1795440902.123456 ...   syslog: what splogger wrote counts
2026-11-23T13:15:02.123456+00:00 host qmail: 1795440902.123456 ...   syslog with RFC 5424 times
"""

import calendar
import re

from pyqmail.log.events import Known
from pyqmail.log.parse import parse_event

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


def parse_line(line: str) -> tuple[float | None, Known | None]:
    """The time (seconds of the epoch) and the event of a log line; None for a part that is not known."""
    when, text = split_stamp(line.rstrip("\r\n"))
    return when, parse_event(text.encode("utf-8", "surrogateescape"))


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
