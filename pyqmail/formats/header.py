"""Where the header of a message ends, and what its fields are. Lines in, fields out; no descriptors.

Also the repair of line ends: other hosts make something of a CR that stands alone, each in its own way, and no
signature survives that (RFC 5322 section 2.3).
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

HELD_MAX = 65536  # CRs that are kept until the next chunk tells what they are
_NAME_BYTES = bytes(range(33, 58)) + bytes(range(59, 127))  # printable, no space, no colon


def field_name(line: bytes) -> bytes | None:
    """The ASCII-lower-cased name of the field that starts with ``line``; None if it starts none.

    Blanks may stand between the name and the colon.
    """
    name, colon, _body = line.partition(b":")
    name = name.rstrip(b" \t")
    if not colon or not name or name.translate(None, _NAME_BYTES):
        return None
    return name.lower()


class Header:
    """The header of a message, gathered line by line.

    ``fields`` holds (lower-cased name, whole text with final newline); ``rest`` is what comes between them and the
    part of the body that was not given: the empty line and, if a line of the body ended the header, that line.
    """

    def __init__(self) -> None:
        self.fields: list[tuple[bytes, bytes]] = []
        self.rest = b""
        self._name = b""
        self._lines: list[bytes] = []

    def add(self, line: bytes) -> bool:
        """Take the next line; false when it ended the header. Only the last line of a message may lack a newline."""
        if not line.endswith(b"\n"):
            line += b"\n"
        if line[:1] in (b" ", b"\t") and self._lines:
            self._lines.append(line)
            return True
        if line.startswith(b"From "):
            line = b"MBOX-Line: " + line
        name = field_name(line)
        self.end()
        if name is None:
            self.rest = line if line == b"\n" else b"\n" + line
            return False
        self._name = name
        self._lines = [line]
        return True

    def end(self) -> None:
        """No more lines: complete the last field."""
        if self._lines:
            self.fields.append((self._name, b"".join(self._lines)))
            self._lines = []


def whole_lines(chunks: "Iterable[bytes]") -> "Iterator[bytes]":
    """``chunks`` with LF for each CR LF, CR CR LF and so on, and an LF at the end. A CR elsewhere stays."""
    held = b""  # CRs at the end of a chunk
    last = b"\n"
    for piece in chunks:
        if held or b"\r" in piece:
            piece = held + piece
            kept = len(piece.rstrip(b"\r"))
            held, piece = (piece[kept:], piece[:kept]) if len(piece) - kept < HELD_MAX else (b"", piece)
            lines = piece.split(b"\n")
            piece = b"\n".join([*(line.rstrip(b"\r") for line in lines[:-1]), lines[-1]])
        if piece:
            last = piece[-1:]
            yield piece
    if held or last != b"\n":
        yield b"\n"


def header_line(line: bytes) -> bytes:
    """A line of a header with blanks for its CRs: as line ends they would make fields of what is text."""
    return line.replace(b"\r", b" ")


def body_text(text: bytes) -> bytes:
    """Text of a body with LF for each CR."""
    return text.replace(b"\r", b"\n")
