"""Counting the hosts that a message has passed, by its header (RFC 5321 section 6.3, qmail-smtpd(8))."""


class HopCounter:
    """Counts the Received and Delivered-To lines of a header that comes in pieces, LF line ends."""

    __slots__ = ("_line", "count", "in_header")

    def __init__(self) -> None:
        self.count = 0
        self.in_header = True
        self._line = b""  # as much as counts of a line whose end has not come

    def feed(self, text: bytes) -> None:
        """Some of the message; nothing counts behind the first empty line."""
        if not self.in_header:
            return
        text = self._line + text
        end = text.find(b"\n\n") if text[:1] != b"\n" else 0
        if end < 0:
            start = text.rfind(b"\n") + 1
            header, self._line = text[:start], text[start : start + 16]
        else:
            header, self.in_header = text[:end], False
        fields = b"\n" + header.lower()
        self.count += fields.count(b"\nreceived") + fields.count(b"\ndelivered")
