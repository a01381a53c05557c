"""An answer to a client, the same for SMTP, QMTP and QMQP (RFC 5321 section 4.2, cr.yp.to/proto/qmtp.txt)."""


class Reply:
    """Three digits and a text for people; ``line`` and ``letter`` are what goes over the wire."""

    __slots__ = ("code", "line", "text")

    def __init__(self, code: int, text: bytes) -> None:
        self.code = code
        self.text = text
        self.line = b"%d %b\r\n" % (code, text)

    @property
    def letter(self) -> bytes:
        """As QMTP and QMQP say it: K, Z or D, and the text."""
        return (b"K" if self.code < 400 else b"Z" if self.code < 500 else b"D") + self.text
