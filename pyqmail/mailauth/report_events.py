"""What qmail-verifyd keeps of each message for reports to the domains that ask for them (qmail-dmarcreport(8)).

    run/dmarc/YYYYMMDD    a line of JSON for each message of a day (UTC), while there is control/dmarcreports

Lines are appended by several processes; each goes in one write. A day has 64 MiB at most, what comes after that is not
reported. Nothing here is needed to deliver mail: what cannot be written is left out.
"""

import json
import os
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass

from pyqmail.control import Control
from pyqmail.mailauth.dkim import Outcome
from pyqmail.mailauth.judgement import parse_outcome
from pyqmail.protocol.verification import REPORTS, Pairs

DAY_S = 86400
DAY_MAX = 64 << 20  # bytes
LINE_MAX = 4096
SIGNATURES_MAX = 8
REFUSE, MARK = 3, 4  # numbers of dmarcbehavior
_DAY = re.compile(r"\d{8}")


@dataclass(frozen=True, slots=True)
class Event:
    """One message: whose policy counted, its author's domain and client, what was done, and what was found."""

    policy_domain: str
    author: str
    ip: str
    disposition: str  # none, pass (where others would have been stopped), quarantine, reject (RFC 9990, XML Schema)
    reason: str  # why that is not what the policy asks for; else empty
    dkim: bool  # a signature that passed is aligned
    spf: bool
    spf_domain: str
    spf_result: str
    signatures: tuple[tuple[str, str, str], ...]  # domain, selector, result


def note(home: str, question: Mapping[bytes, bytes], answer: Pairs) -> None:
    """Keep the event of a question about a text and its answer, where reports are on. Raises ControlUnreadable."""
    control = Control(home)
    if control.exists("dmarcreports"):
        event = event_of(question, answer, frozenset(control.lines("dmarcwhite") or ()))
        if event is not None:
            append(home + REPORTS, event, time.time())


def event_of(question: Mapping[bytes, bytes], answer: Pairs, white: frozenset[bytes]) -> Event | None:
    """The event; None where nobody wants to hear of it. ``white`` is control/dmarcwhite."""
    found = dict(answer)
    outcomes = [outcome for name, value in answer if name == b"dkim" and (outcome := parse_outcome(value))]
    passed = {outcome.domain.lower() for outcome in outcomes if outcome.result == b"pass"}
    domain, result = found.get(b"reporting", b""), found.get(b"dmarc", b"")
    if not domain or not question.get(b"ip") or result not in (b"pass", b"fail"):
        return None
    asked = found.get(b"policy", b"none").decode() if result == b"fail" else "none"
    trusted = not passed.isdisjoint(domain.lower() for domain in white)
    done = _done(asked, int(question.get(b"behavior", b"0")), trusted=trusted)
    if result == b"pass" and found.get(b"published") in (b"quarantine", b"reject"):
        done = asked = "pass"
    reason = "local_policy" if done != asked else "policy_test_mode" if found.get(b"testing") == b"y" else ""
    aligned = found.get(b"aligned", b"").split()
    spf, spf_domain = question.get(b"spf", b"none"), question.get(b"domain", b"")
    return Event(
        policy_domain=_text(domain),
        author=_text(found.get(b"author", b"")),
        ip=_text(question.get(b"ip", b"")),
        disposition=done,
        reason=reason if result == b"fail" else "",
        dkim=not passed.isdisjoint(aligned),
        spf=spf == b"pass" and spf_domain in aligned and not question.get(b"local"),
        spf_domain=_text(spf_domain),
        spf_result=_text(spf),
        signatures=tuple(_signature(each) for each in outcomes[:SIGNATURES_MAX]),
    )


def _signature(outcome: Outcome) -> tuple[str, str, str]:
    return _text(outcome.domain), _text(outcome.selector), _text(outcome.result)


def _done(asked: str, behavior: int, *, trusted: bool) -> str:
    if asked == "reject" and behavior >= REFUSE and not trusted:
        return "reject"
    return "quarantine" if asked == "quarantine" and behavior >= MARK else "none"


def _text(value: bytes) -> str:
    return value[:255].decode("ascii", "replace")


def append(directory: str, event: Event, now_s: float) -> None:
    """Keep an event of this moment. Never raises."""
    line = json.dumps(asdict(event)).encode() + b"\n"
    if len(line) > LINE_MAX:
        return
    try:
        path = f"{directory}/{time.strftime('%Y%m%d', time.gmtime(now_s))}"
        fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            if os.fstat(fd).st_size + len(line) <= DAY_MAX:
                os.write(fd, line)
        finally:
            os.close(fd)
    except OSError:
        return


def days(directory: str) -> list[str]:
    """The days that there are events of, the oldest first. Raises OSError."""
    return sorted(name for name in os.listdir(directory) if _DAY.fullmatch(name))


def read(path: str) -> Iterator[Event]:
    """The events in a file; lines that are none are passed over. Raises OSError."""
    with open(path, "rb") as file:
        while line := file.readline(LINE_MAX):
            event = parse_line(line)
            if event is not None:
                yield event


def parse_line(line: bytes) -> Event | None:
    """The event in a line; None for anything else."""
    try:
        found = json.loads(line)
        signatures = tuple((str(domain), str(name), str(result)) for domain, name, result in found["signatures"])
        return Event(**{**found, "signatures": signatures})
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
