"""What is said with MAIL and RCPT of a message that has facts, to a server that knows the extension (RFC 3461)."""

from collections.abc import Callable

from pyqmail.control import Control
from pyqmail.formats.facts import Facts, FactsError, format_notify, parse_facts
from pyqmail.policy import wishes
from pyqmail.policy.routing import read_routing
from pyqmail.protocol.smtp_extensions import Extensions


class Extras:
    """The parameters of one message."""

    def __init__(self, home: str, data: bytes, spelled: Callable[[bytes], bytes]) -> None:
        """``data`` are its facts; none if they are not understood. ``spelled``: how an address is said.

        Raises ControlUnreadable.
        """
        try:
            self._facts = parse_facts(data)
        except FactsError:
            self._facts = Facts()
        control = Control(home)
        places = wishes.place(self._facts, read_routing(control, control.me()))
        self._said = {spelled(address): one for address, one in wishes.by_address(places, "remote").items()}

    def passed_on(self, offered: Extensions) -> bool:
        """Whether the server is told of the notices that the sender wants."""
        return b"DSN" in offered and self._facts.asks_for_notices

    def of_mail(self, offered: Extensions) -> bytes:
        """Parameters for MAIL, each with a blank before it."""
        if b"DSN" not in offered:
            return b""
        ret, envid = self._facts.ret, self._facts.envid
        return (b" RET=" + ret if ret else b"") + (b" ENVID=" + envid if envid else b"")

    def of_rcpt(self, offered: Extensions, recipient: bytes) -> bytes:
        """Parameters for RCPT, each with a blank before it."""
        one = self._said.get(recipient)
        if one is None or b"DSN" not in offered:
            return b""
        notify = format_notify(one.notify)
        return (b" NOTIFY=" + notify if notify else b"") + (b" ORCPT=" + one.orcpt if one.orcpt else b"")
