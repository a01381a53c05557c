"""The decision lines on descriptor 2: one for each message taken and each refusal (qmail-smtpd(8), DECISIONS).

    PROGRAM: accepted ip=IP helo=NAME from=<SENDER> to=<RCPT>,<RCPT> bytes=N qp=N
    PROGRAM: refused ip=IP helo=NAME from=<SENDER> to=<RCPT> reason=REPLY

Their form is fixed; what checks have found out follows as further words KEY=VALUE. The client hears first: a log that
is slow must not make it send the message again.

control/logformat makes JSON objects of all lines, or adds them (qmail-log(5)); $LOGDECISIONS or control/logdecisions 0
leaves the lines of accepted mail and refusals out.
"""

import os
import stat
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache

from pyqmail.control import Control, ControlUnreadable, parse_integer
from pyqmail.formats.logline import safe
from pyqmail.incoming.client import Client, by_sendmail
from pyqmail.incoming.letter import Letter
from pyqmail.log.events import Decision
from pyqmail.protocol.reply import Reply
from pyqmail.system.logpipe import LINE_MAX, write_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyqmail.incoming.check import Rules
    from pyqmail.log.json_lines import JsonLines

FIXED_BYTES = 69  # of a decision line, besides its fields and words; room for the number of recipients is among them
LOG_WAIT_S = 10.0  # for a log that is full; the client has its answer by then


def nothing() -> None:
    """What most have to do before they wait for a log."""


class DecisionLog:
    """The log of one session, silent where descriptor 2 is none; without ``rules`` it is classic."""

    def __init__(
        self,
        program: bytes,
        environ: Mapping[bytes, bytes],
        rules: "Rules | None" = None,
        *,
        sockets: bool = False,
    ) -> None:
        self._program = program
        self._mode = log_mode(environ, sockets=sockets)
        form, self._decides = form_of(rules) if self._mode and rules is not None else (None, True)
        self._classic = True
        self._json: JsonLines | None = None
        if form is not None:
            from pyqmail.log.sinks import JSON, json_lines

            self._classic = form != JSON
            self._json = json_lines(form, program.decode("ascii"), f"{os.getpid()}.{time.monotonic_ns():x}")
        self.wait_s = 0.0  # nothing is waited for before the client has done anything
        self.before_waiting: Callable[[], None] = nothing  # send the client what it has to hear

    def accepted(self, client: Client, letter: Letter, number: int) -> None:
        """The queue has it under ``number``."""
        self._decide(
            "accepted", client, letter, letter.recipients, (b"bytes", b"%d" % letter.size), (b"qp", b"%d" % number)
        )

    def refused(self, client: Client, letter: Letter, recipients: Sequence[bytes], reply: Reply) -> None:
        """``recipients`` of it, or the whole, have been refused with ``reply``."""
        self._decide("refused", client, letter, recipients, (b"reason", reply.line.rstrip(b"\r\n")[:200]))

    def _decide(
        self, result: str, client: Client, letter: Letter, recipients: Sequence[bytes], *words: tuple[bytes, bytes]
    ) -> None:
        if not self._mode or not self._decides:
            return
        event = decision(self._program, result, client, letter, recipients, words)
        if self._classic:
            self._write(event.format())
        if self._json is not None:
            self._write(decision_object(self._json, event, len(recipients)))

    def say(self, line: bytes) -> None:
        """Write one line. The client is not kept waiting for a log that is full, and the session only once."""
        if self._mode and self._classic:
            self._write(self._program + b": " + line)
        if self._mode and self._json is not None:
            self._write(self._json.format_line(line))

    def _write(self, line: bytes) -> None:
        line = line[: LINE_MAX - 1] + b"\n"
        regular = stat.S_ISREG(self._mode)
        if write_line(2, line, 0.0, regular=regular) or self.wait_s <= 0:
            return
        self.before_waiting()
        if not write_line(2, line, self.wait_s, regular=regular):
            self.wait_s = 0.0


def form_of(rules: "Rules") -> tuple[bytes | None, bool]:
    """The form of the log, if one is named, and whether it has decisions; None and yes where that cannot be read."""
    given = rules.environ.get(b"LOGDECISIONS")
    try:
        form = rules.site.log_form
        decides = rules.site.logs_decisions if given is None else parse_integer(given) != 0
    except ControlUnreadable:
        return None, True
    return form, decides


def decision(
    program: bytes,
    result: str,
    client: Client,
    letter: Letter,
    recipients: Sequence[bytes],
    words: tuple[tuple[bytes, bytes], ...],
) -> Decision:
    """What the log says; the evidence follows ``words``, and recipients without room are a number at the end."""
    ip, helo = client.ip[:64], (client.helo or b"")[:256]
    words += found_out(client, letter)
    room = LINE_MAX - FIXED_BYTES - len(ip) - len(helo) - len(letter.sender)
    for key, value in words:
        room -= len(key) + len(value) + 2
    return Decision(program, result, ip, helo, letter.sender, format_recipients(recipients, room), words)


def decision_object(lines: "JsonLines", event: Decision, recipients: int) -> bytes:
    """The JSON of ``event``, whole within LINE_MAX: what does not fit is counted or cut."""
    line = lines.format(event)
    if len(line) >= LINE_MAX:
        line = lines.format(replace(event, to=b"+%d" % recipients))
    if len(line) >= LINE_MAX:
        cut = replace(event, to=b"+%d" % recipients, helo=safe(event.helo), sender=safe(event.sender[:512]))
        line = lines.format(cut)
    return line


def found_out(client: Client, letter: Letter) -> tuple[tuple[bytes, bytes], ...]:
    """The evidence: what the connection is, then what the checks have found out."""
    found = tuple(letter.evidence)
    if client.secured is not None:
        found = ((b"encrypted", client.secured.version.encode("ascii")), *found)
    if client.user is not None:
        found = ((b"authuser", client.user), (b"authtype", client.method), *found)
    return found


def format_recipients(recipients: Sequence[bytes], room: int) -> bytes:
    """``<a>,<b>,+3``: as many as ``room`` bytes take, and the number of the others."""
    shown: list[bytes] = []
    for recipient in recipients:
        room -= len(recipient) + 3
        if room < 0:
            shown.append(b"+%d" % (len(recipients) - len(shown)))
            break
        shown.append(b"<" + safe(recipient) + b">")
    return b",".join(shown)


@lru_cache(maxsize=1)
def _log_of_process() -> os.stat_result:
    """What descriptor 2 is, for all sessions of a process that serves many."""
    return os.fstat(2)


def log_mode(environ: Mapping[bytes, bytes], *, sockets: bool) -> int:
    """The mode of descriptor 2 if it is a log, else 0: open, no socket, no end of the session, not sendmail -bs.

    The one socket that is a log is that of systemd's journal, which $JOURNAL_STREAM names (systemd.exec(5)).
    ``sockets`` says that both ends of the session are sockets, so that they need not be compared.
    """
    if by_sendmail(environ):
        return 0
    try:
        log = os.fstat(2) if Control.cache is None else _log_of_process()
        if stat.S_ISSOCK(log.st_mode):
            journal = environ.get(b"JOURNAL_STREAM") == b"%d:%d" % (log.st_dev, log.st_ino)
            return log.st_mode if journal else 0
        if sockets:
            return log.st_mode
        ends = os.fstat(0), os.fstat(1)
    except OSError:
        return 0
    same = any(log.st_ino == end.st_ino and log.st_dev == end.st_dev for end in ends)
    return 0 if same else log.st_mode
