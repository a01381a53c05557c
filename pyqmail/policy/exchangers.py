"""Which addresses may take the mail for a host, in which order (qmail-remote(8), RFC 5321 section 5.1).

    literal          that address, no DNS
    no MX records    the addresses of the host itself, preference 0
    MX records       by preference, equals in random order, each with its addresses in the order received

An address of our own, and everything not preferred to it, is left out: we are the backup there, and mail would loop.
"""

import random
from collections.abc import Iterable
from dataclasses import dataclass

from pyqmail.protocol.dns import Kind, parse_literal, settle_mapped
from pyqmail.resolver import HardFailure, Resolver, SoftFailure


@dataclass(frozen=True, slots=True)
class Candidate:
    """A packed address that may take the mail, and the preference of its MX."""

    packed: bytes
    preference: int


class Exchangers:
    """Look-ups for one delivery. ``ipv6``: this machine reaches IPv6, so AAAA is asked even where A records exist."""

    def __init__(self, resolver: Resolver, *, ipv6: bool, prefer_ipv4: bool = True) -> None:
        self._resolver = resolver
        self._ipv6 = ipv6
        self._prefer_ipv4 = prefer_ipv4

    def of_relay(self, relay: bytes) -> list[Candidate]:
        """The addresses of ``relay``, without a look at MX. Raises HardFailure and SoftFailure."""
        return [Candidate(packed, 0) for packed in self._addresses(relay)]

    def of_host(self, host: bytes) -> list[Candidate]:
        """The addresses for mail to ``host``; empty when it has MX records but nobody behind them.

        Raises HardFailure and SoftFailure.
        """
        if parse_literal(host) is not None:
            return self.of_relay(host)
        try:
            records = self._resolver.mx(host)
        except HardFailure:
            return self.of_relay(host)
        found: list[Candidate] = []
        soft: SoftFailure | None = None
        for record in sorted(records, key=lambda mx: (mx.preference, random.random())):
            if not record.exchanger:
                continue  # null MX (RFC 7505): nobody; the root is not asked for an address
            # Odd but faithful: an exchanger in dotted decimal has preference 0 whatever its record says.
            preference = 0 if parse_literal(record.exchanger) else record.preference
            try:
                found += [Candidate(packed, preference) for packed in self._addresses(record.exchanger)]
            except HardFailure:
                continue
            except SoftFailure as failure:
                soft = failure
        if soft and not found:
            raise soft
        return found

    def _addresses(self, name: bytes) -> list[bytes]:
        """The packed addresses of ``name``, a literal or a host name. Raises HardFailure and SoftFailure.

        AAAA records are asked for where this machine has IPv6 or where there is no A record: a host without IPv4 must
        not bounce because our own IPv6 is down. They decide nothing else: A records count alone if AAAA fails.
        """
        literal = parse_literal(name)
        if literal is not None:
            return [literal]
        hard: HardFailure | None = None
        four: tuple[bytes, ...] = ()
        try:
            four = self._resolver.addresses(name, Kind.A)
        except HardFailure as failure:
            if failure.no_name:
                raise
            hard = failure
        six: tuple[bytes, ...] = ()
        if self._ipv6 or not four:
            try:
                six = self._resolver.addresses(name, Kind.AAAA)
            except HardFailure:
                six = ()
            except SoftFailure:
                if not four:
                    raise
        if hard and not six:
            raise hard
        ordered = (*four, *six) if self._prefer_ipv4 else (*six, *four)
        return [settle_mapped(packed) for packed in ordered]


def spare_ourselves(candidates: Iterable[Candidate], local: frozenset[bytes]) -> list[Candidate]:
    """Those of ``candidates`` that are preferred to every address of this machine; empty: we are the best ourselves."""
    candidates = list(candidates)
    ours = [candidate.preference for candidate in candidates if candidate.packed in local]
    if not ours:
        return candidates
    best = min(ours)
    return [candidate for candidate in candidates if candidate.preference < best]
