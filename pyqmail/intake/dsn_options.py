"""sendmail's -N, -R and -V: what the sender of a message wants to hear of it (sendmail(8), RFC 3461).

Addresses in UTF-8 ask for SMTPUTF8 (RFC 6531) beside that.
"""

from collections.abc import Sequence

from pyqmail.formats.facts import ACCEPTED_MAX, Facts, RecipientFacts, format_facts, parse_notify
from pyqmail.intake.resend import Fatal
from pyqmail.options import UsageError
from pyqmail.protocol.dsn import WrongParameter, parse_mail

TOO_MANY = b"too many recipients for -N: what is said of them has at most 32 KiB"


class DsnOptions:
    """The options of one call, each option's last one counting."""

    def __init__(self, options: Sequence[tuple[bytes, bytes]]) -> None:
        """Raises UsageError."""
        given = dict(options)
        notify = parse_notify(given[b"N"]) if b"N" in given else frozenset()
        if notify is None:
            raise UsageError(b"-N takes never, or some of success,failure,delay")
        self._notify = notify
        words = [key + given[letter] for letter, key in ((b"R", b"RET="), (b"V", b"ENVID=")) if letter in given]
        try:
            if any(len(word.split()) != 1 for word in words):
                raise WrongParameter
            self._ret, self._envid = parse_mail(b" ".join(words))
        except WrongParameter:
            raise UsageError(b"-R takes full or hdrs, and -V at most 100 characters of xtext") from None

    def variable(self, sender: bytes, recipients: Sequence[bytes]) -> bytes:
        """The value of $QMAILFACTS. Raises Fatal."""
        named = tuple(RecipientFacts(recipient, self._notify) for recipient in recipients)
        utf8 = not all(address.isascii() for address in (sender, *recipients))
        value = format_facts(Facts(self._ret, self._envid, utf8, named), sender)
        if len(value) > ACCEPTED_MAX:
            raise Fatal(100, TOO_MANY)
        return value
