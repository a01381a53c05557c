"""What the sender of a message wants to hear of each of its recipients (RFC 3461).

Facts name recipients as todo/N had them, in their order, and so did who made local/N and remote/N. Classified once more
they have the same places there. A place where another address stands now (the routing has changed) is not believed: of
such a recipient nothing was said, rather than what was said of another one.
"""

from collections.abc import Mapping
from dataclasses import replace

from pyqmail.formats.facts import FAILURE, NEVER, Facts, RecipientFacts
from pyqmail.policy.classify import Routing, classify, strip_prepend

Places = Mapping[tuple[str, int], RecipientFacts]  # by channel and offset; the address is that of the channel


def place(facts: Facts, routing: Routing) -> Places:
    """The recipients of ``facts`` where they are in the channel files. Equal addresses want what any of them wants."""
    places: dict[tuple[str, int], RecipientFacts] = {}
    offsets = {"local": 0, "remote": 0}
    wanted: dict[tuple[str, bytes], list[frozenset[bytes]]] = {}
    for one in facts.recipients:
        channel, address = classify(one.address, routing)
        places[channel, offsets[channel]] = replace(one, address=address)
        offsets[channel] += len(address) + 2
        wanted.setdefault((channel, address), []).append(one.notify)
    return {
        (channel, offset): replace(one, notify=_united(wanted[channel, one.address]))
        for (channel, offset), one in places.items()
    }


def _united(wanted: list[frozenset[bytes]]) -> frozenset[bytes]:
    """None where nobody said any: a NOTIFY that did not come does not go on (RFC 3461 section 5.2.1)."""
    if not any(wanted):
        return frozenset()
    words = frozenset[bytes]().union(*(one or {FAILURE} for one in wanted))
    return words - {NEVER} or frozenset({NEVER})


def at(places: Places, channel: str, offset: int, address: bytes) -> RecipientFacts:
    """What was said of the recipient ``address`` at ``offset`` of its channel."""
    found = places.get((channel, offset))
    return found if found is not None and found.address == address else RecipientFacts(address)


def by_address(places: Places, channel: str) -> dict[bytes, RecipientFacts]:
    """What was said of the recipients of ``channel``, by address."""
    return {one.address: one for (name, _), one in places.items() if name == channel}


def named_first(places: Places, virtual: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
    """The ORCPT of each recipient that has one, by the address that bounces know it by."""
    return {strip_prepend(one.address, virtual): one.orcpt for one in places.values() if one.orcpt}
