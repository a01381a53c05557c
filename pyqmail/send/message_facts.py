"""Which messages have facts beside their envelope, and what these say (spool/facts).

Known are those whose todo/N named them, and those found in queue/pyqmail/facts at the start. A file that belongs to no
message is removed; one that does not fit its message is not used, and removed with it.
"""

from collections.abc import Callable

from pyqmail.log.events import Alert, Warn
from pyqmail.log.sinks import Sink
from pyqmail.send.cleaner import Cleaner
from pyqmail.spool import sweep
from pyqmail.spool.layout import Layout
from pyqmail.spool.preprocess import PreprocessTrouble

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyqmail.formats.facts import Facts, Transfer


class MessageFacts:
    """Those of one queue."""

    def __init__(self, layout: Layout, log: Sink) -> None:
        self._layout = layout
        self._log = log
        self._known: set[int] = set()
        self._others: set[int] = set()  # numbers with a file that is not their message's
        self._latest: tuple[int, Facts] | None = None  # what was read last

    def start(self, cleaner: Cleaner) -> None:
        """Learn which messages have facts; have removed what has no message."""
        for number in sweep.with_facts(self._layout):
            try:
                orphan = sweep.without_message(self._layout, number)
            except OSError:
                orphan = False
            if orphan:
                self._log(Warn(b"facts/%d has no message, removed" % number))
                self.remove(cleaner, number, lambda: None)
            else:
                self._known.add(number)

    def __contains__(self, number: int) -> bool:
        """Whether ``number`` has a file of facts that goes with it, its own or not."""
        return number in self._known or number in self._others

    def arrived(self, number: int, token: bytes) -> "Transfer | None":
        """``number`` is in todo/, which names its facts by ``token``, or none: learn of them, and how it came from
        another node.

        Raises PreprocessTrouble where they cannot be read now.  What is lost is lost: such a message goes its way as
        if there had been none, and an alert says so.
        """
        if not token:
            if number in self._known:
                self._disown(number, Warn(b"facts/%d belongs to another message, not used" % number))
            return None
        from pyqmail.spool import facts  # few messages have any

        self._others.discard(number)
        self._latest = None
        try:
            found = facts.read(self._layout, number, token)
        except facts.FactsLost:
            self._disown(number, Alert(b"the facts of msg %d are lost; it is delivered without them" % number))
            return None
        except OSError:
            raise PreprocessTrouble(f"unable to read facts of msg {number}") from None
        self._known.add(number)
        return found.transfer

    def _disown(self, number: int, line: Warn | Alert) -> None:
        self._known.discard(number)
        self._others.add(number)
        self._latest = None
        self._log(line)

    def of(self, number: int) -> "Facts":
        """What is known of ``number``. Raises OSError where that cannot be read now."""
        from pyqmail.formats.facts import NO_FACTS
        from pyqmail.spool import facts

        if number not in self._known:
            return NO_FACTS
        if self._latest is None or self._latest[0] != number:
            try:
                self._latest = number, facts.read(self._layout, number)
            except facts.FactsLost:
                self._disown(number, Warn(b"facts/%d belongs to another message, not used" % number))
                return NO_FACTS
        return self._latest[1]

    def remove(self, cleaner: Cleaner, number: int, removed: Callable[[], None]) -> None:
        """Have qmail-clean remove the file of ``number``; ``removed`` is called when that is over.

        A qmail-clean that cannot, or is another qmail's, leaves the file for the next start.
        """

        def answered(done: bool) -> None:
            if not done:
                self._log(Warn(b"qmail-clean unable to clean up fact/%d" % number))
            removed()

        self._known.discard(number)
        self._others.discard(number)
        self._latest = None
        cleaner.ask(b"fact", number, answered)
