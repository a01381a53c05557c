"""The SMTP client at the other end: its commands and the text of its messages come in, replies go out."""

from collections.abc import Iterator

from pyqmail.formats.hops import HopCounter
from pyqmail.incoming.patience import Patience
from pyqmail.incoming.refusals import NO_MEMORY, STRAY_LF, TALKED_EARLY, TIMEOUT, TOO_MANY_ERRORS
from pyqmail.protocol.reply import Reply
from pyqmail.protocol.smtp_server import BareLineFeed, BodyDecoder
from pyqmail.stream.lines import LineReader, LineTooLong
from pyqmail.stream.stream import Stream, StreamEnded, StreamTimedOut

REFUSES = 0x34  # the first digit of a reply that is a refusal, 4 or 5
COMMAND_MAX = 1048576  # bytes of one command line: more is "out of memory", which the original would reach later


class SessionEnd(Exception):
    """The session is over without QUIT; ``reply`` is sent first."""

    def __init__(self, reply: Reply | None = None) -> None:
        super().__init__(b"" if reply is None else reply.line)
        self.reply = reply


class SmtpConnection:
    """One client. ``stream`` is what is talked on now; whatever reads or writes raises StreamEnded when it ends."""

    def __init__(self, stream: Stream, patience: Patience) -> None:
        self._patience = patience
        self.go_on(stream)

    def go_on(self, stream: Stream) -> None:
        """Talk on ``stream`` from now on; nothing that the one before has read is a command any more."""
        self.stream = stream
        self._patience.limit(stream)
        self._lines = LineReader(stream, COMMAND_MAX)

    @property
    def pending(self) -> bool:
        """Whether the client has said more than it was asked for."""
        return self._lines.pending

    def command(self) -> bytes:
        """The next line. Raises SessionEnd."""
        try:
            return self._lines.line()
        except StreamTimedOut:
            raise self._timed_out() from None
        except LineTooLong:
            raise SessionEnd(NO_MEMORY) from None

    def text(self) -> bytes:
        """The next bytes of a message. Raises SessionEnd."""
        try:
            return self._lines.read()
        except StreamTimedOut:
            raise self._timed_out() from None

    def octets(self, count: int) -> Iterator[bytes]:
        """The next ``count`` bytes, whatever they are; commands begin behind them. Raises SessionEnd."""
        while count:
            data = self.text()
            if len(data) > count:
                self.unread(data[count:])
                data = data[:count]
            count -= len(data)
            yield data

    def message(self, hops: HopCounter) -> Iterator[bytes]:
        """The text of a message that comes by DATA, LF line ends, its ``hops`` counted. Raises SessionEnd."""
        decoder = BodyDecoder(hops)
        while not decoder.done:
            try:
                yield decoder.feed(self.text())
            except BareLineFeed:
                raise SessionEnd(STRAY_LF) from None
        if decoder.rest:
            self.unread(decoder.rest)

    def unread(self, data: bytes) -> None:
        """Put back ``data``, the end of the text that came last: commands follow it."""
        self._lines.unread(data)

    def answer(self, reply: bytes, *, at_once: bool = False) -> None:
        """Say ``reply``, lines with CR LF: now if ``at_once``, or if the client has said no more; else before the next
        wait for it. Raises SessionEnd if it is the last.
        """
        if at_once or not self._lines.pending:
            self.stream.say(reply)
        else:
            self.stream.write(reply)
        if reply[0] < REFUSES:
            return
        if self._patience.exhausted():
            raise SessionEnd(TOO_MANY_ERRORS)
        if reply[:4] == b"421 ":  # whoever hears this has to go (RFC 5321 section 3.8)
            raise SessionEnd

    def wait_before_greeting(self) -> None:
        """Let the client wait. Raises SessionEnd if it has talked meanwhile, and may not."""
        if self._patience.wait_before_greeting(self.stream, self._lines):
            raise SessionEnd(TALKED_EARLY)

    def _timed_out(self) -> SessionEnd:
        self._patience.give_last_words(self.stream)
        return SessionEnd(TIMEOUT)


def say_last(stream: Stream, reply: Reply | None) -> int:
    """The last words, and the exit code of every end but QUIT."""
    try:
        if reply is not None:
            stream.write(reply.line)
        stream.flush()
    except StreamEnded:
        pass
    return 1
