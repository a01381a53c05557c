"""Which messages have facts: learnt from todo/ and at the start, and removed with their messages."""

from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest

from pyqmail.formats.facts import NO_FACTS, Facts, format_facts
from pyqmail.formats.netstring import format_netstring, format_netstrings
from pyqmail.log.events import Event
from pyqmail.send.cleaner import Cleaner
from pyqmail.send.leaving import Leaving
from pyqmail.send.means import Means
from pyqmail.spool.preprocess import PreprocessTrouble
from pyqmail.system.loop import Loop
from tests.send.parts import NOW, means_for

FACTS = Facts(envid=b"id")


class Asked:
    """In place of qmail-clean."""

    def __init__(self, answer: bool = True) -> None:
        self.requests: list[str] = []
        self._answer = answer

    def ask(self, kind: bytes, number: int, answered: Callable[[bool], None]) -> None:
        self.requests.append(f"{kind.decode()}/{number}")
        answered(self._answer)


class Queue:
    """A queue with one message, number 7."""

    def __init__(self, home: Path) -> None:
        self.lines: list[bytes] = []
        self.means: Means = means_for(home, Loop(), self._say, lambda: NOW)
        self.facts = self.means.facts
        self.folder = home / "queue/pyqmail/facts/0"
        self.folder.mkdir(parents=True)
        self.mess = home / "queue/mess/0/7"
        self.mess.write_bytes(b"Received: mine\nbody\n")

    def _say(self, event: Event) -> None:
        self.lines.append(event.format())

    def leave(self, clean: Asked) -> None:
        """Have message 7 removed, to the end."""
        leaving = Leaving(self.means, cast(Cleaner, clean))
        leaving.clean(7)
        while not leaving.idle:
            self.means.loop.run_once(10.0)

    def put(self, number: int = 7, token: bytes = b"t", line: bytes = b"Received: mine") -> None:
        words = [b"facts 1", token, line, b"20", format_facts(FACTS, b"ann@a")]
        (self.folder / str(number)).write_bytes(format_netstring(format_netstrings(words)))


@pytest.fixture
def queue(tmp_path: Path) -> Queue:
    return Queue(tmp_path)


def test_facts_are_known_by_the_token_in_todo(queue: Queue) -> None:
    queue.put()
    queue.facts.arrived(7, b"t")
    assert queue.facts.of(7) == FACTS and 7 in queue.facts and not queue.lines


@pytest.mark.parametrize("token", [b"other", b"t"], ids=["not its own", "of a message that is gone"])
def test_facts_that_do_not_fit_are_not_used_and_an_alert_says_so(queue: Queue, token: bytes) -> None:
    queue.put(line=b"Received: mine" if token != b"t" else b"Received: yours")
    queue.facts.arrived(7, token)
    assert queue.facts.of(7) is NO_FACTS and 7 in queue.facts
    assert queue.lines == [b"alert: the facts of msg 7 are lost; it is delivered without them"]


def test_a_number_that_another_qmail_used_again_has_not_the_old_facts(queue: Queue) -> None:
    queue.put()
    clean = Asked()
    queue.facts.start(cast(Cleaner, clean))
    queue.facts.arrived(7, b"")
    assert queue.facts.of(7) is NO_FACTS
    assert queue.lines == [b"warning: facts/7 belongs to another message, not used"]
    queue.leave(clean)
    assert clean.requests == ["fact/7", "foop/7"]


def test_at_the_start_facts_without_a_message_go_and_others_are_known(queue: Queue) -> None:
    queue.put()
    queue.put(8)
    clean = Asked()
    queue.facts.start(cast(Cleaner, clean))
    assert clean.requests == ["fact/8"] and 7 in queue.facts and queue.facts.of(7) == FACTS
    assert queue.lines == [b"warning: facts/8 has no message, removed"]


def test_found_facts_must_fit_their_message(queue: Queue) -> None:
    queue.put(line=b"Received: yours")
    queue.facts.start(cast(Cleaner, Asked()))
    assert queue.facts.of(7) is NO_FACTS and len(queue.lines) == 1


@pytest.mark.parametrize("damage", ["gone", "torn", "zeros", "another version", "no facts in it"])
def test_facts_that_are_lost_do_not_keep_their_message(queue: Queue, damage: str) -> None:
    """The rule of qmail-queue(8)."""
    queue.put()
    path = queue.folder / "7"
    data = path.read_bytes()
    damaged = {
        "torn": data[:-5],
        "zeros": bytes(len(data)),
        "another version": data.replace(b"facts 1", b"facts 2"),
        "no facts in it": format_netstring(format_netstrings([b"facts 1", b"t", b"Received: mine", b"20", b"?"])),
    }
    path.write_bytes(damaged.get(damage, b""))
    if damage == "gone":
        path.unlink()
    assert queue.facts.arrived(7, b"t") is None
    assert queue.facts.of(7) is NO_FACTS and 7 in queue.facts  # so that what is left of it goes with the message
    assert queue.lines == [b"alert: the facts of msg 7 are lost; it is delivered without them"]


def test_facts_that_cannot_be_read_make_their_message_wait(queue: Queue) -> None:
    (queue.folder / "7").mkdir()
    with pytest.raises(PreprocessTrouble):
        queue.facts.arrived(7, b"t")


def test_a_qmail_clean_that_does_not_know_facts_keeps_no_message(queue: Queue) -> None:
    queue.put()
    queue.facts.arrived(7, b"t")
    clean = Asked(answer=False)
    queue.leave(clean)
    assert clean.requests == ["fact/7", "foop/7"]
    assert b"warning: qmail-clean unable to clean up fact/7" in queue.lines


def test_a_message_without_facts_is_asked_for_nothing_more(queue: Queue) -> None:
    clean = Asked()
    queue.leave(clean)
    assert clean.requests == ["foop/7"] and queue.facts.of(7) is NO_FACTS
