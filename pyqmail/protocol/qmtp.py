"""The receiving side of QMTP without descriptors (cr.yp.to/proto/qmtp.txt; qmail-qmtpd(8)).

    netstring(message) netstring(sender) netstring(netstring(recipient)...)     and again, until the client ends

The first byte of a message says how its lines end: LF, or CR for CR LF.
"""

from pyqmail.formats.netstring import NetstringError, scan_length
from pyqmail.protocol.netstring_reader import Kind, Machine, Reader

PIECE = 65536
LF, CR = b"\n", b"\r"


class QmtpReader(Reader):
    """Messages one after another. Text comes with LF line ends."""

    def conversation(self) -> Machine:
        """Read for ever."""
        while True:
            yield from self.message()

    def message(self) -> Machine:
        """Read one message."""
        length = yield from self.length()
        if length == 0:
            raise NetstringError
        self.emit(Kind.BEGIN)
        mark = yield from self.some(1)
        if mark not in (LF, CR):
            raise NetstringError
        yield from self._text(length - 1, crlf=mark == CR)
        yield from self.comma()
        self.emit(Kind.SENDER, (yield from self.address((yield from self.length()))))
        yield from self.comma()
        yield from self._recipients((yield from self.length()))
        yield from self.comma()
        self.emit(Kind.END)

    def _text(self, left: int, *, crlf: bool) -> Machine:
        held = b""  # a CR that may be half of a line end
        while left:
            piece = yield from self.some(min(left, PIECE))
            left -= len(piece)
            if crlf:
                piece = held + piece
                held = CR if piece.endswith(CR) and left else b""
                piece = piece[: len(piece) - len(held)].replace(b"\r\n", LF)
            if piece:
                self.emit(Kind.TEXT, piece)

    def _recipients(self, left: int) -> Machine:
        while left:
            length, used = 0, None
            while used is None:
                if not left:
                    raise NetstringError
                length, used = scan_length(length, (yield from self.some(1)))
                left -= 1
            if length >= left:
                raise NetstringError
            self.emit(Kind.RECIPIENT, (yield from self.address(length)))
            yield from self.comma()
            left -= length + 1
