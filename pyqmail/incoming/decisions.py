"""The decision lines on descriptor 2: one for each message taken and each refusal (qmail-smtpd(8), DECISIONS).

    PROGRAM: accepted ip=IP helo=NAME from=<SENDER> to=<RCPT>,<RCPT> bytes=N qp=N
    PROGRAM: refused ip=IP helo=NAME from=<SENDER> to=<RCPT> reason=REPLY

Their form is fixed; what checks have found out follows as further words KEY=VALUE. The client hears first: a log that
is slow must not make it send the message again.
"""

import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from pyqmail.formats.logline import safe
from pyqmail.incoming.client import Client, by_sendmail
from pyqmail.incoming.letter import Letter
from pyqmail.log.events import Decision
from pyqmail.protocol.reply import Reply
from pyqmail.system.logpipe import LINE_MAX, write_line

LOG_WAIT_S = 10.0  # for a log that is full; the client has its answer by then


def nothing() -> None:
    """What most have to do before they wait for a log."""


class DecisionLog:
    """The log of one session, silent where descriptor 2 is none."""

    def __init__(self, program: bytes, environ: Mapping[bytes, bytes], *, sockets: bool = False) -> None:
        self._program = program
        self._mode = log_mode(environ, sockets=sockets)
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
        if self._mode:
            self._write(decision(self._program, result, client, letter, recipients, words).format())

    def say(self, line: bytes) -> None:
        """Write one line. The client is not kept waiting for a log that is full, and the session only once."""
        if self._mode:
            self._write(self._program + b": " + line)

    def _write(self, line: bytes) -> None:
        line = line[: LINE_MAX - 1] + b"\n"
        regular = stat.S_ISREG(self._mode)
        if write_line(2, line, 0.0, regular=regular) or self.wait_s <= 0:
            return
        self.before_waiting()
        if not write_line(2, line, self.wait_s, regular=regular):
            self.wait_s = 0.0


def decision(
    program: bytes,
    result: str,
    client: Client,
    letter: Letter,
    recipients: Sequence[bytes],
    words: tuple[tuple[bytes, bytes], ...],
) -> Decision:
    """What the log says; the evidence follows ``words``, and recipients without room are a number at the end."""
    made = Decision(
        program,
        result,
        client.ip[:64],
        (client.helo or b"")[:256],
        letter.sender,
        b"",
        (*words, *found_out(client, letter)),
    )
    room = LINE_MAX - len(made.format()) + len(program) + len(result) + 3 - 48
    return replace(made, to=format_recipients(recipients, room))


def found_out(client: Client, letter: Letter) -> Iterator[tuple[bytes, bytes]]:
    """The evidence: what the connection is, then what the checks have found out."""
    if client.user is not None:
        yield b"authuser", client.user
        yield b"authtype", client.method
    if client.secured is not None:
        yield b"encrypted", client.secured.version.encode("ascii")
    yield from letter.evidence


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


def log_mode(environ: Mapping[bytes, bytes], *, sockets: bool) -> int:
    """The mode of descriptor 2 if it is a log, else 0: open, no socket, no end of the session, not sendmail -bs.

    The one socket that is a log is that of systemd's journal, which $JOURNAL_STREAM names (systemd.exec(5)).
    ``sockets`` says that both ends of the session are sockets, so that they need not be compared.
    """
    if by_sendmail(environ):
        return 0
    try:
        log = os.fstat(2)
        if stat.S_ISSOCK(log.st_mode):
            journal = environ.get(b"JOURNAL_STREAM") == b"%d:%d" % (log.st_dev, log.st_ino)
            return log.st_mode if journal else 0
        ends = () if sockets else (os.fstat(0), os.fstat(1))
    except OSError:
        return 0
    same = any(log.st_ino == end.st_ino and log.st_dev == end.st_dev for end in ends)
    return 0 if same else log.st_mode
