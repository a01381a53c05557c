"""BDAT: its argument, and the text of a message that comes in chunks (RFC 3030).

BINARYMIME is not offered, so the text is lines as behind DATA. A dot means nothing in it.
"""

from dataclasses import dataclass

DIGITS_MAX = 19  # of a size


@dataclass(frozen=True, slots=True)
class Chunk:
    """So many octets follow the line of the command. ``last``: they end the message."""

    size: int
    last: bool = False
    known: bool = True  # nothing but LAST stood behind the size


def parse_chunk(argument: bytes) -> Chunk | None:
    """The chunk that BDAT announces; None where nobody can tell at which octet the next command begins."""
    size, *words = [word for word in argument.split(b" ") if word] or [b""]
    if not size.isdigit() or len(size) > DIGITS_MAX:
        return None
    last = [word.upper() for word in words] == [b"LAST"]
    return Chunk(int(size), last, known=last or not words)


class StrayLineEnd(Exception):
    """A CR or a LF without the other."""


class ChunkDecoder:
    """The text to store from all chunks of a message, CR LF made LF, a CR LF between two chunks too."""

    def __init__(self) -> None:
        self._held = b""  # a CR at the end of what came
        self._last = b"\n"

    def feed(self, octets: bytes) -> bytes:
        """The text so far. Raises StrayLineEnd."""
        wire = self._held + octets
        self._held = wire[-1:] if wire.endswith(b"\r") else b""
        text = wire.removesuffix(self._held).replace(b"\r\n", b"\n")
        pairs = wire.count(b"\r\n")
        if b"\r" in text or text.count(b"\n") != pairs:
            raise StrayLineEnd
        self._last = text[-1:] or self._last
        return text

    def finish(self) -> bytes:
        """What ends the last line, usually nothing. Raises StrayLineEnd."""
        if self._held:
            raise StrayLineEnd
        return b"" if self._last == b"\n" else b"\n"
