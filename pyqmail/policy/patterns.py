"""Lists of addresses or names with plain lines, regular expressions and negation (qmail-control(5), "Lists").

A line is compared as a whole. One that has any of ``* + ? ^ $ [ ] ( ) { } | \\`` is a POSIX extended regular
expression as well, found anywhere, as in the qregex patch. ``!`` before an expression turns it round: it lists what
does not match.
"""

import _signal
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

TYPE_CHECKING = False
if TYPE_CHECKING:
    import re
    from types import FrameType

SPECIAL = frozenset(b"*+?^$[](){}|\\")
TEXT_MAX = 1000  # bytes of a text that are looked at: an SMTP address has at most 899
MATCH_S = 0.2  # seconds of processor time for all expressions of a list and one text
QUANTIFIERS = frozenset(b"*+?{")
QUICK_MAX = 64  # quick expressions: with the longest text all of them stay below MATCH_S
CLASSES = {
    b"alnum": b"a-zA-Z0-9",
    b"alpha": b"a-zA-Z",
    b"blank": b" \\t",
    b"digit": b"0-9",
    b"lower": b"a-z",
    b"punct": b"!-/:-@\\[-`{-~",
    b"space": b"\\s",
    b"upper": b"A-Z",
    b"xdigit": b"0-9a-fA-F",
}


class TooSlow(Exception):
    """An expression takes longer than a list may."""


class Pattern:
    """One line that is an expression; ``compiled`` is None once it was too slow."""

    __slots__ = ("compiled", "negated", "number", "text")

    def __init__(self, number: int, text: bytes, compiled: "re.Pattern[bytes] | None", *, negated: bool) -> None:
        self.number = number
        self.text = text
        self.compiled = compiled
        self.negated = negated

    def lists(self, text: bytes) -> bool:
        """Whether this line lists ``text``."""
        return self.compiled is not None and (self.compiled.search(text) is None) is self.negated


class PatternList:
    """One list. ``complaints`` are the lines that list nothing: number, text and reason; the others work."""

    __slots__ = ("_quick", "complaints", "patterns", "plain")

    def __init__(self, data: bytes) -> None:
        self._quick = True
        self.plain: set[bytes] = set()
        self.patterns: list[Pattern] = []
        self.complaints: list[tuple[int, bytes, str]] = []
        for number, line in numbered_lines(data):
            negated = line.startswith(b"!")
            if not negated:
                self.plain.add(line.lower())
            if negated or not SPECIAL.isdisjoint(line):
                self._add(number, line, negated=negated)

    def _add(self, number: int, line: bytes, *, negated: bool) -> None:
        import re  # seldom needed where each start counts

        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about what means something else in Perl
                compiled = re.compile(translate(line[negated:]), re.IGNORECASE)
        except (re.error, RecursionError, OverflowError, ValueError) as error:
            self.complaints.append((number, line, str(error)))
            return
        self.patterns.append(Pattern(number, line, compiled, negated=negated))
        self._quick = self._quick and is_quick(line) and len(self.patterns) <= QUICK_MAX

    def __bool__(self) -> bool:
        return bool(self.plain or self.patterns)

    def match(self, text: bytes, keys: Iterable[bytes] = ()) -> bytes | None:
        """The line that lists ``text``, or None; ``keys`` are what plain lines may say for it, in lower case."""
        text = text[:TEXT_MAX]
        lowered = text.lower()
        if lowered in self.plain:
            return lowered
        for key in keys:
            if key in self.plain:
                return key
        return self._search(text) if self.patterns else None

    def _search(self, text: bytes) -> bytes | None:
        if self._quick:  # a limit costs more than they do
            for each in self.patterns:
                if each.lists(text):
                    return each.text
            return None
        asked: Pattern | None = None
        while True:
            try:
                with processor_limit(MATCH_S):
                    for asked in self.patterns:
                        if asked.lists(text):
                            return asked.text
                return None
            except TooSlow:
                if asked is None:
                    return None
                self.complaints.append((asked.number, asked.text, "takes too long"))
                asked.compiled = None


def is_quick(expression: bytes) -> bool:
    """Whether no text can hold up ``expression``: it repeats one thing at most, that is no group, and refers to none.

    Python's search then takes the square of the text's length at most. Anything else may take exponential time.
    """
    repeats = [at for at, byte in enumerate(expression) if byte in QUANTIFIERS]
    refers = any(expression[at : at + 1].isdigit() for at, byte in enumerate(expression, 1) if byte == 0x5C)
    return len(repeats) <= 1 and not refers and all(expression[at - 1 : at] != b")" for at in repeats)


def translate(expression: bytes) -> bytes:
    """A POSIX extended regular expression as Python writes it: the classes in brackets by their members."""
    for name, members in CLASSES.items():
        expression = expression.replace(b"[:" + name + b":]", members)
    return expression


def numbered_lines(data: bytes) -> Iterator[tuple[int, bytes]]:
    """As ``parse_lines`` of control, with the number of each line in the file."""
    for number, line in enumerate(data.split(b"\n"), 1):
        kept = line.rstrip(b" \t\n")
        if kept and not kept.startswith(b"#"):
            for part in kept.split(b"\0"):
                if part:
                    yield number, part


def address_keys(address: bytes) -> tuple[bytes, ...]:
    """What plain lines may say for an address besides all of it: its ``@domain``."""
    _, at, domain = address.lower().rpartition(b"@")
    return (at + domain,) if at else ()


def name_keys(name: bytes) -> tuple[bytes, ...]:
    """What plain lines may say for a host besides its name: ``.domain`` for all below that."""
    name = name[:TEXT_MAX].lower()
    return tuple(name[dot:] for dot in range(1, len(name)) if name[dot] == 0x2E)


@contextmanager
def processor_limit(seconds: float) -> Iterator[None]:
    """Raise TooSlow in the body after ``seconds`` of this process's own work. Main thread only."""

    def stop(_signum: int, _frame: "FrameType | None") -> None:
        raise TooSlow

    before = _signal.signal(_signal.SIGVTALRM, stop)
    _signal.setitimer(_signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        _signal.setitimer(_signal.ITIMER_VIRTUAL, 0)
        _signal.signal(_signal.SIGVTALRM, before or _signal.SIG_DFL)
