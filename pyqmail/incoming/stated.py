"""What a session asks of qmail-stated: one connection, kept from session to session where control files are, too."""

from pyqmail.control import Control
from pyqmail.incoming.check import Rules
from pyqmail.state.client import StateClient

_KEPT: dict[str, StateClient] = {}  # by home
AWAY = b"warning: qmail-stated does not answer: nothing is counted, and nobody has to wait"


class SessionState:
    """The connection of one session. One that does not answer is waited for once, and the log hears of it."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._kept = Control.cache is not None
        self._client = _KEPT.setdefault(rules.home, StateClient(rules.home)) if self._kept else StateClient(rules.home)
        self._away = False

    def ask(self, *words: bytes) -> list[bytes]:
        """The answer; nothing where nobody answers. Never raises."""
        if self._away:
            return []
        answer = self._client.ask(*words)
        if not answer:
            self._away = True
            self._rules.notes.append(AWAY)
        return answer

    def close(self) -> None:
        """The session is over."""
        if not self._kept:
            self._client.close()


def state_of(rules: Rules) -> SessionState:
    """The connection that all checks of a session have."""
    if rules.state is None:
        rules.state = SessionState(rules)
    return rules.state
