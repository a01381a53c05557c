"""How many recipients: of a message (maxrcpt), bad ones (brtlimit), and how quickly (tarpitcount, tarpitdelay).

All are control files, and variables of the same name in capitals for a rule of tcpserver (qmail-smtpd(8)); 0 is none.
"""

import time

from pyqmail.control import parse_integer
from pyqmail.incoming.check import Check, Rules, Verdict
from pyqmail.incoming.client import Client
from pyqmail.incoming.letter import Letter
from pyqmail.incoming.patience import number
from pyqmail.incoming.refusals import TOO_MANY_BAD_RECIPIENTS, TOO_MANY_RECIPIENTS

TARPITDELAY_S = 5  # the tarpit patch's
TARPITDELAY_MAX_S = 300  # a worker waits, which others could use


def setting(rules: Rules, variable: bytes, name: str, default: int = 0) -> int:
    """``variable``, else control/``name``, else ``default``. Raises ControlUnreadable."""
    given = rules.environ.get(variable)
    if given is not None:
        return number(given)
    found = rules.site.made(name, parse_integer) if rules.has(name) else None
    return default if found is None else found


def recipients_max(rules: Rules) -> int:
    """The recipients of one message, at most; 0 for any number. Raises ControlUnreadable."""
    if b"DISABLE_MAXRCPT" in rules.environ:
        return 0
    return setting(rules, b"MAXRCPT", "maxrcpt") or setting(rules, b"MAXRECIPIENTS", "maxrecipients")


class RecipientLimit(Check):
    """maxrcpt, or maxrecipients as others call it: the rest of a message has to come as another one."""

    name = "maxrcpt"

    def __init__(self, rules: Rules) -> None:
        self._most = recipients_max(rules)
        self.active = bool(self._most)

    @property
    def recipients_max(self) -> int:
        return self._most

    def recipient(self, client: Client, letter: Letter, address: bytes) -> Verdict | None:
        return Verdict(TOO_MANY_RECIPIENTS) if len(letter.recipients) >= self._most else None


class BadRecipientLimit(Check):
    """brtlimit: who has named so many recipients that were refused for ever has to go."""

    name = "brtlimit"

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._limit = setting(rules, b"BRTLIMIT", "brtlimit")
        self.active = bool(self._limit)

    def recipient(self, client: Client, letter: Letter, address: bytes) -> Verdict | None:
        return Verdict(TOO_MANY_BAD_RECIPIENTS) if self._rules.bad_recipients >= self._limit else None


class Tarpit(Check):
    """tarpitcount, tarpitdelay: after so many recipients each further one has to wait."""

    name = "tarpitcount"

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._count = setting(rules, b"TARPITCOUNT", "tarpitcount")
        delay_s = setting(rules, b"TARPITDELAY", "tarpitdelay", TARPITDELAY_S) if self._count else 0
        self._delay_s = min(delay_s, TARPITDELAY_MAX_S)
        self.active = bool(self._count and self._delay_s)

    def recipient(self, client: Client, letter: Letter, address: bytes) -> Verdict | None:
        if len(letter.recipients) + self._rules.bad_recipients >= self._count:
            time.sleep(self._delay_s)
        return None
