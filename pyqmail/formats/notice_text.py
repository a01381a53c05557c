"""Notices that nothing is wrong, or not yet: a multipart/report about recipients that were reached, or wait (RFC 3464).

Their text does not begin as bounces do: list managers and programs that count bounces look for that.
"""

from dataclasses import dataclass

from pyqmail.address import quote
from pyqmail.formats.bounce_text import Charset, format_last_boundary, format_part, format_report_mime
from pyqmail.formats.date822 import format_date, format_stamp
from pyqmail.formats.delivery_status import Outcome, format_message_fields, format_outcome

_TEXT = {
    "success": (
        b"delivery notice",
        b"Your message has reached the addresses below. You asked to be told.\n"
        b"This is all that there is to say; nothing is wrong.\n\n",
    ),
    "delay": (
        b"delay notice",
        b"Your message has not reached the addresses below yet. I keep trying;\nyou need not send it again.\n\n",
    ),
}


@dataclass(frozen=True, slots=True)
class Notice:
    """What is told: ``kind`` is success or delay, ``until`` when a delayed message will be given up, a Unix time."""

    kind: str
    number: int
    sender: bytes
    envid: bytes
    arrival: int
    outcomes: tuple[Outcome, ...]
    until: int = 0


def format_notice(notice: Notice, now: int, mailbox: bytes, host: bytes, header: bytes, boundary: bytes) -> bytes:
    """The whole message: from ``mailbox``, with the ``header`` of the one that it is about."""
    subject, text = _TEXT[notice.kind]
    lines = b"".join(b"<%b>:\n%b\n" % (one.address.replace(b"\n", b"_"), one.text) for one in notice.outcomes)
    text = b"This is the qmail-send program at %b.\n%b%b" % (host, text, lines)
    charset, copied = Charset(), Charset()
    charset.feed(text)
    copied.feed(header)
    head = (
        b"Date: %b\nMessage-ID: <%b.%d.%b.qmail-send@%b>\nFrom: %b\nTo: %b\nSubject: %b\nAuto-Submitted: auto-replied\n"
        % (
            format_date(now),
            format_stamp(now),
            notice.number,
            boundary.rpartition(b".")[2],
            host,
            quote(mailbox),
            quote(notice.sender),
            subject,
        )
    )
    return b"".join(
        [
            head,
            format_report_mime(boundary, charset, max(charset.encoding, copied.encoding)) + b"\n",
            text,
            format_part(boundary, b"message/delivery-status", b"7bit"),
            format_message_fields(host, notice.arrival, notice.envid),
            *(format_outcome(one, notice.until) for one in notice.outcomes),
            format_part(boundary, b"text/rfc822-headers", copied.encoding),
            header,
            format_last_boundary(boundary),
        ]
    )
