"""A message as SMTP wants it after DATA: CR LF line ends, then doubled dots (RFC 5321 section 4.5.2).

The two are apart, so that a signature can be made of the bytes between them: what the receiver has after it took the
dots away.
"""

import re

FINAL_DOT = b".\r\n"
_CR_PAIR = re.compile(rb"\r(?:\n|([^\n]))")


class LineEnds:
    """CR LF at the end of each line.

    LF and CR LF end a line; so does a CR that no LF follows, and the byte after that CR stands as it is (in CR CR LF
    that is the second CR).
    """

    def __init__(self) -> None:
        self._carry = b""  # a final CR whose follower is not known yet
        self._last = b"\n"  # the last byte that was encoded; the beginning is a line start

    def encode(self, data: bytes) -> bytes:
        """The lines in ``data``, the next piece of the message."""
        if self._carry:
            data = self._carry + data
            self._carry = b""
        if b"\r" in data:
            data = self._settle_returns(data)
        if not data:
            return b""
        self._last = data[-1:]
        return data.replace(b"\n", b"\r\n")

    def _settle_returns(self, data: bytes) -> bytes:
        """``data`` with each CR and its follower settled; a CR without one yet is carried to the next piece."""
        end = 0
        for pair in _CR_PAIR.finditer(data):
            end = pair.end()
        if data.find(b"\r", end) >= 0:  # only a CR at the very end has no follower
            data, self._carry = data[:-1], b"\r"
        return _CR_PAIR.sub(rb"\n\1", data)

    def finish(self) -> bytes | None:
        """What ends the last line, usually nothing; None for a partial final line, which SMTP cannot carry."""
        if self._carry:
            self._carry = b""
            self._last = b"\n"
            return b"\r\n"
        return b"" if self._last == b"\n" else None


class Dots:
    """A second dot at each line start.

    That is wherever any receiver could see one: after CR LF and also after a bare CR, where the original doubles none
    and can be made to end the message early.
    """

    def __init__(self) -> None:
        self._last = b"\n"

    def encode(self, lines: bytes) -> bytes:
        """``lines``, the next piece of what `LineEnds` gave, as it is sent."""
        if not lines:
            return lines
        out = lines.replace(b"\n.", b"\n..")
        if b"\r." in out:
            out = out.replace(b"\r.", b"\r..")
        if lines[:1] == b"." and self._last in (b"\n", b"\r"):
            out = b"." + out
        self._last = lines[-1:]
        return out


class BodyEncoder:
    """Both, piece by piece, and the dot that ends the message."""

    def __init__(self) -> None:
        self._lines = LineEnds()
        self._dots = Dots()

    def encode(self, data: bytes) -> bytes:
        """What to send for ``data``, the next piece of the message."""
        return self._dots.encode(self._lines.encode(data))

    def finish(self) -> bytes | None:
        """What ends the body, the final dot included; None for a partial final line, which SMTP cannot carry."""
        ending = self._lines.finish()
        return None if ending is None else ending + FINAL_DOT
