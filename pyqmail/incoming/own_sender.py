"""Users send as themselves: $FORCEAUTHMAILFROM, $FORCEAUTHFROM and control/mailfromrules (qmail-smtpd(8), RFC 6409).

A user may use the address that is the user's name, and what control/mailfromrules allows, or the database of accounts
(qmail-accounts(8)). An account of the system has its name, and its name with an extension, in control/me and
control/locals.
"""

import os
from collections.abc import Iterator

from pyqmail.control import Control, ControlUnreadable
from pyqmail.formats.cdb import Cdb, CdbCorrupt
from pyqmail.formats.header import field_name
from pyqmail.incoming.check import Check, Rules, Verdict
from pyqmail.incoming.client import Client
from pyqmail.incoming.letter import Letter
from pyqmail.incoming.refusals import NOT_YOUR_FROM, NOT_YOUR_SENDER
from pyqmail.incoming.site import AccountNames, account_names

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyqmail.incoming.holding import Holding

OFF = (b"", b"0")
SENDERS = "/users/accounts/senders.cdb"  # user -> addresses, each with a NUL behind it
HEADER_MAX = 1048576  # bytes; a header that is longer is not looked through, and refused


class OwnSender(Check):
    """The envelope sender, and on request the From field, of a client that has said who it is."""

    name = "mailfromrules"

    def __init__(self, rules: Rules) -> None:
        self._control = rules.control
        self._site = rules.site
        self._on = rules.environ.get(b"FORCEAUTHMAILFROM", b"") not in OFF
        self._reads = rules.environ.get(b"FORCEAUTHFROM", b"") not in OFF

    def holds(self, client: Client) -> bool:
        return self._reads

    def sender(self, client: Client, letter: Letter) -> Verdict | None:
        if not self._on or client.user is None or not letter.sender:
            return None
        may = may_use(self._control, client.user, letter.sender, self._site.account_names)
        return None if may else Verdict(NOT_YOUR_SENDER, at_once=True)

    def message(self, client: Client, letter: Letter) -> Verdict | None:
        if not self._reads or client.user is None or letter.held is None:
            return None
        user = client.user
        authors = list(from_addresses(letter.held))
        own = all(author is not None and may_use(self._control, user, author) for author in authors)
        return None if own else Verdict(NOT_YOUR_FROM)


def may_use(control: Control, user: bytes, address: bytes, names: AccountNames | None = None) -> bool:
    """Whether ``user`` may send as ``address``; ``names``: where that is known. Raises ControlUnreadable."""
    user, address = user.lower(), address.lower()
    if address == user or (0x40 not in user and is_of_account(names or account_names(control), user, address)):
        return True
    domain = b"@" + address.rpartition(b"@")[2]
    for line in control.lines("mailfromrules") or ():
        who, _, what = line.lower().partition(b":")
        if who.strip() in (user, b"*") and what.strip() in (address, domain, b"*"):
            return True
    return not {address, domain, b"*"}.isdisjoint(addresses_of_account(control, user))


def addresses_of_account(control: Control, user: bytes) -> list[bytes]:
    """What the database of accounts lets ``user`` send as, beside his own address. Raises ControlUnreadable."""
    try:
        fd = os.open(control.directory.removesuffix("/control") + SENDERS, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ControlUnreadable(f"{SENDERS[1:]}: {error.strerror}") from error
    try:
        return (Cdb(fd).get(user) or b"").split(b"\0")[:-1]
    except (CdbCorrupt, OSError) as error:
        raise ControlUnreadable(f"{SENDERS[1:]}: damaged") from error
    finally:
        os.close(fd)


def is_of_account(names: AccountNames, user: bytes, address: bytes) -> bool:
    """Whether mail for ``address`` would be the account's."""
    local, _, domain = address.rpartition(b"@")
    separator, domains = names
    return domain in domains and (local == user or local.startswith(user + separator))


def from_addresses(held: "Holding") -> Iterator[bytes | None]:
    """The addresses in the From field; with None among them where there is doubt what they are, or who reads which."""
    from pyqmail.formats.address_list import read_list  # seldom needed, and it takes its time to import

    header = header_of(held)
    if header is None:
        yield None
        return
    fields = [body for name, body in fields_of(header) if name == b"from"]
    if len(fields) > 1:
        yield None
    for body in fields:
        reading = read_list(body)
        if not reading.sure or not reading.addresses:
            yield None
        for address in reading.addresses:
            yield address.text


def header_of(held: "Holding") -> bytes | None:
    """The header with its last line end; None where it is too long."""
    text = b"\n"
    for piece in held.pieces():
        text += piece
        end = text.find(b"\n\n")
        if end >= 0:
            return text[1 : end + 1]
        if len(text) > HEADER_MAX:
            return None
    return text[1:]


def fields_of(header: bytes) -> Iterator[tuple[bytes | None, bytes]]:
    """Name and unfolded body of each field; what is no field has None for a name."""
    name: bytes | None = None
    body = b""
    for line in header.split(b"\n"):
        if line[:1] in (b" ", b"\t"):
            body += line
            continue
        if name is not None:
            yield name, body
        name, body = field_name(line), line.partition(b":")[2]
    if name is not None:
        yield name, body
