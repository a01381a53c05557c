"""What is said with MAIL and RCPT of a message that has facts or addresses in UTF-8 (RFC 3461, RFC 6531, RFC 8689)."""

from collections.abc import Callable, Sequence

from pyqmail.control import Control
from pyqmail.formats.facts import Facts, FactsError, format_notify, parse_facts
from pyqmail.policy import wishes
from pyqmail.policy.routing import read_routing
from pyqmail.protocol.smtp_extensions import Extensions
from pyqmail.protocol.smtp_transaction import NO_REQUIRETLS, NO_SMTPUTF8, NO_UTF8_HEADER


class Extras:
    """The parameters of one message."""

    def __init__(
        self,
        home: str,
        data: bytes,
        spelled: Callable[[bytes], bytes],
        addresses: Sequence[bytes],
        header_is_ascii: Callable[[], bool],
        *,
        lmtp: bool = False,
    ) -> None:
        """``data`` are its facts; none if they are not understood. ``spelled``: how an address is said.

        ``addresses`` are its sender and recipients, as they are said. ``lmtp``: to where it is stored, which asks for
        no TLS (RFC 8689). Raises ControlUnreadable.
        """
        try:
            self._facts = parse_facts(data)
        except FactsError:
            self._facts = Facts()
        control = Control(home)
        places = wishes.place(self._facts, read_routing(control, control.me()))
        self._utf8 = self._facts.smtputf8 or not all(address.isascii() for address in addresses)
        self.requires_tls = self._facts.requiretls and not lmtp
        self._header_is_ascii = header_is_ascii
        self._said = {spelled(address): one for address, one in wishes.by_address(places, "remote").items()}

    def passed_on(self, offered: Extensions) -> bool:
        """Whether the server is told of the notices that the sender wants."""
        return b"DSN" in offered and self._facts.asks_for_notices

    def of_mail(self, offered: Extensions) -> bytes:
        """Parameters for MAIL, each with a blank before it."""
        words = b" SMTPUTF8" if self._utf8 and b"SMTPUTF8" in offered else b""
        words += b" REQUIRETLS" if self.requires_tls and b"REQUIRETLS" in offered else b""
        if b"DSN" not in offered:
            return words
        ret, envid = self._facts.ret, self._facts.envid
        return words + (b" RET=" + ret if ret else b"") + (b" ENVID=" + envid if envid else b"")

    def refuses(self, offered: Extensions, sender: bytes) -> bytes:
        """Why the server cannot have the message: it does not offer REQUIRETLS, or SMTPUTF8, and that is needed.

        SMTPUTF8 is what sender and header may need. Of a header in bytes above 127 that nobody declared so, nothing is
        known: it goes as it is, as in qmail. Raises TemporaryFailure.
        """
        if self.misses_requiretls(offered, sender):
            return NO_REQUIRETLS
        if b"SMTPUTF8" in offered:
            return b""
        if not sender.isascii():
            return NO_SMTPUTF8
        return NO_UTF8_HEADER if self._facts.smtputf8 and not self._header_is_ascii() else b""

    def misses_requiretls(self, offered: Extensions, sender: bytes) -> bool:
        """Whether the server would have to offer REQUIRETLS and does not.

        A notice, of the empty sender, is not lost for want of the word (RFC 8689 section 5): verified TLS will do.
        """
        return self.requires_tls and bool(sender) and b"REQUIRETLS" not in offered

    def cannot_name(self, offered: Extensions, recipient: bytes) -> bool:
        """Whether the server cannot hear of ``recipient``: it does not know SMTPUTF8, and the address needs it."""
        return b"SMTPUTF8" not in offered and not recipient.isascii()

    def of_rcpt(self, offered: Extensions, recipient: bytes) -> bytes:
        """Parameters for RCPT, each with a blank before it."""
        one = self._said.get(recipient)
        if one is None or b"DSN" not in offered:
            return b""
        notify = format_notify(one.notify)
        return (b" NOTIFY=" + notify if notify else b"") + (b" ORCPT=" + one.orcpt if one.orcpt else b"")
