"""The domain of SRS: a recipient there was made by us, not long ago, or it is refused (qmail-smtpd(8), srsfilter(8)).

Whoever could make one up could have us forward mail to anybody, so that an answer is waited for: without one, 451.
"""

from pyqmail.incoming.check import Check, Rules, Verdict
from pyqmail.incoming.client import Client
from pyqmail.incoming.letter import Letter
from pyqmail.incoming.recipient_check import RecipientClient, client_for, give_back
from pyqmail.incoming.refusals import NO_ANSWER, NOT_MADE_HERE

MADE_HERE = (b"srs", b"pass")  # in the decision line


class SrsRecipient(Check):
    """Asks qmail-rcptd, which knows the secrets, for every client: that one may relay makes no address good."""

    name = "srs"

    def __init__(self, rules: Rules) -> None:
        self._domain = (rules.control.line("srs_domain") or b"").lower()
        self._home = rules.home
        self._client: RecipientClient | None = None
        self.active = bool(self._domain)

    def recipient(self, client: Client, letter: Letter, address: bytes) -> Verdict | None:
        if address.rpartition(b"@")[2].lower() != self._domain or b"\0" in address:
            return None
        if self._client is None:
            self._client = client_for(self._home)
        good = self._client.made_here(address)
        if good is None:
            return Verdict(NO_ANSWER)
        if not good:
            return Verdict(NOT_MADE_HERE)
        return None if MADE_HERE in letter.evidence else Verdict(None, (MADE_HERE,))

    def close(self) -> None:
        if self._client is not None:
            give_back(self._client)
