"""qmail-q xfer: all that is queued here goes to another node, message by message (qmail-q(8)).

    taken        qmail-send starts nothing more of it, and what runs has reported
    sent         the other node has it in its queue, and says so
    moved        by order, on disk first: it has no recipients left here

Whoever dies in between, the message is on at least one side: what was sent and is not marked is sent again under the
same name, which the other node knows, or delivered from here, as any delivery is repeated whose mark was lost.
"""

import os
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Protocol

from pyqmail.control import Control
from pyqmail.policy.classify import Routing
from pyqmail.policy.transfer_peers import TransferPeer, parse_peers
from pyqmail.protocol import control
from pyqmail.protocol.control import Request
from pyqmail.remote.transfer import PeerUnreachable, TransferConnection
from pyqmail.send import order_states
from pyqmail.send.control_client import QueueError
from pyqmail.send.controls import read_controls
from pyqmail.send.remaining import Remaining, Unmovable, open_message, read_remaining, transfer_name
from pyqmail.shadow.identity import read_queue_id
from pyqmail.spool import queue_view
from pyqmail.spool.layout import Layout
from pyqmail.stream.stream import StreamEnded
from pyqmail.system.process import Acting
from pyqmail.system.progress import told

STILL_S = 300.0  # without a message that could be moved, before what is busy is left behind
LOOK_AGAIN_S = 0.5
ADDRESS_MAX = 999  # bytes; QMTP carries no longer one
WAITING = {  # what comes free, perhaps
    order_states.BUSY: "is being delivered, or is new",
    order_states.DELIVERING: "is being delivered, or is new",
    order_states.FENCED: "has a copy, and only a qmail-send that has a lease may let it go (qmail-shadowd(8))",
}
FREE = (order_states.DONE, order_states.HELD)


class Queue(Protocol):
    """A running qmail-send, or the files of a stopped one."""

    def act(self, request: Request) -> tuple[dict[int, str], str]:
        """What came of each message, and what failed as a whole. Raises QueueError and OSError."""


class Draining:
    """One run. ``connect`` makes a connection to the other node, and raises PeerUnreachable."""

    def __init__(
        self,
        layout: Layout,
        queue: Queue,
        routing: Routing,
        identity: bytes,
        held_domains: Sequence[bytes],
        connect: Callable[[], TransferConnection],
    ) -> None:
        self._layout = layout
        self._queue = queue
        self._routing = routing
        self._identity = identity
        self._held_domains = held_domains
        self._connect = connect
        self._peer = connect()
        self.moved = 0
        self.left: dict[int, str] = {}  # what stays, and why
        self._stays: dict[int, str] = {}  # for good: it is not offered again

    def run(self) -> None:
        """Move what can be moved, until nothing is left or nothing more comes free.

        Raises QueueError, PeerUnreachable and OSError.
        """
        until = time.monotonic() + STILL_S
        while True:
            before, self.left = self.moved, dict(self._stays)
            busy = False
            for number in told(queue_view.numbers(self._layout), "moving the queue"):
                busy |= self._try(number)
            if self.moved > before:
                until = time.monotonic() + STILL_S
            elif not busy or time.monotonic() > until:
                return
            else:
                time.sleep(LOOK_AGAIN_S)

    def _try(self, number: int) -> bool:
        """Move ``number``; whether it was too busy for that."""
        if number in self._stays:
            return False
        state = self._order(Request(control.TAKE, (number,))).get(number, order_states.UNKNOWN)
        if state in WAITING:
            self.left[number] = WAITING[state]
            return True
        if state not in FREE:
            return False
        try:
            message = open_message(self._layout, number)
            try:
                self._move(number, message, held=state == order_states.HELD)
            finally:
                os.close(message)
        except Unmovable as reason:
            self.left[number] = self._stays[number] = str(reason)
        return False

    def _move(self, number: int, message: int, *, held: bool) -> None:
        remaining = read_remaining(self._layout, number, self._routing)
        if not remaining.recipients:
            return
        if any(len(address) > ADDRESS_MAX for address in (remaining.sender, *remaining.recipients)):
            raise Unmovable("it has an address that QMTP does not carry")
        held = held or remaining.in_domains(self._held_domains)
        facts = remaining.transfer_facts(transfer_name(self._identity, remaining, message), held=held)
        answers = self._send(remaining, message, facts)
        refusal = next((answer for answer in answers if answer[:1] != b"K"), None)
        if refusal is not None:
            raise Unmovable(f"{self._peer.name} says: {refusal[1:].decode('utf-8', 'replace')}")
        request = Request(control.MOVED, (number,), what=self._peer.name)
        if self._order(request).get(number) == order_states.DONE:
            self.moved += 1

    def _send(self, remaining: Remaining, message: int, facts: bytes) -> list[bytes]:
        """Offer it, once more on a new connection where the old one breaks: the name of the transfer is the same."""
        size = os.fstat(message).st_size
        for last in (False, True):
            try:
                return self._peer.send(facts, message, size, remaining.sender, remaining.recipients)
            except StreamEnded:
                self._peer.close()
                if last:
                    raise PeerUnreachable(f"{self._peer.name} hung up twice over msg {remaining.number}") from None
                self._peer = self._connect()
        raise AssertionError

    def _order(self, request: Request) -> dict[int, str]:
        states, trouble = self._queue.act(request)
        if trouble:
            raise QueueError(trouble)
        return states

    def close(self) -> None:
        """Hang up."""
        self._peer.close()


def peers_of(home: str, node: str | None) -> list[TransferPeer]:
    """The nodes to try, one after another: ``node``, or all of control/xferpeers but this host. Raises QueueError, and
    ControlUnreadable."""
    files = Control(home)
    here = (files.me() or b"").lower()
    if node is not None and os.fsencode(node).lower() == here:
        raise QueueError(f"{node} is this host")  # to itself it would move all until a message has too many hops
    peers = [peer for peer in parse_peers(files.lines("xferpeers") or ()) if peer.name != here]
    found = [peer for peer in peers if node is None or peer.name == os.fsencode(node).lower()]
    if not found:
        raise QueueError(f"control/xferpeers has no {node or 'other node'}")
    return found


def connect_first(home: str, peers: Sequence[TransferPeer]) -> TransferConnection:
    """A connection to the first of ``peers`` that answers. Raises PeerUnreachable of the last one."""
    for place, peer in enumerate(peers, 1):
        try:
            with Acting(0, 0):  # where we are root: the key is not qmail-send's to read
                return TransferConnection(home, peer)
        except PeerUnreachable:
            if place == len(peers):
                raise
    raise AssertionError


def drain(home: str, layout: Layout, queue: Queue, held_domains: Sequence[bytes], node: str | None) -> Draining:
    """Move everything; what came of it. Raises QueueError, ControlUnreadable and OSError."""
    peers = peers_of(home, node)
    try:
        draining = Draining(
            layout,
            queue,
            read_controls(home).routing,
            read_queue_id(layout.private + "/id").encode(),
            held_domains,
            lambda: connect_first(home, peers),
        )
        with closing(draining):
            draining.run()
        return draining
    except PeerUnreachable as error:
        raise QueueError(str(error)) from None
    except ValueError as error:
        raise QueueError(f"queue/pyqmail/id: {error}") from None
