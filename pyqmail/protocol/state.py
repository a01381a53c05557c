"""What qmail-stated is asked, and what it answers: records of netstrings, the first is a word (qmail-stated(8)).

    take KEY RULE...        ok | over RULE SECONDS      RULE is "KIND AMOUNT MOST SECONDS"
    first KEY WAIT AGAIN KEEP   ok | wait SECONDS
    show                    ok, and a descriptor with a line for each counter: KIND SECONDS COUNT REFUSED KEY
    reset KEY               ok NUMBER

The last two are for root.
"""

from functools import lru_cache

from pyqmail.protocol.records import format_record as format_record
from pyqmail.protocol.records import parse_words

SOCKET = "/run/qmail-stated.sock"
RECORD_MAX = 8192  # bytes of a question or an answer
KEY_MAX = 2048  # bytes of a key: a network and two addresses
NUMBER_MAX = 0xFFFFFFFF
RULES_MAX = 8  # that one question counts by
TAKE, FIRST, SHOW, RESET = b"take", b"first", b"show", b"reset"
OK, OVER, WAIT = b"ok", b"over", b"wait"
_OK = format_record(OK)  # most answers


class Rule:
    """Count ``amount`` more of ``kind``, of which there may be ``most`` in ``seconds``."""

    __slots__ = ("amount", "kind", "most", "seconds")

    def __init__(self, kind: bytes, amount: int, most: int, seconds: int) -> None:
        self.kind = kind
        self.amount = amount
        self.most = most
        self.seconds = seconds

    def format(self) -> bytes:
        """The words of the wire."""
        return b"%b %d %d %d" % (self.kind, self.amount, self.most, self.seconds)


@lru_cache(maxsize=1024)
def parse_rule(text: bytes) -> Rule | None:
    """The rule; None for what is none."""
    words = text.split(b" ")
    if len(words) != 4 or not words[0] or not all(word.isdigit() and len(word) <= 10 for word in words[1:]):
        return None
    amount, most, seconds = map(int, words[1:])
    return Rule(words[0], amount, most, seconds) if max(amount, most) <= NUMBER_MAX and seconds > 0 else None


def parse_record(record: bytes) -> list[bytes]:
    """The words of a record; none for anything else."""
    return [OK] if record == _OK else parse_words(record, RECORD_MAX)
