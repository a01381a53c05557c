"""The decision lines on descriptor 2: one for each message taken and each refusal (qmail-smtpd(8), DECISIONS).

    PROGRAM: accepted ip=IP helo=NAME from=<SENDER> to=<RCPT>,<RCPT> bytes=N qp=N
    PROGRAM: refused ip=IP helo=NAME from=<SENDER> to=<RCPT> reason=REPLY

Their form is fixed; what checks have found out follows as further words KEY=VALUE. The client hears first: a log that
is slow must not make it send the message again.
"""

import os
import stat
from collections.abc import Callable, Mapping, Sequence

from pyqmail.formats.logline import safe
from pyqmail.incoming.client import Client
from pyqmail.incoming.letter import Letter
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
        tail = b" bytes=%d qp=%d" % (letter.size, number) + words(client, letter)
        self.say(b"accepted " + who(client, letter.sender, letter.recipients, len(tail)) + tail)

    def refused(self, client: Client, letter: Letter, recipients: Sequence[bytes], reply: Reply) -> None:
        """``recipients`` of it, or the whole, have been refused with ``reply``."""
        tail = b" reason=" + safe(reply.line.rstrip(b"\r\n")[:200]) + words(client, letter)
        self.say(b"refused " + who(client, letter.sender, recipients, len(tail)) + tail)

    def say(self, line: bytes) -> None:
        """Write one line. The client is not kept waiting for a log that is full, and the session only once."""
        if not self._mode:
            return
        line = (self._program + b": " + line)[: LINE_MAX - 1] + b"\n"
        regular = stat.S_ISREG(self._mode)
        if write_line(2, line, 0.0, regular=regular) or self.wait_s <= 0:
            return
        self.before_waiting()
        if not write_line(2, line, self.wait_s, regular=regular):
            self.wait_s = 0.0


def words(client: Client, letter: Letter) -> bytes:
    """The evidence as it stands in a line: what the connection is, then what the checks have found out."""
    evidence = letter.evidence
    if client.secured is not None:
        evidence = [(b"encrypted", client.secured.version.encode("ascii")), *evidence]
    return b"".join(b" %b=%b" % (key, safe(value)) for key, value in evidence) if evidence else b""


def who(client: Client, sender: bytes, recipients: Sequence[bytes], tail: int) -> bytes:
    """The fields that all decisions have; recipients for whom the line has no room are a number at the end."""
    head = b"ip=%b helo=%b from=<%b> to=" % (safe(client.ip[:64]), safe((client.helo or b"")[:256]), safe(sender))
    room = LINE_MAX - len(head) - tail - 48
    shown: list[bytes] = []
    for recipient in recipients:
        room -= len(recipient) + 3
        if room < 0:
            shown.append(b"+%d" % (len(recipients) - len(shown)))
            break
        shown.append(b"<" + safe(recipient) + b">")
    return head + b",".join(shown)


def log_mode(environ: Mapping[bytes, bytes], *, sockets: bool) -> int:
    """The mode of descriptor 2 if it is a log, else 0: open, no socket, no end of the session, not sendmail -bs.

    The one socket that is a log is that of systemd's journal, which $JOURNAL_STREAM names (systemd.exec(5)).
    ``sockets`` says that both ends of the session are sockets, so that they need not be compared.
    """
    if environ.get(b"TCPREMOTEINFO") == b"sendmail-bs" and environ.get(b"TCPREMOTEIP") == b"127.0.0.1":
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
