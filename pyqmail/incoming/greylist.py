"""Greylisting: a stranger who comes for the first time has to come again (qmail-smtpd(8), RFC 6647).

Off unless control/greylist, or $GREYLIST in a rule, says after how many seconds. Who comes again from the same network
with the same sender and recipient is let in, and so is whoever control/greylist.white lists. Asked after what refuses
for good: whoever hears that need not come again.
"""

from pyqmail.incoming.check import Check, Rules, Verdict
from pyqmail.incoming.client import Client
from pyqmail.incoming.letter import Letter
from pyqmail.incoming.recipient_limits import setting
from pyqmail.incoming.stated import state_of
from pyqmail.policy.exceptions import Exceptions
from pyqmail.policy.networks import around, parse_address
from pyqmail.protocol.reply import Reply
from pyqmail.protocol.state import FIRST, KEY_MAX, WAIT

WAIT_MAX_S = 3600  # more is a refusal: there are servers that give up within hours
AGAIN_S = 2 * 86400  # in which a newcomer has to come again
KEEP_S = 36 * 86400  # that it is known from then on: a newsletter comes once a month
BITS4, BITS6 = 24, 64  # of the network: who sends from several addresses has them near each other


class Greylist(Check):
    """greylist, greylist.white."""

    name = "greylist"

    def __init__(self, rules: Rules) -> None:
        self.wait_s = min(setting(rules, b"GREYLIST", "greylist"), WAIT_MAX_S)
        self.active = self.wait_s > 0
        self._white = rules.control.made("greylist.white", Exceptions) if self.active else None
        self._rules = rules

    def recipient(self, client: Client, letter: Letter, address: bytes) -> Verdict | None:
        if client.relay is not None or client.user is not None or self.excepts(client, letter, address):
            return None
        found = parse_address(client.ip)
        network = client.ip if found is None else str(around(found, BITS4, BITS6)).encode()
        key = b"\0".join((network, letter.sender.lower(), address.lower()))[:KEY_MAX]
        answer = state_of(self._rules).ask(FIRST, key, *(b"%d" % each for each in (self.wait_s, AGAIN_S, KEEP_S)))
        if not answer or answer[0] != WAIT:
            return None
        text = b"you are new here, please come again in %b seconds (#4.7.1)" % answer[1]
        return Verdict(Reply(451, text), ((b"greylist", answer[1]),))

    def excepts(self, client: Client, letter: Letter, address: bytes) -> bool:
        """Whether control/greylist.white has the client, the sender or the recipient."""
        white = self._white
        if white is None:
            return False
        return white.has_client(client.ip, client.host) or any(map(white.has_mail_address, (letter.sender, address)))
