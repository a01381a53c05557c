"""Lines out of one stream, and the bytes between them.

A reader belongs to one stream for ever: after ``start_tls`` there is another stream and so another reader, and what
came in clear behind the last line stays in the old one.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyqmail.stream.stream import Stream


class LineTooLong(Exception):
    """A line does not end."""


class LineReader:
    """Lines end in LF, whatever stands before it."""

    __slots__ = ("_at", "_cut", "_data", "_line_max", "_stream")

    def __init__(self, stream: "Stream", line_max: int, *, cut: bool = False) -> None:
        """``line_max`` bytes, and what one read brings, may stand in a line. With ``cut`` the rest of a longer one is
        left out."""
        self._stream = stream
        self._line_max = line_max
        self._cut = cut
        self._data = b""
        self._at = 0  # what of it is used up

    @property
    def pending(self) -> bool:
        """Whether the peer has said more than was asked for: after STARTTLS that is an attempt to inject commands."""
        return self._at < len(self._data)

    def line(self) -> bytes:
        """The next line without its LF. Raises LineTooLong, and whatever the stream's ``read`` raises."""
        if self._at < len(self._data):
            data, at = self._data, self._at
        else:
            data, at = self._stream.read(), 0
            if data.find(b"\n") == len(data) - 1:  # one command, as from most clients
                return data[:-1]
        end = data.find(b"\n", at)
        if end >= 0:
            self._data, self._at = data, end + 1
            return data[at:end]
        self._data, self._at = data, at
        return self._line_in_pieces()

    def _line_in_pieces(self) -> bytes:
        parts, size = [], 0
        while True:
            data = self.read()
            end = data.find(b"\n")
            if end >= 0:
                self._data, self._at = data, end + 1
                if size <= self._line_max:
                    parts.append(data[:end])
                return b"".join(parts)
            if size > self._line_max:
                if not self._cut:
                    raise LineTooLong
                continue
            parts.append(data)
            size += len(data)

    def read(self) -> bytes:
        """The next bytes, lines or not: what came behind the last line, else from the stream. Raises as that does."""
        if self._at < len(self._data):
            data = self._data[self._at :] if self._at else self._data
            self._data, self._at = b"", 0
            return data
        return self._stream.read()

    def unread(self, data: bytes) -> None:
        """Put back ``data``, the end of what ``read`` gave last."""
        self._data, self._at = data, 0
