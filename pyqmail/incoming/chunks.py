"""A letter whose text comes by BDAT in place of DATA (RFC 3030, qmail-smtpd(8)).

The octets behind each command are read, wanted or not, so that the next command is where the client has put it.
"""

from collections.abc import Callable

from pyqmail.incoming.letter import Letter
from pyqmail.incoming.refusals import (
    HOPS,
    NO_CHUNK_SIZE,
    NO_QUEUE,
    STRAY_LINE_END,
    TOO_BIG,
    UNWANTED_OCTETS,
    WRONG_CHUNK,
)
from pyqmail.incoming.session import Session
from pyqmail.incoming.smtp_connection import SessionEnd, SmtpConnection
from pyqmail.protocol.chunking import Chunk, ChunkDecoder, StrayLineEnd, parse_chunk
from pyqmail.protocol.reply import Reply


class Chunks:
    """The text of one letter. No more than ``limit`` bytes are read in vain; 0: any number.

    ``begin`` makes a letter ready for its first chunk, or says why not.
    """

    def __init__(
        self, session: Session, connection: SmtpConnection, limit: int, begin: Callable[[Letter], Reply | None]
    ) -> None:
        self._session = session
        self._connection = connection
        self._limit = limit
        self._begin = begin
        self._begun = False
        self._decoder = ChunkDecoder()

    def take(self, letter: Letter | None, argument: bytes) -> tuple[Reply, int] | None:
        """One BDAT: the last word on ``letter`` and its number, 0 if it is refused; None while there is more to come.

        Without a letter the octets are dropped. Raises SessionEnd, which the log has heard of, and StreamEnded.
        """
        try:
            return self._take(letter, argument)
        except SessionEnd as end:
            if letter is not None and end.reply is not None:
                self._session.log_decision(letter, end.reply, 0)
            raise
        except OSError:  # whatever it is, the client hears that it has to come again
            return NO_QUEUE, 0

    def _take(self, letter: Letter | None, argument: bytes) -> tuple[Reply, int] | None:
        chunk = parse_chunk(argument)
        if chunk is None:
            raise SessionEnd(NO_CHUNK_SIZE)
        refusal = None if chunk.known else WRONG_CHUNK
        if letter is not None and refusal is None:
            refusal = None if self._begun else self._begin(letter)
            self._begun = True
            if refusal is None:
                return self._fill(letter, chunk)
        self._drop(chunk.size)
        return None if refusal is None else (refusal, 0)

    def _fill(self, letter: Letter, chunk: Chunk) -> tuple[Reply, int] | None:
        left = chunk.size
        for octets in self._connection.octets(chunk.size):
            left -= len(octets)
            if self._refused(letter, octets) and 0 < self._limit < left:
                raise SessionEnd(UNWANTED_OCTETS)
        if self._refused(letter, last=chunk.last) or chunk.last:
            return self._session.close(letter)
        return None

    def _refused(self, letter: Letter, octets: bytes = b"", *, last: bool = False) -> bool:
        """Whether ``letter``, with ``octets`` and what ends its ``last`` line, is none that can be taken."""
        if letter.refusal is None:
            try:
                letter.take(self._decoder.feed(octets) + (self._decoder.finish() if last else b""))
            except StrayLineEnd:
                letter.refusal = STRAY_LINE_END
                letter.fail()
        if letter.refusal is None and (letter.oversized or letter.looping):
            letter.refusal = HOPS if letter.looping else TOO_BIG
        return letter.refusal is not None

    def _drop(self, size: int) -> None:
        """Read ``size`` octets that nobody wants."""
        if 0 < self._limit < size:
            raise SessionEnd(UNWANTED_OCTETS)
        for _ in self._connection.octets(size):
            pass
