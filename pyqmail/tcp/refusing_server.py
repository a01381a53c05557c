"""A small SMTP server for a client that is turned away: it takes every command but those that name a recipient or a
message (rblsmtpd(1))."""

import time

from pyqmail.stream.lines import LineReader
from pyqmail.stream.standard import client_stream
from pyqmail.stream.stream import Stream, StreamEnded

LINE_MAX = 512  # of a command, whose first word is all that counts
NAME = b"rblsmtpd.local"
PASSED = frozenset((b"helo", b"ehlo", b"mail", b"rset", b"noop"))


def converse(reply: bytes, timeout_s: int) -> None:
    """Talk to the client until QUIT, the end, or ``timeout_s`` (0: for ever).

    ``reply`` is the refusal, a line without its end.
    """
    stream = client_stream(timeout_s or None, shared=True)
    if timeout_s:
        stream.until(time.monotonic() + timeout_s)
    try:
        _answer(stream, b"250 " + NAME + b"\r\n", reply + b"\r\n")
    except StreamEnded:
        return


def _answer(stream: Stream, yes: bytes, no: bytes) -> None:
    """Until QUIT. Raises StreamEnded."""
    stream.write(b"220 " + NAME + b"\r\n")
    lines = LineReader(stream, LINE_MAX, cut=True)
    verb = b""
    while verb != b"quit":
        verb = lines.line().removesuffix(b"\r").partition(b" ")[0].lower()
        stream.write(b"221 " + NAME + b"\r\n" if verb == b"quit" else yes if verb in PASSED else no)
    stream.flush()
