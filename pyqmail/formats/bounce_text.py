"""The bounce message (QSBMF: qmail-send's own format for notices, which list managers parse)."""

from codecs import getincrementaldecoder

from pyqmail.address import quote
from pyqmail.formats.date822 import format_date, format_stamp

DOUBLE_BOUNCE = b"#@[]"  # the sender of a double bounce: if that fails too, the message is dropped


class Charset:
    """What the bytes of a text are, fed in pieces: ASCII, UTF-8, or nobody knows (RFC 1428).

    The texts that other hosts give may have any bytes, and so may the message that is quoted.
    """

    def __init__(self) -> None:
        self._decoder = getincrementaldecoder("utf-8")()
        self._ascii = True
        self._utf8 = True

    def feed(self, data: bytes) -> None:
        """Some more of it."""
        self._ascii = self._ascii and data.isascii()
        if self._ascii or not self._utf8:
            return
        try:
            self._decoder.decode(data)
        except UnicodeDecodeError:
            self._utf8 = False

    def give_up(self) -> None:
        """There is more than anybody looks at."""
        self._ascii = self._utf8 = False

    def mime_fields(self) -> bytes:
        """The fields of a message that fit all that was fed (RFC 2045)."""
        return b"MIME-Version: 1.0\n" + self.part_fields()

    @property
    def encoding(self) -> bytes:
        """``7bit`` or ``8bit``."""
        return b"7bit" if self._ascii else b"8bit"

    def part_fields(self) -> bytes:
        """The fields of a text that is a part of a message."""
        if self._utf8 and not self._ascii:
            try:
                self._decoder.decode(b"", True)
            except UnicodeDecodeError:
                self._utf8 = False
        name = b"us-ascii" if self._ascii else b"utf-8" if self._utf8 else b"unknown-8bit"
        return b"Content-Type: text/plain; charset=%b\nContent-Transfer-Encoding: %b\n" % (name, self.encoding)


def mime_fields_for(text: bytes) -> bytes:
    """The fields that fit ``text``."""
    charset = Charset()
    charset.feed(text)
    return charset.mime_fields()


def format_paragraph(address: bytes, report: bytes) -> bytes:
    """One recipient's paragraph in bounce/N: no blank line but at its end.

    A newline after a newline is a slash, but for the last byte of the report, as in the original.
    """
    text = bytearray(b"<" + address.replace(b"\n", b"_") + b">:\n" + report)
    if not text.endswith(b"\n"):
        text += b"\n"
    for position in range(len(text) - 2, 0, -1):  # backwards: of three newlines in a row two become slashes
        if text[position] == 10 and text[position - 1] == 10:
            text[position] = ord("/")
    return bytes(text) + b"\n"


def return_address(sender: bytes) -> bytes:
    """Where failures go that qmail-send itself finds: ``sender`` less a trailing ``-@[]``."""
    return sender.removesuffix(b"-@[]")


def bounce_envelope(sender: bytes, double_bounce_to: bytes) -> tuple[bytes, bytes] | None:
    """Sender and recipient of the bounce to return address ``sender``; None for one that is dropped."""
    if sender == DOUBLE_BOUNCE:
        return None
    if not sender:
        return DOUBLE_BOUNCE, double_bounce_to
    return b"", sender


_SINGLE = (
    b"I could not deliver your message to the addresses below, and I will not\n"
    b"try again: these failures are permanent.\n\n"
)
_DOUBLE = b"I tried to return a message to its sender, but that notice bounced as well.\n\n"


def format_head(
    now: int, bounce_from: bytes, bounce_host: bytes, recipient: bytes, *, number: int, double: bool, mime: bytes
) -> bytes:
    """Everything before the recipients' paragraphs. ``bounce_from`` is the mailbox, with its host.

    ``number`` is that of the message that failed, ``mime`` the fields that fit what follows (`Charset`), or those of a
    multipart and the head of its first part (`format_report_mime`).  Programs that answer mail leave a message with
    Auto-Submitted alone (RFC 3834 section 5).
    """
    return b"Date: %b\nMessage-ID: <%b.%d.qmail-send@%b>\n%b%b" % (
        format_date(now),
        format_stamp(now),
        number,
        bounce_host,
        _addressed(bounce_from, recipient, mime),
        b"Hi. This is the qmail-send program at %b.\n%b" % (bounce_host, _DOUBLE if double else _SINGLE),
    )


def _addressed(bounce_from: bytes, recipient: bytes, mime: bytes) -> bytes:
    """The other fields, and the empty line behind them."""
    return b"From: %b\nTo: %b\nSubject: failure notice\nAuto-Submitted: auto-replied\n%b\n" % (
        quote(bounce_from),
        quote(recipient),
        mime,
    )


def format_break(*, double: bool) -> bytes:
    """The line between the paragraphs and the original message, and the empty one behind it."""
    return b"--- Below this line is %b\n\n" % (b"the original bounce." if double else b"a copy of the message.")


def format_return_path(sender: bytes) -> bytes:
    """What stands before the original message."""
    return b"Return-Path: <%b>\n" % quote(sender)


def format_report_mime(boundary: bytes, text: Charset, encoding: bytes) -> bytes:
    """The MIME fields of a bounce that is a multipart/report (RFC 6522), and its first part up to the text.

    ``text`` is what the first part holds, ``encoding`` that of the whole.  Readers of QSBMF pass over the paragraph
    that begins with the boundary.
    """
    return (
        b"MIME-Version: 1.0\nContent-Type: multipart/report; report-type=delivery-status;\n"
        b'\tboundary="%b"\nContent-Transfer-Encoding: %b\n\n--%b\n%b'
        % (boundary, encoding, boundary, text.part_fields())
    )


def format_part(boundary: bytes, kind: bytes, encoding: bytes) -> bytes:
    """The head of a further part, of the type ``kind``."""
    return b"\n--%b\nContent-Type: %b\nContent-Transfer-Encoding: %b\n\n" % (boundary, kind, encoding)


def format_last_boundary(boundary: bytes) -> bytes:
    """What ends a multipart."""
    return b"\n--%b--\n" % boundary


def format_cut(shown: int, size: int) -> bytes:
    """What ends a bounce that shows only the first ``shown`` of the ``size`` bytes of the original."""
    return b"\n--- Here the message is cut: %d of its %d bytes are shown.\n" % (shown, size)


def format_failures_cut(shown: int, size: int) -> bytes:
    """What ends the paragraphs of a bounce that shows only the first ``shown`` of their ``size`` bytes."""
    return b"\n[Here the failures are cut: %d of %d bytes are shown.]\n\n" % (shown, size)
