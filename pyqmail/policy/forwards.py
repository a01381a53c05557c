"""What a forward has of the facts of its message: how it may travel, and what its sender wants to hear.

RFC 3461 section 5.2.7, by the sender that the forward has. One of its own, a list's, is told instead of the first, and
nothing of the first one's wishes goes on (5.2.7.1, and 5.2.7.4 for addresses that nobody shall learn). Else all of them
go on with an only forward (5.2.7.2), and without SUCCESS where the message goes elsewhere too (5.2.7.3 c).
"""

from collections.abc import Sequence
from dataclasses import replace

from pyqmail.formats.facts import (
    ACCEPTED_MAX,
    NEVER,
    NO_FACTS,
    SUCCESS,
    Facts,
    FactsError,
    RecipientFacts,
    format_facts,
    parse_facts,
)


def how_it_travels(facts: Facts, sender: bytes) -> bytes:
    """Those of ``facts`` that every forward by ``sender`` has to have; none where there are none."""
    return format_facts(Facts(smtputf8=facts.smtputf8, requiretls=facts.requiretls), sender)


def wishes_for(facts: Facts, one: RecipientFacts, sender: bytes) -> bytes:
    """What ``sender`` wants to hear of a delivery to ``one``; none where it said nothing."""
    return format_facts(Facts(facts.ret, facts.envid, recipients=(one,)), sender)


def facts_of_forward(travel: bytes, wishes: bytes, sender: bytes, recipients: Sequence[bytes], *, alone: bool) -> bytes:
    """The facts of what ``sender`` forwards to ``recipients``, of what the functions above have made.

    ``alone``: the one recipient is all that becomes of the message. Where these would be more than ACCEPTED_MAX, ORCPT
    is left out, and then all wishes. Bytes that are no facts say nothing.
    """
    how, asked = _parse(travel), _parse(wishes)
    one = asked.recipients[0] if asked.recipients else RecipientFacts(b"")
    notify = one.notify if alone or SUCCESS not in one.notify else one.notify - {SUCCESS} or frozenset({NEVER})
    bare = Facts(smtputf8=how.smtputf8, requiretls=how.requiretls)
    for orcpt in (one.orcpt, b""):
        told = tuple(RecipientFacts(each, notify, orcpt) for each in recipients)
        data = format_facts(replace(bare, ret=asked.ret, envid=asked.envid, recipients=told), sender)
        if len(data) <= ACCEPTED_MAX:
            return data
    return format_facts(bare, sender)


def _parse(data: bytes) -> Facts:
    try:
        return parse_facts(data)
    except FactsError:
        return NO_FACTS
