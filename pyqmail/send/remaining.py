"""What is left of a queued message for another node: recipients, and what must not be lost with them (qmail-q(8))."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import sha256

from pyqmail.formats.facts import FACTS_MAX, NO_FACTS, Facts, RecipientFacts, Transfer, format_facts
from pyqmail.policy import wishes
from pyqmail.policy.classify import Routing, classify, strip_prepend
from pyqmail.send.shares import domain_of
from pyqmail.spool import ending, facts
from pyqmail.spool.channel import read_info
from pyqmail.spool.layout import MARK, Layout
from pyqmail.system import files

LINE_MAX = 1024  # bytes of the first line that tell a message from others of its number


class Unmovable(Exception):
    """It must stay here; the text says why."""


@dataclass(frozen=True, slots=True)
class Remaining:
    """``recipients`` are those not done, as they were before virtualdomains' prefix; none: it is finished here."""

    number: int
    birth: int
    sender: bytes
    facts: Facts
    recipients: tuple[bytes, ...]

    def transfer_facts(self, name: bytes, *, held: bool) -> bytes:
        """The facts that go with it. Raises Unmovable."""
        data = format_facts(replace(self.facts, transfer=Transfer(name, self.birth, held)), self.sender)
        if len(data) > FACTS_MAX:
            raise Unmovable("what its sender wants to hear takes too much room")
        return data

    def in_domains(self, domains: Sequence[bytes]) -> bool:
        """Whether a recipient is in one of ``domains``."""
        return any(domain_of(address) in domains for address in self.recipients)


def read_remaining(layout: Layout, number: int, routing: Routing) -> Remaining:
    """What is left of ``number``, on which nothing else works. Raises Unmovable and OSError."""
    sender, birth = read_info(layout.info(number))
    known = _facts_of(layout, number)
    places = wishes.place(known, routing)
    recipients = []
    for channel in ending.CHANNELS:
        for offset, address in ending.not_done(layout, channel, number):
            original = _original(channel, address, routing)
            said = wishes.at(places, channel, offset, address)
            recipients.append(RecipientFacts(original, said.notify, said.orcpt))
    told = replace(known, recipients=tuple(recipients))
    return Remaining(number, birth, sender, told, tuple(one.address for one in recipients))


def _original(channel: str, address: bytes, routing: Routing) -> bytes:
    """What becomes ``address`` in ``channel``. Raises Unmovable where nothing does any more."""
    boxes = {prepend + b"-" for prepend in routing.virtual.values() if prepend} if channel == "local" else ()
    stripped = (address.removeprefix(box) for box in boxes if address.startswith(box))
    for candidate in (address, strip_prepend(address, routing.virtual), *stripped):
        if classify(candidate, routing) == (channel, address):
            return candidate
    raise Unmovable("control files have changed since it was queued: it would go elsewhere")


def _facts_of(layout: Layout, number: int) -> Facts:
    if not os.stat(layout.mess(number)).st_mode & MARK:
        return NO_FACTS
    try:
        return facts.read(layout, number)
    except facts.FactsLost:
        return NO_FACTS


def transfer_name(queue: bytes, remaining: Remaining, message: int) -> bytes:
    """The name of the transfer of the open ``message``: the same each time, and never another message's.

    Its number is used again, but not with this first line, of this birth, written at the same instant.
    """
    line = os.pread(message, LINE_MAX, 0).partition(b"\n")[0]
    written = os.fstat(message).st_mtime_ns
    words = b"%b %d %d %d " % (queue, remaining.number, remaining.birth, written)
    return sha256(words + line).hexdigest()[:32].encode()


def open_message(layout: Layout, number: int) -> int:
    """A descriptor of its text. Raises OSError."""
    return files.open_read(layout.mess(number))
