"""What comes of an order of qmail-q(8), and how one message is ended by order; with and without a qmail-send."""

import os
from collections.abc import Callable

from pyqmail.policy.classify import Routing
from pyqmail.send.holds import BOUNCE, MOVED
from pyqmail.spool import ending
from pyqmail.spool.history import History
from pyqmail.spool.layout import Layout
from pyqmail.system import files

Answer = Callable[[dict[int, str], str], None]  # per message what came of it; what failed as a whole, or ""

DONE = "done"
UNKNOWN = "unknown"
DELIVERING = "delivering"
PENDING = "pending"  # ordered, and done when its deliveries have reported
HELD = "held"
ENDING = "ending"  # somebody ordered to delete or bounce it
BUSY = "busy"  # not preprocessed yet, or its bounce is being queued
NOT_HELD = "not held"
FENCED = "fenced"  # it has a copy, and another node may deliver it by now
NO_PLACE = "queue/pyqmail is missing or not writable: run qmail-setup"


def bounce_report(reply: bytes) -> bytes:
    """What the paragraph of a recipient says whose message an administrator returns."""
    text = b"The administrator of this mail system returned your message before it could be delivered.\n"
    return text + (b"The last attempt was answered: " + reply + b"\n" if reply else b"")


def set_due(layout: Layout, channel: str, number: int, now: int) -> None:
    """Write into the channel file that it is due at ``now``, if there is one. Raises no OSError: it is a hint."""
    try:
        files.set_times(layout.part(channel, number), now)
    except OSError:
        return


def _unwanted(layout: Layout, number: int, routing: Routing) -> Callable[[str, int, bytes], bool]:
    """Whether the sender of ``number`` does not want to hear that a recipient has failed. In doubt it is told."""
    if not os.path.lexists(layout.facts(number)):
        return ending.always_told
    from pyqmail.formats.facts import FAILURE  # few messages have any
    from pyqmail.policy import wishes
    from pyqmail.spool import facts

    try:
        places = wishes.place(facts.read(layout, number), routing)
    except (facts.FactsLost, OSError):
        return ending.always_told
    return lambda channel, offset, address: not wishes.at(places, channel, offset, address).wants(FAILURE)


def end_message(
    layout: Layout,
    history: History,
    number: int,
    order: tuple[bytes, int],
    routing: Routing,
) -> bool:
    """Carry out ``order`` on a message that nothing else works on; False if a file would not let us."""
    kind, birth = order

    def report(channel: str, offset: int) -> bytes:
        note = history.read(channel, number, birth)
        return bounce_report(note.replies.get(offset, b"") if note is not None else b"")

    try:
        if kind == BOUNCE:
            ending.fail_recipients(layout, number, routing.virtual, report, _unwanted(layout, number, routing))
        elif kind == MOVED:
            ending.drop_recipients(layout, number)
        else:
            ending.remove_message(layout, number)
    except OSError:
        return False
    for channel in ending.CHANNELS:
        history.forget(channel, number)
    return True
