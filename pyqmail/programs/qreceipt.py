"""qreceipt: tell the sender that the message has arrived here, if they asked for it (qreceipt(1))."""

from pyqmail.address import quote
from pyqmail.control import home_of
from pyqmail.formats import rfc822
from pyqmail.formats.header import Header
from pyqmail.intake.client import Injection
from pyqmail.intake.resend import complain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

REQUEST = b"notice-requested-upon-delivery-to"
NOBODY = (b"", b"#@[]")  # senders that take no notices


class Unparsable(Exception):
    """A request field that is no list of addresses; the text is the field."""

    def __init__(self, text: bytes) -> None:
        super().__init__(text)
        self.text = text


def read_header(lines: "Iterable[bytes]") -> Header:
    """The header at the start of ``lines``; the body is not read. Raises OSError."""
    header = Header()
    for line in lines:
        if not header.add(line):
            return header
    header.end()
    return header


def is_requested(header: Header, address: bytes) -> bool:
    """Whether a request field names exactly ``address``. Raises Unparsable."""
    found = False

    def look(tokens: "rfc822.Tokens") -> "rfc822.Tokens":
        nonlocal found
        found = found or rfc822.plain_address(tokens) == address
        return tokens

    for name, text in header.fields:
        if name == REQUEST:
            try:
                rfc822.rewrite_list(rfc822.tokenize(text.partition(b":")[2]), look)
            except (rfc822.LexicalError, rfc822.StructureError):
                raise Unparsable(text) from None
    return found


def format_notice(sender: bytes, address: bytes, header: Header) -> bytes:
    """The whole notice. A newline in ``sender`` becomes ``_``, as in Return-Path, so that no field can be forged."""
    where = quote(sender).replace(b"\n", b"_")
    message_id = [text for name, text in header.fields if name == b"message-id"]
    return (
        b"From: DELIVERY NOTICE SYSTEM <" + where + b">\nTo: <" + where + b">\nSubject: success notice\n\n"
        b"This is the qreceipt program. The message that you sent has been put into\n"
        b"the mailbox of " + address + b", as you wanted to know.\n"
        + (b"Your " + message_id[-1] if message_id else b"")
    )  # fmt: skip


def send_notice(notice: bytes, sender: bytes, environ: "Mapping[bytes, bytes]") -> int:
    """Queue ``notice`` for ``sender`` from nobody: 0, 100 or 111."""
    try:
        injection = Injection.open(home_of(environ), environ, direct=True)
    except OSError:
        complain(b"qreceipt: fatal: unable to fork")
        return 111
    injection.write(notice)
    letter, _text = injection.answer_text(injection.close(b"", [sender]))
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
        wanted = is_requested(header, argv[1])
    except OSError:
        complain(b"qreceipt: fatal: read error")
        return 111
    except Unparsable as trouble:
        complain(b"qreceipt: fatal: unable to parse this: " + trouble.text.rstrip(b"\n"))
        return 100
    if not wanted or sender in NOBODY:
        return 0
    return send_notice(format_notice(sender, argv[1], header), sender, environ)
