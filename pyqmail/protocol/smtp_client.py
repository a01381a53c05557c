"""The client's half of an SMTP conversation, without descriptors (qmail-remote(8), RFC 5321).

One fixed order, no pipelining, never EHLO:

    greeting 220 -> HELO 250 -> MAIL <400 -> RCPT each -> DATA <400 -> body and "." <400 -> QUIT

A driver asks `Dialogue.step()` what to do: await bytes (and `feed` them), send a command, send the body, or finish.
On a connection that has carried a message already the conversation begins at MAIL.
`BodyEncoder` turns the message into what follows DATA; `ReplyReader` turns the peer's bytes into replies.
"""

import re
from collections.abc import Generator, Sequence
from dataclasses import dataclass

from pyqmail import address

TEXT_MAX = 5000  # bytes of a reply that are kept, and so reach the sender in a bounce
_CODE_WRAP = 1 << 64  # the original computes codes in an unsigned long: "less than '0'" is a huge, permanent code
_ONE_LINE = re.compile(rb"[0-9]{3} [^\n]{0,500}\n")
_CR_PAIR = re.compile(rb"\r(?:\n|([^\n]))")
FINAL_DOT = b".\r\n"


@dataclass(frozen=True, slots=True)
class Reply:
    """One reply: the code by arithmetic on its first three bytes, and its text: all lines, no CR, cut at TEXT_MAX."""

    code: int
    text: bytes


class ReplyReader:
    """Replies out of a byte stream; any bytes are a reply sooner or later, and at most TEXT_MAX of one are kept.

    The code is arithmetic, without a check for digits, and the codes of continuation lines are ignored: so does the
    original, and permanent or temporary must not depend on which of the two runs.
    """

    def __init__(self) -> None:
        self._buffer = b""
        self._start = 0  # where the current line starts in _buffer
        self._head = b""  # first four bytes of the current line, when the rest of it is still to come
        self._code: int | None = None  # of the first line
        self._text = b""

    def feed(self, data: bytes) -> None:
        """Take more bytes from the peer."""
        self._buffer = self._buffer[self._start :] + data if self._start < len(self._buffer) else data
        self._start = 0

    def idle(self) -> bool:
        """Whether no byte is left of what was fed."""
        return self._start >= len(self._buffer) and self._code is None

    def next(self) -> Reply | None:
        """The next complete reply; None when more bytes are needed."""
        if self._code is None and _ONE_LINE.fullmatch(self._buffer, self._start):
            return self._single_line()
        while self._line_head():
            end = self._buffer.find(b"\n", self._start)
            stop = len(self._buffer) if end < 0 else end + 1
            self._keep(self._buffer[self._start : stop])
            self._start = stop
            if end < 0:
                return None
            head, self._head = self._head, b""
            if head[3:] != b"-":
                return self._finish()
        return None

    def _single_line(self) -> Reply:
        """The usual case: one line, whole, and nothing after it."""
        line = self._buffer[self._start :]
        self._start = len(self._buffer)
        return Reply(int(line[:3]), line.replace(b"\r", b""))

    def _line_head(self) -> bool:
        """Whether the first four bytes of the current line are known; an LF among the first three counts as a byte."""
        if self._head:
            return True
        head = self._buffer[self._start : self._start + 4]
        if len(head) < 4:
            return False
        self._head = head
        if self._code is None:
            first, second, third = (byte - 48 for byte in head[:3])
            self._code = (first * 100 + second * 10 + third) % _CODE_WRAP
        self._keep(head[:3])
        self._start += 3
        return True

    def _keep(self, data: bytes) -> None:
        if len(self._text) < TEXT_MAX:
            self._text = (self._text + data.replace(b"\r", b""))[:TEXT_MAX]

    def _finish(self) -> Reply:
        reply = Reply(self._code or 0, self._text)
        self._code, self._text = None, b""
        return reply


class BodyEncoder:
    """The message as SMTP wants it after DATA: CR LF line ends, a doubled dot at each line start.

    LF and CR LF end a line; so does a CR that no LF follows, and the byte after that CR stands as it is (in CR CR LF
    that is the second CR). A dot is doubled wherever any receiver could see a line start: after CR LF and also after a
    bare CR, where the original does not and can be made to end the message early.
    """

    def __init__(self) -> None:
        self._carry = b""  # a final CR whose follower is not known yet
        self._last = b"\n"  # the last byte that was encoded; the beginning is a line start

    def encode(self, data: bytes) -> bytes:
        """What to send for ``data``, the next piece of the message."""
        if self._carry:
            data = self._carry + data
            self._carry = b""
        if b"\r" in data:
            data = self._settle_returns(data)
        if not data:
            return b""
        out = data.replace(b"\n.", b"\n..")
        if b"\r" in out:
            out = out.replace(b"\r.", b"\r..")
        if data[:1] == b"." and self._last in (b"\n", b"\r"):
            out = b"." + out
        self._last = data[-1:]
        return out.replace(b"\n", b"\r\n")

    def _settle_returns(self, data: bytes) -> bytes:
        """``data`` with each CR and its follower settled; a CR without one yet is carried to the next piece."""
        end = 0
        for pair in _CR_PAIR.finditer(data):
            end = pair.end()
        if data.find(b"\r", end) >= 0:  # only a CR at the very end has no follower
            data, self._carry = data[:-1], b"\r"
        return _CR_PAIR.sub(rb"\n\1", data)

    def finish(self) -> bytes | None:
        """What ends the body, the final dot included; None for a partial final line, which SMTP cannot carry."""
        if self._carry:
            self._carry = b""
            self._last = b"\n"
            return b"\r\n" + FINAL_DOT
        return FINAL_DOT if self._last == b"\n" else None


