"""The header that a message will have, and whom it names (qmail-inject(8), qmail-header(5)). No descriptors.

Generated fields go first, then all others in the order they came.
"""

import os

from pyqmail.address import quote
from pyqmail.formats import rfc822
from pyqmail.formats.date822 import format_date, format_stamp
from pyqmail.intake.resend import LIST_MARKS, Fatal, complain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyqmail.formats.address_item import Item
    from pyqmail.formats.header import Header
    from pyqmail.intake.inject import Settings

PLAIN_RECIPIENTS = (b"to", b"cc", b"bcc", b"apparently-to")
RESENT_RECIPIENTS = (b"resent-to", b"resent-cc", b"resent-bcc")
SENDERS = (
    *(b"sender", b"from", b"reply-to", b"return-receipt-to", b"errors-to"),
    *(b"resent-sender", b"resent-from", b"resent-reply-to"),
)
RESENT = (*RESENT_RECIPIENTS, *SENDERS[5:], b"resent-date", b"resent-message-id")
DELETED = (b"bcc", b"resent-bcc", b"return-path", b"content-length")
NOBODY_SHOWN = b"Cc: recipient list not shown: ;\n"


def left_out(item: "Item") -> bytes:
    """How the warning about what ``item`` leaves out begins."""
    return b"more than an address in: " if item.addresses else b"no address in: "


class Rewriter:
    """Fields and addresses as they will be sent: hosts made whole by ``rules``."""

    def __init__(self, rules: "rfc822.Rules") -> None:
        self.rules = rules

    def complete(self, address: bytes) -> "rfc822.Tokens":
        """The tokens of a raw address, its host made whole. Raises Fatal."""
        try:
            return rfc822.complete(rfc822.tokenize(quote(address)), self.rules)
        except rfc822.LexicalError:
            raise Fatal(100, b"unable to parse address: " + address) from None

    def rewrite(self, text: bytes, found: list[bytes], unread: list[bytes], *, author: bool = False) -> bytes:
        """The field formatted anew; its addresses are added to ``found``, last one first, warnings to ``unread``.

        What is not clean stays as it was written, but for hosts that its addresses lack; so does an ``author`` who is
        words without any address.
        """
        name, _colon, body = text.removesuffix(b"\n").partition(b":")
        if rfc822.is_plain_list(body):
            return self._format(name, body, found)
        from pyqmail.formats.address_list import complete_list, read_list  # most fields are plain

        reading = read_list(body)
        addresses = [self._envelope(address.tokens) for address in reversed(reading.addresses)]
        if author and any(item.words for item in reading.items):
            return text
        found += addresses
        unread += [left_out(item) + body[item.start : item.end] for item in reading.items if item.left_out]
        clean = reading.clean
        del reading  # a field of many megabytes is held once
        named: list[bytes] = []
        try:
            formatted = self._format(name, body, named) if clean else b""
        except (rfc822.LexicalError, rfc822.StructureError):
            formatted = b""
        return formatted if formatted and named == addresses else name + b":" + complete_list(body, self.rules) + b"\n"

    def _envelope(self, address: "rfc822.Tokens") -> bytes:
        """The address as the envelope has it; after a NUL would come a forged record."""
        return rfc822.plain_address(rfc822.complete(address, self.rules)).partition(b"\0")[0]

    def _format(self, name: bytes, body: bytes, named: list[bytes]) -> bytes:
        """The field as the original writes it; its addresses are added to ``named``, last one first.

        Raises LexicalError, StructureError.
        """

        def rewrite(address: "rfc822.Tokens") -> "rfc822.Tokens":
            named.append(self._envelope(address))
            return rfc822.complete(address, self.rules)

        start = [(rfc822.ATOM, name.rstrip(b" \t")), (rfc822.COLON, b":")]
        return rfc822.format_tokens(start + rfc822.rewrite_list(rfc822.tokenize(body), rewrite)) + b"\n"


def read_word(word: bytes) -> list[bytes]:
    """The addresses that a word of the command line names."""
    if LIST_MARKS.isdisjoint(word):
        return [word] if word else []
    from pyqmail.formats.address_list import parse_addresses

    return parse_addresses(word)


