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
        lines = (text if end < 0 else text[:end]).split(b"\n")
        if end < 0:
            self._line = lines.pop()[:16]
        else:
            self.in_header = False
        for line in lines:
            if line[:8].lower() == b"received" or line[:9].lower() == b"delivered":
                self.count += 1
