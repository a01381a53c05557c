"""Taking over what dead nodes had, `qmail-shadowd --adopt`, and what the queue of this one has lost (qmail-shadowd(8)).

    adopt     the rows of a node whose lease is over become ours, in one transaction, and what it must not deliver any
              more when it comes back is kept for it
    take in   each goes into our own queue, with the recipients that are left, and so has a copy of its own; then its
              old row is removed

Whatever dies in between, what is ours and in no queue yet is taken in by the next call. The queue takes each row once,
as it does a message that another node sends (spool/transfers), and keeps its age; it believes that of qmaild and of
qmail-shadowd alone.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from uuid import UUID

from pyqmail.formats.facts import (
    FACTS_MAX,
    NO_FACTS,
    FactsError,
    RecipientFacts,
    Transfer,
    format_facts,
    parse_facts,
)
from pyqmail.formats.todo import Todo, UnknownRecord, parse_todo
from pyqmail.intake.client import FACTS, Injection
from pyqmail.shadow.lease import MARGIN
from pyqmail.shadow.nodes import Adopted, Nodes
from pyqmail.shadow.store import Node, Refused


class Torn(Exception):
    """A part of a message has gone."""


class NoLease(Exception):
    """This node has no lease, and so may own nothing."""


def adopt(
    nodes: Nodes, home: str, queue: str, names: Sequence[str], lease_s: int
) -> tuple[list[tuple[str, int]], int, str]:
    """Adopt what dead nodes have, all or those of ``names``, and put it into the queue of ``home``.

    Each node with the number of its messages, how many are in the queue now, and what is to be said of messages whose
    owner is no node. Raises Away, NoLease and Refused.
    """
    node = nodes.own(queue)
    if node is None:
        raise NoLease("this node has no lease: is qmail-shadowd running?")
    found = nodes.adopt(node, names)
    return found, take_in_all(nodes, node, home), _without_node(nodes, names, lease_s * (1 + MARGIN))


def _without_node(nodes: Nodes, names: Sequence[str], seconds: float) -> str:
    """Make those of ``names`` nodes again that have messages and no row, for so long; without names: who they are.

    One that lives has believed in its lease since the row went, so that none may be adopted before that could be over.
    """
    unknown = nodes.unknown()
    named = [owner for owner, _ in unknown if owner in names]
    for owner in named:
        nodes.know_again(owner, seconds)
    if named:
        return f"{named[0]} had no row in shadow_node, and has a lease now: adopt it again in {seconds:.0f} seconds"
    if names or not unknown:
        return ""
    count = sum(number for _, number in unknown)
    return f"{count} messages are of owners without a row in shadow_node: qmail-shadowd --adopt {unknown[0][0]}"


def take_in_all(nodes: Nodes, node: Node, home: str) -> int:
    """Put into the queue of ``home`` what is to be taken in: how many. Raises Away, Refused and OSError.

    A row without an envelope, or without all parts, stays, and keeps no other from being taken in.
    """
    count, unreadable = 0, list[str]()

    def take(adopted: Adopted) -> bool:
        try:
            _inject(home, adopted, parse_todo(adopted.envelope))
        except (UnknownRecord, Torn):
            unreadable.append(adopted.identity)
            return False
        return True

    while (taken := nodes.take_in(node, take, unreadable)) is not None:
        count += taken
    if unreadable:
        raise Refused(f"{len(unreadable)} rows are not whole, the first is {unreadable[0]}")
    return count


def _inject(home: str, adopted: Adopted, todo: Todo) -> None:
    """Put one into the queue, if anybody is left to deliver it to. Raises Refused and Torn."""
    recipients = remaining(todo.recipients, adopted.done)
    if not recipients:
        return
    transfer = Transfer(UUID(adopted.identity).hex.encode(), adopted.birth)
    facts = facts_of_rest(adopted.facts, todo.sender, recipients, transfer)
    injection = Injection.open(home, {FACTS: facts}, warm=True)
    size = 0
    for part in adopted.parts:
        injection.write(part)
        size += len(part)
    if size != adopted.size:
        injection.abort()
        raise Torn
    answer = injection.close(todo.sender, recipients)
    if answer.status:
        raise Refused(f"qmail-queue says {answer.letter_text()[1].decode()} of {adopted.identity}")


def remaining(recipients: Sequence[bytes], done: Sequence[bytes]) -> list[bytes]:
    """``recipients`` less one for each of ``done``, in their order."""
    marks = Counter(done)
    left = []
    for recipient in recipients:
        if marks[recipient]:
            marks[recipient] -= 1
        else:
            left.append(recipient)
    return left


def facts_of_rest(data: bytes, sender: bytes, recipients: Sequence[bytes], transfer: Transfer) -> bytes:
    """What the facts ``data`` say of these recipients alone, and that they come by ``transfer`` (formats/facts).

    That is never left out, or the queue might take it twice: ORCPT is, where an older build has accepted so many facts
    that there is no room for all, and then all that is said of recipients.
    """
    try:
        facts = parse_facts(data) if data else NO_FACTS
    except FactsError:
        facts = NO_FACTS
    known = {one.address: one for one in facts.recipients}
    rest = tuple(known.get(address, RecipientFacts(address)) for address in recipients)
    bare = tuple(replace(one, orcpt=b"") for one in rest)
    for told in (rest, bare):
        made = format_facts(replace(facts, recipients=told, transfer=transfer), sender)
        if len(made) <= FACTS_MAX:
            return made
    return format_facts(replace(facts, recipients=(), transfer=transfer), sender)