class Message:
    """The header as it will be sent, and the addresses that it names."""

    def __init__(self, settings: "Settings", header: "Header") -> None:
        """Raises Fatal."""
        self.settings = settings
        self.kept: list[bytes] = []
        self.return_path: bytes | None = None
        self.plain: list[bytes] = []  # recipients
        self.resent: list[bytes] = []
        self.shown: list[bytes] = []  # recipients in To and Cc
        self.names: set[bytes] = set()
        self.unread: list[bytes] = []  # what fields of recipients have that names nobody, and why it is left out
        dropped = [(b"f", b"from"), (b"i", b"message-id"), (b"s", b"return-path")]
        unseen = {name for letter, name in dropped if settings.flag(letter)}
        for name, text in header.fields:
            if name not in unseen:
                self._take(name, text)
        self.is_resent = not self.names.isdisjoint(RESENT)

    def _take(self, name: bytes, text: bytes) -> None:
        self.names.add(name)
        found: list[bytes] = []
        if name in PLAIN_RECIPIENTS or name in RESENT_RECIPIENTS:
            text = self.settings.rewriter.rewrite(text, found, self.unread)
            (self.plain if name in PLAIN_RECIPIENTS else self.resent).extend(found)
            if name in (b"to", b"cc"):
                self.shown.extend(found)
        elif name in SENDERS or name == b"return-path":
            text = self.settings.rewriter.rewrite(text, found, [], author=True)
            if name == b"return-path" and found and self.return_path is None:
                self.return_path = found[0]
        if name not in DELETED:
            self.kept.append(text)

    def recipients(self) -> list[bytes]:
        """The envelope's recipients, by the options. Raises Fatal."""
        settings = self.settings
        named = [address for argument in settings.arguments for address in read_word(argument)]
        listed = [rfc822.plain_address(settings.rewriter.complete(address)) for address in named]
        header = [address for address in (self.resent if self.is_resent else self.plain) if address]
        if settings.choice == b"a" or (settings.choice == b"A" and settings.arguments):
            return listed
        return listed + header if settings.choice == b"H" else header

    def warn(self) -> None:
        """Say what names nobody among the recipients of the header; ``undisclosed-recipients:`` is meant to."""
        settings = self.settings
        if settings.choice == b"a" or (settings.choice == b"A" and settings.arguments):
            return
        for text in self.unread:
            if not text.endswith(b":"):
                complain(b"qmail-inject: warning: " + b" ".join(text.split()))

    def sender(self) -> bytes:
        """The envelope's sender."""
        if self.settings.sender is not None:
            return rfc822.plain_address(self.settings.rewriter.complete(self.settings.sender))
        if self.return_path is not None:
            return self.settings.verp(self.return_path)
        return self.settings.default_sender()

    def generated(self) -> bytes:
        """The fields that the header lacks."""
        settings = self.settings
        prefix, lower = (b"Resent-", b"resent-") if self.is_resent else (b"", b"")
        out = []
        if lower + b"date" not in self.names:
            out.append(prefix + b"Date: " + format_date(settings.now) + b"\n")
        if lower + b"message-id" not in self.names:
            unique = b"%s.%d.qmail@%s" % (format_stamp(settings.now), os.getpid(), settings.id_host)
            out.append(prefix + b"Message-ID: <" + unique + b">\n")
        if lower + b"from" not in self.names:
            out.append(prefix + settings.from_field())
        if self.names.isdisjoint((lower + b"to", lower + b"cc")):
            out.append(prefix + NOBODY_SHOWN)
        if not self.is_resent and b"mail-followup-to" not in self.names:
            out.append(self._followup())
        return b"".join(out)

    def _followup(self) -> bytes:
        """Mail-Followup-To for a message to one of the caller's lists, else nothing."""
        if all(address.lower() not in self.settings.list for address in self.shown):
            return b""
        backwards = reversed(self.shown)  # of the whole header: the original's order
        return b"Mail-Followup-To: " + b",\n  ".join(quote(address) for address in backwards) + b"\n"
