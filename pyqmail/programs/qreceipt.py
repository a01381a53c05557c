"""qreceipt: tell the sender that the message has arrived here, if they asked for it (qreceipt(1))."""

import os
import time

from pyqmail.address import quote
from pyqmail.control import Control, ControlUnreadable, home_of
from pyqmail.formats.address_list import parse_sender, read_list
from pyqmail.formats.bounce_text import mime_fields_for
from pyqmail.formats.date822 import format_date, format_stamp
from pyqmail.formats.header import Header
from pyqmail.intake.client import Injection
from pyqmail.intake.resend import complain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

REQUEST = b"notice-requested-upon-delivery-to"
NOBODY = (b"", b"#@[]")  # senders that take no notices


def read_header(lines: "Iterable[bytes]") -> Header:
    """The header at the start of ``lines``; the body is not read. Raises OSError."""
    header = Header()
    for line in lines:
        if not header.add(line):
            return header
    header.end()
    return header


def is_requested(header: Header, address: bytes) -> bool:
    """Whether a request field names exactly ``address``. What cannot be read of a field names nobody."""
    return any(
        found.text == address
        for name, text in header.fields
        if name == REQUEST
        for found in read_list(text.partition(b":")[2]).addresses
    )


def format_notice(sender: bytes, address: bytes, header: Header, now: int, id_host: bytes) -> bytes:
    """The whole notice. A newline in ``sender`` becomes ``_``, as in Return-Path, so that no field can be forged."""
    where = quote(sender).replace(b"\n", b"_")
    message_id = [text for name, text in header.fields if name == b"message-id"]
    body = (
        b"This is the qreceipt program. The message that you sent has been put into\n"
        b"the mailbox of " + address + b", as you wanted to know.\n"
        + (b"Your " + message_id[-1] if message_id else b"")
    )  # fmt: skip
    return (
        b"Date: " + format_date(now) + b"\n"
        b"Message-ID: <%b.%d.qreceipt@%b>\n" % (format_stamp(now), os.getpid(), id_host)
        + b"From: DELIVERY NOTICE SYSTEM <" + where + b">\nTo: <" + where + b">\nSubject: success notice\n"
        b"Auto-Submitted: auto-replied\n"
        + mime_fields_for(where + body)
        + b"\n"
        + body
    )  # fmt: skip


def send_notice(notice: bytes, sender: bytes, environ: "Mapping[bytes, bytes]") -> int:
    """Queue ``notice`` for ``sender`` from nobody: 0, 100 or 111."""
    try:
        injection = Injection.open(home_of(environ), environ, direct=True)
    except OSError:
        complain(b"qreceipt: fatal: unable to fork")
        return 111
    injection.write(notice)
    letter, _text = injection.close(b"", [sender]).letter_text()
    if letter == b"K":
        return 0
    kind = b"permanent" if letter == b"D" else b"temporary"
    complain(b"qreceipt: fatal: " + kind + b" qmail-queue error")
    return 100 if letter == b"D" else 111


def main(argv: "Sequence[bytes]", environ: "Mapping[bytes, bytes]") -> int:
    """Queue a notice to SENDER if descriptor 0 asks for one on delivery to ``argv[1]``."""
    sender = environ.get(b"SENDER")
    if len(argv) < 2 or sender is None:
        complain(b"qreceipt: usage: qreceipt deliveryaddress")
        return 100
    try:
        with open(0, "rb", closefd=False) as message:
            header = read_header(message)
        id_host = Control(home_of(environ)).setting(environ, b"QMAILIDHOST", "idhost")
    except (OSError, ControlUnreadable):
        complain(b"qreceipt: fatal: read error")
        return 111
    address = parse_sender(argv[1])
    if sender in NOBODY or not is_requested(header, address):
        return 0
    return send_notice(format_notice(sender, address, header, int(time.time()), id_host), sender, environ)
