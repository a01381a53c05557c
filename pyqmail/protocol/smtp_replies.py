"""The replies of an SMTP or LMTP server out of its bytes (RFC 5321 section 4.2)."""

import re
from dataclasses import dataclass

TEXT_MAX = 5000  # bytes of a reply that are kept, and so reach the sender in a bounce
_CODE_WRAP = 1 << 64  # the original computes codes in an unsigned long: "less than '0'" is a huge, permanent code
_ONE_LINE = re.compile(rb"[0-9]{3} [^\n]{0,500}\n")


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


def quoted_reply(reply: Reply) -> bytes:
    """The peer's words as reports show them."""
    return b"Remote host said: " + reply.text.replace(b"\0", b"?") if reply.text else b""
