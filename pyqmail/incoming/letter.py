"""One message as it comes in: its envelope, its size and hops, and the way of its text into the queue.

The text goes to the queue as it arrives. Only where a check wants the whole message is it held until the verdict
(incoming/holding).
"""

import time
from collections.abc import Iterator, Mapping

from pyqmail.exits import QueueExit
from pyqmail.formats.hops import HopCounter
from pyqmail.formats.received import format_network_received
from pyqmail.incoming.client import Client
from pyqmail.incoming.completion import Completion
from pyqmail.incoming.holding import Holding, NoRoom
from pyqmail.incoming.refusals import NO_ROOM
from pyqmail.intake.client import Answer, Injection
from pyqmail.protocol.reply import Reply

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyqmail.incoming.letter_facts import LetterFacts

RECIPIENTS_MAX = 8388608  # bytes that the recipients of one message may take, 64 for each besides its own
HOPS_MAX = 100  # this many Received and Delivered-To lines are a loop

# What Received shows of a client whose address is nobody's business.
HIDDEN = {b"TCPREMOTEHOST": b"client", b"TCPREMOTEIP": b"hidden"}


class TooManyRecipients(Exception):
    """More than a session may have in memory."""


class Letter:
    """From its sender to the queue's answer. Once ``open`` was called every path ends in ``close`` or ``abort``."""

    refusal: Reply | None = None  # known before its end: of its sender, or of more than there is room for
    facts: "LetterFacts | None" = None  # what was said of it beside its envelope, if anything was
    size = 0  # bytes of text, without what is put before it
    held: Holding | None = None  # the whole text, where a check wants it
    _recipient_bytes = 0
    _head = b""  # lines that go before the message
    _completion: Completion | None = None
    _forged = b""  # whose Authentication-Results are left out
    _injection: Injection | None = None
    _waiting: tuple[str, dict[bytes, bytes]] | None = None  # home and environ of a program not yet started

    def __init__(self, limit: int, sender: bytes = b"", parameters: bytes = b"") -> None:
        self.sender = sender
        self.parameters = parameters  # of MAIL, as they came
        self.recipients: list[bytes] = []
        self.evidence: list[tuple[bytes, bytes]] = []  # what the checks have found out, for the decision line
        self.hops = HopCounter()  # fed by who reads the protocol: by SMTP a line counts with its dot
        self._limit = limit  # bytes, 0 for none

    def add(self, recipient: bytes) -> None:
        """One more recipient. Raises TooManyRecipients."""
        self.recipients.append(recipient)
        self._recipient_bytes += len(recipient) + 64
        if self._recipient_bytes > RECIPIENTS_MAX:
            raise TooManyRecipients

    def take_back(self) -> None:
        """Without the last recipient."""
        self._recipient_bytes -= len(self.recipients.pop()) + 64

    def open(
        self,
        home: str,
        environ: Mapping[bytes, bytes],
        client: Client,
        protocol: bytes,
        *,
        hold: bool = False,
        hide: bool = False,
    ) -> None:
        """Let the text come. ``protocol`` is the word for Received, which with ``hide`` does not show the client.

        Raises OSError without descriptors or processes.
        """
        if hold and b"QMAILQUEUE" in environ:
            self._waiting = (home, dict(environ))
        else:
            self._injection = Injection.open(home, environ, warm=True)
        shown, helo = ({**HIDDEN, **local_names(environ)}, None) if hide else (environ, client.helo)
        self._head = format_network_received(protocol, shown, helo, time.time())
        if hold:
            self.held = Holding(home)

    def prepend(self, lines: bytes) -> None:
        """Put header ``lines`` before the message, above our Received; only until the first byte has left."""
        self._head = lines + self._head

    def without_results_of(self, name: bytes) -> None:
        """Leave out Authentication-Results fields that claim to be ``name``'s (RFC 8601 section 5); of a held text."""
        self._forged = name

    def tell_program(self, name: bytes, value: bytes) -> None:
        """Let a program in QMAILQUEUE find ``value`` in its environment; of a held text, before it is closed."""
        if self._waiting is not None:
            self._waiting[1][name] = value

    def complete(self, host: bytes) -> None:
        """Let it have a Date and a Message-ID; ``host`` is the latter's."""
        self._completion = Completion(host)

    def write(self, text: bytes) -> None:
        """Some of the message, LF line ends, its hops counted. What can no longer be accepted is not kept. Never
        raises."""
        self.size += len(text)
        if self.oversized or self.looping:
            self.fail()
        elif self.held is not None:
            self._hold(self.held, text)
        elif self._injection is not None and (text or self._head):
            self._pass_on(text)

    def take(self, text: bytes) -> None:
        """As ``write``, and count the hops."""
        self.hops.feed(text)
        self.write(text)

    def _hold(self, held: Holding, text: bytes) -> None:
        try:
            held.write(text)
        except NoRoom:
            self.refusal = NO_ROOM
            self.fail()

    @property
    def oversized(self) -> bool:
        """Whether it is larger than databytes allows."""
        return 0 < self._limit < self.size

    @property
    def looping(self) -> bool:
        """Whether it has passed through too many hosts, or one too often."""
        return self.hops.count >= HOPS_MAX

    def fail(self) -> None:
        """Whatever comes, the queue will not have it."""
        self._waiting = None
        if self._injection is not None:
            self._injection.fail()
        self._let_go()

    def close(self) -> Answer:
        """Queue it, unless it has failed; what the queue says. Never raises."""
        if self._injection is None and not self._start():
            return Answer(QueueExit.NO_MEMORY, 0)
        assert self._injection is not None
        try:
            if self.held is not None:
                for piece in self._held_pieces(self.held):
                    self._pass_on(piece)
        except OSError:
            self._injection.fail()
        self._let_go()
        if self._completion is not None:
            rest, self._completion = self._completion.end(), None
            if rest:
                self._pass_on(rest)
        if self._head:
            self._pass_on(b"")
        answer = self._injection.close(self.sender, self.recipients)
        self._injection = None  # there is nothing left to give up
        return answer

    def _start(self) -> bool:
        """Start the program that has waited for the verdict; whether there is one."""
        if self._waiting is not None:
            try:
                self._injection = Injection.open(*self._waiting, warm=True)
            except OSError:
                self._let_go()
        return self._injection is not None

    def abort(self) -> None:
        """Give it up; harmless at any time."""
        self._let_go()
        if self._injection is not None:
            self._injection.abort()

    def _pass_on(self, text: bytes) -> None:
        assert self._injection is not None
        if self._completion is not None:
            text = self._completion.feed(text)
            if not text:
                return
        self._injection.write(self._head + text if self._head else text)
        self._head = b""

    def _held_pieces(self, held: Holding) -> Iterator[bytes]:
        pieces = held.pieces()
        if not self._forged:
            return pieces
        from pyqmail.incoming.sender_results import without_results_of  # where it is wanted it is there already

        return without_results_of(self._forged, pieces)

    def _let_go(self) -> None:
        if self.held is not None:
            self.held.close()
            self.held = None


def local_names(environ: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
    """What it says of this host."""
    return {name: environ[name] for name in (b"TCPLOCALHOST", b"TCPLOCALIP") if name in environ}
