"""Look-ups with three outcomes: records, Absent, or TemporaryFailure. An outage never reads as "there is none".

One object serves all checks of one message: what was asked once is not asked again, and its time and the number of its
questions are bounded together.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from pyqmail.control import Control
from pyqmail.protocol.dns import Answer, Kind, Mx
from pyqmail.resolver import Found, HardFailure, Resolver, SoftFailure, read_servers

QUESTIONS_MAX = 120  # for one message: 8 keys, 2 SPF records with all they name, the walks of DMARC


class Absent(Exception):
    """There is no such record; ``no_name``: nor any other under that name."""

    def __init__(self, *, no_name: bool = False) -> None:
        super().__init__(no_name)
        self.no_name = no_name


class TemporaryFailure(Exception):
    """Nobody could say, or there have been too many questions; a later attempt may find out."""


class Lookups(Protocol):
    """What the checks ask. Every method raises Absent and TemporaryFailure; names are absolute."""

    def ahead(self, names: Iterable[bytes]) -> None:
        """Ask for the TXT records of ``names`` together, which will be wanted: one wait in place of several."""

    def texts(self, name: bytes) -> tuple[bytes, ...]:
        """The TXT records of ``name``, the strings of each joined."""

    def addresses(self, name: bytes, kind: Kind) -> tuple[bytes, ...]:
        """The packed A or AAAA addresses of ``name``."""

    def exchangers(self, name: bytes) -> tuple[Mx, ...]:
        """The MX records of ``name``."""

    def names(self, reverse: bytes) -> tuple[bytes, ...]:
        """The PTR records of ``reverse``, a name under in-addr.arpa or ip6.arpa."""

    def associations(self, name: bytes) -> tuple[bytes, ...]:
        """The data of the TLSA records of ``name``."""


T = TypeVar("T")
Question = tuple[bytes, Kind]
LookUp = Callable[[Sequence[Question]], list[Found]]  # what each question found, asked together


@dataclass
class CachedLookups:
    """Lookups by ``look_up``, each question once. ``asked`` shows name, kind and outcome in order, for explanations."""

    look_up: LookUp

    def __post_init__(self) -> None:
        self._known: dict[Question, Found] = {}
        self.asked: list[tuple[bytes, Kind, str]] = []

    def ahead(self, names: Iterable[bytes]) -> None:
        """See Lookups. Never raises."""
        keys = (_key(name, Kind.TXT) for name in names)
        self._ask([key for key in dict.fromkeys(keys) if key not in self._known][: QUESTIONS_MAX - len(self._known)])

    def texts(self, name: bytes) -> tuple[bytes, ...]:
        """See Lookups."""
        return _some(self._answer(name, Kind.TXT).texts)

    def addresses(self, name: bytes, kind: Kind) -> tuple[bytes, ...]:
        """See Lookups."""
        return _some(self._answer(name, kind).addresses)

    def exchangers(self, name: bytes) -> tuple[Mx, ...]:
        """See Lookups."""
        return _some(self._answer(name, Kind.MX).mx)

    def names(self, reverse: bytes) -> tuple[bytes, ...]:
        """See Lookups."""
        return _some(self._answer(reverse, Kind.PTR).names)

    def associations(self, name: bytes) -> tuple[bytes, ...]:
        """See Lookups."""
        return _some(self._answer(name, Kind.TLSA).associations)

    def _ask(self, keys: Sequence[Question]) -> None:
        if not keys:
            return
        try:
            answers = self.look_up(keys)
        except OSError as error:  # no socket to ask with
            answers = [SoftFailure(str(error))] * len(keys)
        for key, found in zip(keys, answers, strict=True):
            self._known[key] = found
            self.asked.append((*key, _outcome(found)))

    def _answer(self, name: bytes, kind: Kind) -> Answer:
        key = _key(name, kind)
        if key not in self._known:
            if len(self._known) >= QUESTIONS_MAX:
                raise TemporaryFailure(f"more than {QUESTIONS_MAX} questions")
            self._ask([key])
        found = self._known[key]
        if isinstance(found, HardFailure):
            raise Absent(no_name=found.no_name)
        if isinstance(found, SoftFailure):
            raise TemporaryFailure(str(found))
        return found


def look_up_within(home: str, budget_s: float) -> LookUp:
    """Questions to the servers of ``home``, all within ``budget_s``. Raises ControlUnreadable."""
    return Resolver(read_servers(Control(home)), budget_s).look_up


def _key(name: bytes, kind: Kind) -> Question:
    return name.lower().removesuffix(b"."), kind


def _some(records: tuple[T, ...]) -> tuple[T, ...]:
    """``records``, unless there are none."""
    if not records:
        raise Absent
    return records


def _outcome(found: Found) -> str:
    if isinstance(found, HardFailure):
        return "no such name" if found.no_name else "no data"
    return "no answer" if isinstance(found, SoftFailure) else "found"
