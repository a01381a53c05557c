"""Lines of the logs read back into the events that they were written from (qmail-log(5))."""

import re

from pyqmail.log.events import (
    Alert,
    BounceDiscarded,
    BounceQueued,
    BounceSuppressed,
    Decision,
    DeliveryEnded,
    DeliveryStarted,
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

_NEW = re.compile(rb"new msg (\d{1,20})\Z")
_INFO = re.compile(rb"info msg (\d{1,20}): bytes (\d{1,20}) from <(.*)> qp (\d{1,20}) uid (\d{1,20})\Z")
_START = re.compile(rb"starting delivery (\d{1,20}): msg (\d{1,20}) to (local|remote) (.*)\Z")
_END = re.compile(rb"delivery (\d{1,20}): (?:(success|failure|deferral): ?(.*)|report mangled, will defer)\Z")
_BOUNCE = re.compile(rb"(?:double |triple )?bounce msg (\d{1,20}) qp (\d{1,20})")
_DISCARDED = re.compile(rb"(double|triple) bounce: discarding bounce/(\d{1,20})\Z")
_SUPPRESSED = re.compile(rb"bounce msg (\d{1,20}) suppressed \(NOTIFY=NEVER\)\Z")
_NOTICE = re.compile(rb"notice msg (\d{1,20}) qp (\d{1,20}): (success|delay)\Z")
_DONE = re.compile(rb"end msg (\d{1,20})\Z")
_RUNNING = re.compile(rb"status: local (\d{1,20})/(\d{1,20}) remote (\d{1,20})/(\d{1,20})( exitasap)?\Z")
_DECISION = re.compile(
    rb"(qmail-(?:smtpd|qmtpd|qmqpd|xferd)): (accepted|refused) ip=(\S*) helo=(\S*) from=<(\S*)> to=(\S*)((?: \S*)*)\Z"
)


def parse_event(text: bytes) -> Known | None:
    """What ``text``, a line without its time, says; None for a line of another kind."""
    begin = text[:4]
    if begin in _BY_BEGIN:
        return _BY_BEGIN[begin](text)
    match = _DECISION.match(text)
    return Decision.parse(match) if match is not None else None


def _parse_new(text: bytes) -> Known | None:
    match = _NEW.match(text)
    return NewMessage(int(match[1])) if match else None


def _parse_info(text: bytes) -> Known | None:
    match = _INFO.match(text)
    return MessageInfo(int(match[1]), int(match[2]), match[3], int(match[4]), int(match[5])) if match else None


def _parse_start(text: bytes) -> Known | None:
    if match := _START.match(text):
        return DeliveryStarted(int(match[1]), int(match[2]), match[3].decode(), match[4])
    return _parse_status(text)


def _parse_status(text: bytes) -> Known | None:
    if match := _RUNNING.match(text):
        return Running(int(match[1]), int(match[2]), int(match[3]), int(match[4]), match[5] is not None)
    return Exiting() if text == Exiting().format() else None


def _parse_end(text: bytes) -> Known | None:
    match = _END.match(text)
    if match is None:
        return None
    result = match[2]
    return DeliveryEnded(int(match[1]), result.decode() if result else "mangled", match[3] or b"")


def _parse_bounce(text: bytes) -> Known | None:
    if match := _BOUNCE.match(text):
        return BounceQueued(int(match[1]), int(match[2]))
    if match := _SUPPRESSED.match(text):
        return BounceSuppressed(int(match[1]))
    match = _DISCARDED.match(text)
    return BounceDiscarded(int(match[2]), match[1].decode()) if match else None


def _parse_notice(text: bytes) -> Known | None:
    match = _NOTICE.match(text)
    return NoticeQueued(int(match[1]), int(match[2]), match[3].decode()) if match else None


def _parse_done(text: bytes) -> Known | None:
    match = _DONE.match(text)
    return MessageEnded(int(match[1])) if match else None


def _parse_text(text: bytes) -> Known | None:
    kind, colon, rest = text.partition(b": ")
    if not colon:
        return None
    match kind:
        case b"alert":
            return Alert(rest)
        case b"warning":
            return Warn(rest)
        case b"control":
            return OrderGiven(rest)
    return None


_BY_BEGIN = {
    b"new ": _parse_new,
    b"info": _parse_info,
    b"star": _parse_start,
    b"stat": _parse_status,
    b"deli": _parse_end,
    b"boun": _parse_bounce,
    b"doub": _parse_bounce,
    b"trip": _parse_bounce,
    b"noti": _parse_notice,
    b"end ": _parse_done,
    b"aler": _parse_text,
    b"warn": _parse_text,
    b"cont": _parse_text,
}
