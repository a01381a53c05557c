"""Which addresses may take the mail for a host, in which order (qmail-remote(8), RFC 5321 section 5.1).

    literal          that address, no DNS
    no MX records    the addresses of the host itself, preference 0
    MX records       by preference, equals in random order; the addresses of one exchanger as RFC 6724 orders them

An address of our own, and everything not preferred to it, is left out: we are the backup there, and mail would loop.
Exchangers are looked up one preference after another, and only while somebody still wants an address; all of one
preference together.
"""

import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from pyqmail.policy.interfaces import source_address
from pyqmail.protocol.dns import Kind, Mx, parse_literal
from pyqmail.protocol.packed_address import settle_mapped
from pyqmail.remote import address_order
from pyqmail.remote.address_order import SourceOf
from pyqmail.resolver import Found, HardFailure, Resolver, SoftFailure

NOT_LIMITED = 1 << 16  # above every preference


class NoExchanger(Exception):
    """There are MX records or an answer, but no address behind them."""


class NullExchanger(NoExchanger):
    """The one MX record says that nobody takes mail for the host (RFC 7505)."""


class OnlyOurselves(Exception):
    """This machine is the most preferred, or as good as the most preferred, of all addresses."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A packed address that may take the mail, the preference of its MX, and the name it was found by.

    ``rival``: an address of that name in the other family, to be tried at the same time; it comes by itself, too.
    """

    packed: bytes
    preference: int
    name: bytes
    rival: bytes = b""


def nobodys(packed: bytes) -> bool:
    """The answer of a relay: mail to it is no loop, whatever ``packed`` is."""
    return False


class Exchangers:
    """Look-ups for one delivery.

    ``ipv6``: this machine reaches IPv6, so AAAA is asked even where A records exist. ``is_own``: whether a packed
    address is this machine; `nobodys` where mail to it is no loop.
    """

    def __init__(
        self,
        resolver: Resolver,
        *,
        ipv6: bool,
        prefer_ipv4: bool = False,
        is_own: Callable[[bytes], bool] = nobodys,
        source_of: SourceOf = source_address,
    ) -> None:
        self._resolver = resolver
        self._ipv6 = ipv6
        self._prefer_ipv4 = prefer_ipv4
        self._is_own = is_own
        self._source_of = source_of

    def of_relay(self, relay: bytes) -> Iterator[Candidate]:
        """The addresses of ``relay``, without a look at MX. Raises as `of_host`."""
        return self._spared([[Mx(0, relay)]], hard=True)

    def of_host(self, host: bytes) -> Iterator[Candidate]:
        """The addresses for mail to ``host``, at least one.

        Raises HardFailure, SoftFailure, NoExchanger, NullExchanger, OnlyOurselves and OSError, each before the first
        address.
        """
        if parse_literal(host) is not None:
            yield from self.of_relay(host)
            return
        try:
            records = self._resolver.mx(host)
        except HardFailure:
            yield from self.of_relay(host)
            return
        if len(records) == 1 and not records[0].exchanger:
            raise NullExchanger
        # Beside others the root is nobody, and not asked for an address.
        named = sorted((mx for mx in records if mx.exchanger), key=lambda mx: (mx.preference, random.random()))
        groups = [list(group) for _, group in itertools.groupby(named, key=lambda mx: mx.preference)]
        yield from self._spared(groups)

    def _spared(self, groups: Sequence[Sequence[Mx]], *, hard: bool = False) -> Iterator[Candidate]:
        """The addresses behind ``groups`` that are preferred to every address of this machine.

        ``hard``: a HardFailure of the only exchanger is the answer, not one exchanger less.
        """
        # Odd but faithful: an exchanger in dotted decimal has preference 0 whatever its record says.
        literals = {parse_literal(mx.exchanger) for group in groups for mx in group}
        limit = 0 if any(literal is not None and self._is_own(literal) for literal in literals) else NOT_LIMITED
        ours = limit == 0
        given = False
        soft: SoftFailure | None = None
        for group in groups:
            wanted = [mx for mx in group if mx.preference < limit or parse_literal(mx.exchanger) is not None]
            candidates, failures = self._look_up(wanted)
            if hard and isinstance(failures[0], HardFailure):
                raise failures[0]
            soft = next((failure for failure in failures if isinstance(failure, SoftFailure)), soft)
            mine = [candidate.preference for candidate in candidates if self._is_own(candidate.packed)]
            ours = ours or bool(mine)
            limit = min([limit, *mine])
            for candidate in candidates:
                if candidate.preference < limit:
                    given = True
                    yield candidate
        if given:
            return
        if soft:  # also when we are listed: who is preferred to us could not be found out
            raise soft
        raise OnlyOurselves if ours else NoExchanger

    def _look_up(self, group: Sequence[Mx]) -> tuple[list[Candidate], list[Exception | None]]:
        """The addresses of all exchangers in ``group``, in their order, and the failure of each or None."""
        candidates: list[Candidate] = []
        failures: list[Exception | None] = []
        names = [mx.exchanger for mx in group if parse_literal(mx.exchanger) is None]
        found = iter(self._addresses(names))
        for mx in group:
            literal = parse_literal(mx.exchanger)
            got = [literal] if literal is not None else next(found)
            if isinstance(got, Exception):
                failures.append(got)
                continue
            failures.append(None)
            preference = mx.preference if literal is None else 0
            rival = next((other for other in got if len(other) != len(got[0])), b"")
            candidates += [
                Candidate(packed, preference, mx.exchanger, b"" if at else rival) for at, packed in enumerate(got)
            ]
        return candidates, failures

    def _addresses(self, names: Sequence[bytes]) -> list[list[bytes] | HardFailure | SoftFailure]:
        """The packed addresses of each of ``names`` in the order to try them, or its failure.

        AAAA records are asked for where this machine has IPv6 or where there is no A record: a host without IPv4 must
        not bounce because our own IPv6 is down. They decide nothing else: A records count alone if AAAA fails.
        """
        kinds = (Kind.A, Kind.AAAA) if self._ipv6 else (Kind.A,)
        together = self._resolver.look_up([(name, kind) for kind in kinds for name in names])
        fours, sixes = together[: len(names)], list(together[len(names) :])
        if not self._ipv6:
            lacking = [name for name, four in zip(names, fours, strict=True) if _lacks(four)]
            later = iter(self._resolver.look_up([(name, Kind.AAAA) for name in lacking]) if lacking else ())
            sixes = [next(later) if _lacks(four) else HardFailure("not asked") for four in fours]
        return [self._ordered(four, six) for four, six in zip(fours, sixes, strict=True)]

    def _ordered(self, four: Found, six: Found) -> list[bytes] | HardFailure | SoftFailure:
        if isinstance(four, SoftFailure) or (isinstance(four, HardFailure) and four.no_name):
            return four
        addresses = () if isinstance(four, HardFailure) else four.addresses
        if isinstance(six, SoftFailure) and not addresses:
            return six
        if not isinstance(six, Exception):
            addresses += six.addresses
        if isinstance(four, HardFailure) and not addresses:
            return four
        settled = [settle_mapped(packed) for packed in addresses]
        return address_order.ipv4_first(settled) if self._prefer_ipv4 else address_order.order(settled, self._source_of)


def _lacks(four: Found) -> bool:
    """Whether there may be a host here that has no IPv4 address."""
    if isinstance(four, HardFailure):
        return not four.no_name
    return not isinstance(four, SoftFailure) and not four.addresses
