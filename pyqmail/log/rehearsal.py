"""Whom enforcing a check would have refused, by domain: the words ``rehearsal=`` of accepted mail (qmail-log(8))."""

from collections import Counter
from collections.abc import Iterable, Iterator

from pyqmail.log.events import Decision
from pyqmail.log.twins import Twins

TOP = 100  # rows of the table


class Rehearsal:
    """Counts by check and domain, and what was accepted in all."""

    def __init__(self) -> None:
        self._accepted = 0
        self._refusable: Counter[tuple[str, str]] = Counter()

    def feed(self, lines: Iterable[str], since: float | None) -> None:
        """Count what ``lines`` of a log say, from the time ``since`` on."""
        twins = Twins()
        for line in lines:
            when, event = twins.parse(line) or (None, None)
            early = since is not None and when is not None and when < since
            if early or not isinstance(event, Decision) or event.result != "accepted":
                continue
            self._accepted += 1
            for key, value in event.words:
                if key == b"rehearsal":
                    check, _, domain = value.decode("ascii", "replace").partition(":")
                    self._refusable[check, domain.lower()] += 1

    def lines(self) -> Iterator[str]:
        """The table, the most frequent first."""
        yield f"accepted: {self._accepted}; enforcing would have refused:"
        for (check, domain), count in self._refusable.most_common(TOP):
            yield f"{count:>10}  {check:<6} {domain}"