@dataclass(frozen=True, slots=True)
class Await:
    """More bytes from the peer are needed: `Dialogue.feed` them."""


@dataclass(frozen=True, slots=True)
class Send:
    """A command line to send."""

    line: bytes


@dataclass(frozen=True, slots=True)
class SendBody:
    """The message is wanted now, encoded and with its final dot."""


@dataclass(frozen=True, slots=True)
class Finish:
    """The conversation is over: say QUIT, do not wait, and report (the message report, without its NUL).

    ``accepted``: the peer took the message and has said nothing else, so another one may follow in place of QUIT.
    """

    report: bytes
    accepted: bool = False


Step = Await | Send | SendBody | Finish


def carriable(mailbox: bytes) -> bool:
    """Whether ``mailbox`` fits on a command line: a CR, LF or NUL in it would smuggle commands."""
    return not (b"\r" in mailbox or b"\n" in mailbox or b"\0" in mailbox)


def format_path(mailbox: bytes) -> bytes:
    """``mailbox`` between angle brackets, its local part quoted if need be; without an @ it stands as it is."""
    return b"<" + (address.quote(mailbox) if b"@" in mailbox else mailbox) + b">"


def quoted_reply(reply: Reply) -> bytes:
    """The peer's words as reports show them."""
    return b"Remote host said: " + reply.text.replace(b"\0", b"?") if reply.text else b""


class Dialogue:
    """One message to one peer. `reports` are the recipient reports so far, in order, without their NULs."""

    def __init__(
        self, peer: bytes, helohost: bytes, sender: bytes, recipients: Sequence[bytes], *, greeted: bool = False
    ) -> None:
        self.reports: list[bytes] = []
        self.last_code = 0  # of the last reply
        self.introduced = greeted  # greeting and HELO are behind us
        self._peer = peer
        self._helohost = helohost
        self._sender = sender
        self._recipients = recipients
        self._replies = ReplyReader()
        self._script = self._converse(greeted)
        self._waiting = False
        self._finished: Finish | None = None

    def feed(self, data: bytes) -> None:
        """Take more bytes from the peer."""
        self._replies.feed(data)

    def step(self) -> Step:
        """What to do next."""
        if self._finished:
            return self._finished
        try:
            if not self._waiting:
                command = next(self._script)
            else:
                reply = self._replies.next()
                if reply is None:
                    return Await()
                self.last_code = reply.code
                command = self._script.send(reply)
        except StopIteration as end:
            report: bytes = end.value
            self._finished = Finish(report, accepted=report[:1] == b"K" and self._replies.idle())
            return self._finished
        self._waiting = True
        return command

    def _converse(self, greeted: bool) -> Generator[Step, Reply, bytes]:
        """The whole conversation: yields what to do, is sent the replies, returns the message report."""
        if not greeted:
            refusal = yield from self._introduce()
            if refusal:
                return refusal
            self.introduced = True
        reply = yield Send(b"MAIL FROM:" + format_path(self._sender) + b"\r\n")
        if reply.code >= 400:
            text = b"Connected to " + self._peer + b" but sender was rejected"
            return self._verdict(self._severity(reply), text, reply)
        accepted = False
        for recipient in self._recipients:
            if not carriable(recipient):
                self.reports.append(b"hRecipient address contains CR, LF or NUL, which SMTP cannot carry. (#5.1.3)\n")
                continue
            reply = yield Send(b"RCPT TO:" + format_path(recipient) + b"\r\n")
            accepted = self._note_recipient(reply) or accepted
        if not accepted:
            return b"DGiving up on " + self._peer + b".\n"
        reply = yield Send(b"DATA\r\n")
        if reply.code >= 400:
            return self._verdict(self._severity(reply), self._peer + b" failed on DATA command", reply)
        reply = yield SendBody()
        if reply.code >= 400:
            return self._verdict(self._severity(reply), self._peer + b" failed after I sent the message", reply)
        return self._verdict(b"K", self._peer + b" accepted message", reply)

    def _introduce(self) -> Generator[Step, Reply, bytes]:
        """Greeting and HELO; returns the message report if that is the end of it, else nothing."""
        connected = b"Connected to " + self._peer
        reply = yield Await()
        if reply.code != 220:
            return self._verdict(b"Z", connected + b" but greeting failed", reply)
        reply = yield Send(b"HELO " + self._helohost + b"\r\n")
        if reply.code != 250:
            return self._verdict(b"Z", connected + b" but my name was rejected", reply)
        return b""

    def _note_recipient(self, reply: Reply) -> bool:
        """Report the recipient that ``reply`` answers; whether it was accepted."""
        if reply.code < 400:
            self.reports.append(b"r")
            return True
        letter = b"h" if reply.code >= 500 else b"s"
        self.reports.append(letter + self._peer + b" does not like recipient.\n" + quoted_reply(reply))
        return False

    @staticmethod
    def _severity(reply: Reply) -> bytes:
        return b"D" if reply.code >= 500 else b"Z"

    @staticmethod
    def _verdict(letter: bytes, text: bytes, reply: Reply) -> bytes:
        return letter + text + b".\n" + quoted_reply(reply)
