"""Who may send anywhere sends no more than control/relaylimits says, asked of qmail-stated (qmail-stated(8)).

A user is counted by name, another relay client by its address; mail from strangers is not counted, nor are bounces of a
relay that is no user. A message is counted with its first recipient, and only what all other checks accept is counted.
Where qmail-stated does not answer there is no limit.
"""

from functools import lru_cache

from pyqmail.formats.logline import safe
from pyqmail.incoming.check import Check, Rules, Verdict
from pyqmail.incoming.client import Client, by_sendmail
from pyqmail.incoming.letter import Letter
from pyqmail.incoming.parsed import tell_complaints
from pyqmail.incoming.stated import state_of
from pyqmail.policy.relay_limits import KNOWN_MAX, MESSAGES, Line, RelayLimits
from pyqmail.protocol.reply import Reply
from pyqmail.protocol.state import KEY_MAX, OVER, TAKE, Rule


class RelayLimit(Check):
    """relaylimits; the last to be asked, as what it counts has to be accepted."""

    name = "relaylimits"

    def __init__(self, rules: Rules) -> None:
        self._limits = rules.site.made("relaylimits", RelayLimits)
        if self._limits is not None:
            tell_complaints(rules, "relaylimits", self._limits)
        self._state = state_of(rules)
        self._letter: Letter | None = None  # that has been counted
        self.active = bool(self._limits) and not by_sendmail(rules.environ)

    def recipient(self, client: Client, letter: Letter, address: bytes) -> Verdict | None:
        line = None if self._limits is None else line_of(self._limits, client, letter)
        if line is None:
            return None
        key, *rules = question(line, new=letter is not self._letter)
        answer = self._state.ask(TAKE, key, *rules) if rules else []
        if answer and answer[0] == OVER:
            return over(key, line.reply, answer[1])
        self._letter = letter
        return None


def line_of(limits: RelayLimits, client: Client, letter: Letter) -> Line | None:
    """What holds for ``client``; None for whom nothing does. A user has no bounces: the empty sender counts."""
    if client.user is not None:
        return limits.of_user(client.user)
    return limits.of_address(client.ip) if client.relay is not None and letter.sender else None


@lru_cache(maxsize=KNOWN_MAX)
def question(line: Line, *, new: bool) -> tuple[bytes, ...]:
    """What is counted, and by which rules: of a ``new`` message that too, else one more recipient."""
    limits = [limit for limit in line.limits if new or limit.kind != MESSAGES]
    return safe(line.key[:KEY_MAX]), *(Rule(limit.kind, 1, limit.most, limit.seconds).format() for limit in limits)


def over(key: bytes, code: int, rule: bytes) -> Verdict:
    """The refusal by ``rule``, as the wire has it."""
    kind, _, most, seconds = rule.split(b" ")
    text = b"you have sent too many %b, %b in %b seconds are allowed (#%d.7.1)"
    evidence = (b"limit", b"%b:%b=%b/%b" % (key, kind, most, seconds))
    return Verdict(Reply(code, text % (kind, most, seconds, code // 100)), (evidence,))
