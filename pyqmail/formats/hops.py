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
        lines = (self._line + text).split(b"\n")
        self._line = lines.pop()[:16]
        for line in lines:
            if not line:
                self.in_header = False
                return
            if line[:8].lower() == b"received" or line[:9].lower() == b"delivered":
                self.count += 1
