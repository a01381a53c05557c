"""Look-ups with three outcomes: records, Absent, or TemporaryFailure. An outage never reads as "there is none".

One object serves all checks of one message: what was asked once is not asked again, and its time and the number of its
questions are bounded together.
"""

from collections.abc import Callable
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
LookUp = Callable[[bytes, Kind], Found]


@dataclass
class CachedLookups:
    """Lookups by ``look_up``, each question once. ``asked`` shows name, kind and outcome in order, for explanations."""

    look_up: LookUp

    def __post_init__(self) -> None:
        self._known: dict[tuple[bytes, Kind], Found] = {}
        self.asked: list[tuple[bytes, Kind, str]] = []

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

    def _answer(self, name: bytes, kind: Kind) -> Answer:
        key = (name.lower().removesuffix(b"."), kind)
        if key not in self._known:
            if len(self._known) >= QUESTIONS_MAX:
                raise TemporaryFailure(f"more than {QUESTIONS_MAX} questions")
            try:
                self._known[key] = self.look_up(*key)
            except OSError as error:  # no socket to ask with
                self._known[key] = SoftFailure(str(error))
            self.asked.append((*key, _outcome(self._known[key])))
        found = self._known[key]
        if isinstance(found, HardFailure):
            raise Absent(no_name=found.no_name)
        if isinstance(found, SoftFailure):
            raise TemporaryFailure(str(found))
        return found


def look_up_within(home: str, budget_s: float) -> LookUp:
    """One question after another to the servers of ``home``, all within ``budget_s``. Raises ControlUnreadable."""
    resolver = Resolver(read_servers(Control(home)), budget_s)

    def look_up(name: bytes, kind: Kind) -> Found:
        return resolver.look_up([(name, kind)])[0]

    return look_up


def _some(records: tuple[T, ...]) -> tuple[T, ...]:
    """``records``, unless there are none."""
    if not records:
        raise Absent
    return records


def _outcome(found: Found) -> str:
    if isinstance(found, HardFailure):
        return "no such name" if found.no_name else "no data"
    return "no answer" if isinstance(found, SoftFailure) else "found"
