"""The receiving side of QMQP without descriptors (cr.yp.to/proto/qmqp.html; qmail-qmqpd(8)).

netstring(netstring(message) netstring(sender) netstring(recipient)...)     answered by one netstring, K, Z or D
"""

from pyqmail.protocol.netstring_reader import Kind, Machine, Reader

PIECE = 65536
LENGTH_FIELD_MAX = 100  # bytes of the outermost length, leading zeros included


class QmqpReader(Reader):
    """One message, whose text is taken as it is."""

    def conversation(self) -> Machine:
        """Read the outermost netstring. Nothing inside may reach beyond its length."""
        self._left = LENGTH_FIELD_MAX
        self._left = yield from self.length()
        left = yield from self.length()
        self.emit(Kind.BEGIN)
        while left:
            piece = yield from self.some(min(left, PIECE))
            left -= len(piece)
            self.emit(Kind.TEXT, piece)
        yield from self.comma()
        yield from self._address(Kind.SENDER)
        while self._left:
            yield from self._address(Kind.RECIPIENT)
        self._left = 1
        yield from self.comma()
        self.emit(Kind.END)

    def _address(self, kind: Kind) -> Machine:
        address = yield from self.address((yield from self.length()))
        yield from self.comma()
        self.emit(kind, address)
