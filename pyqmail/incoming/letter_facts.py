"""What a client says of its letter beside the envelope, as it comes with MAIL and each RCPT (RFC 3461)."""

from pyqmail.formats.facts import ACCEPTED_MAX, NEVER, SUCCESS, Facts, RecipientFacts, format_facts
from pyqmail.protocol import dsn

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyqmail.incoming.letter import Letter

SPARE = 512  # bytes of facts that are not of recipients
EACH = 48  # bytes of a recipient besides its address and ORCPT


class LetterFacts:
    """The facts of one letter so far.

    ``wishes``: its client may use DSN; ``trusted``: and hear of success, which tells who reads mail here. ``smtputf8``:
    its addresses and header may be UTF-8 (RFC 6531). ``requiretls``: it may leave over verified TLS only (RFC 8689).
    """

    def __init__(self, parameters: bytes, *, wishes: bool, trusted: bool, smtputf8: bool, requiretls: bool) -> None:
        """``parameters`` are those of MAIL. Raises dsn.WrongParameter."""
        self.smtputf8 = smtputf8
        self.requiretls = requiretls
        self._ret, self._envid = dsn.parse_mail(parameters) if wishes else (b"", b"")
        self._wishes = wishes
        self._trusted = trusted
        self._recipients: list[RecipientFacts] = []
        self._bytes = SPARE
        self._silent_bytes = 0  # of recipients at the end of whom nothing was said: these need not be named

    def parse(self, parameters: bytes) -> RecipientFacts:
        """What the ``parameters`` of a RCPT say, of no address yet. Raises dsn.WrongParameter."""
        notify, orcpt = dsn.parse_rcpt(parameters) if self._wishes else (frozenset[bytes](), b"")
        if SUCCESS in notify and not self._trusted:
            notify = notify - {SUCCESS} or frozenset({NEVER})
        return RecipientFacts(b"", notify, orcpt)

    def has_room(self, one: RecipientFacts, address: bytes) -> bool:
        """Whether one more recipient of ``address`` fits what a message may have."""
        if not (one.notify or one.orcpt):
            return True
        return self._bytes + self._silent_bytes + _size(one, address) <= ACCEPTED_MAX

    def add(self, one: RecipientFacts, address: bytes) -> None:
        """``address`` is a recipient now."""
        self._recipients.append(RecipientFacts(address, one.notify, one.orcpt))
        self._silent_bytes += _size(one, address)
        if one.notify or one.orcpt:
            self._bytes += self._silent_bytes
            self._silent_bytes = 0

    def format(self, sender: bytes) -> bytes:
        """The value of $QMAILFACTS."""
        facts = Facts(self._ret, self._envid, self.smtputf8, tuple(self._recipients), self.requiretls)
        return format_facts(facts, sender)


def begin_facts(letter: "Letter", *, wishes: bool, trusted: bool, smtputf8: bool, requiretls: bool) -> bool:
    """Keep what MAIL has said of ``letter``, nothing of the recipients so far; False for what is malformed."""
    try:
        facts = LetterFacts(letter.parameters, wishes=wishes, trusted=trusted, smtputf8=smtputf8, requiretls=requiretls)
    except dsn.WrongParameter:
        return False
    for recipient in letter.recipients:
        facts.add(RecipientFacts(recipient), recipient)
    letter.facts = facts
    if requiretls:
        letter.evidence.append((b"requiretls", b"yes"))
    return True


def _size(one: RecipientFacts, address: bytes) -> int:
    return EACH + len(address) + len(one.orcpt)
