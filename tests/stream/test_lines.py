"""Lines in any pieces."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyqmail.stream.lines import LineReader, LineTooLong
from pyqmail.stream.stream import Stream, StreamEnded


class Pieces(Stream):
    """A peer that says these pieces, and then is gone; what it was told."""

    def __init__(self, *pieces: bytes) -> None:
        super().__init__()
        self._pieces = [piece for piece in reversed(pieces) if piece]
        self.said = b""

    def _receive(self) -> bytes:
        if not self._pieces:
            raise StreamEnded
        return self._pieces.pop()

    def _send(self, data: bytes | bytearray) -> None:
        self.said += data

    def _surrender(self) -> "Pieces":
        raise AssertionError

    def until(self, deadline: float | None) -> None:
        pass

    def close(self) -> None:
        pass


@given(st.lists(st.binary(max_size=6)))
def test_pieces_do_not_matter(pieces: list[bytes]) -> None:
    reader = LineReader(Pieces(*pieces), 1000)
    lines = []
    with pytest.raises(StreamEnded):
        while True:
            lines.append(reader.line())
    assert lines == b"".join(pieces).split(b"\n")[:-1]


@given(st.lists(st.binary(max_size=6)), st.integers(0, 5))
def test_lines_and_then_what_follows_them(pieces: list[bytes], lines: int) -> None:
    wire = b"".join(pieces)
    reader = LineReader(Pieces(*pieces), 1000)
    heard = b""
    with pytest.raises(StreamEnded):
        for _ in range(lines):
            heard += reader.line() + b"\n"
        while True:
            heard += reader.read()
    assert heard == (wire if wire.count(b"\n") >= lines else wire[: wire.rfind(b"\n") + 1])


def test_what_is_put_back_comes_first() -> None:
    reader = LineReader(Pieces(b"text.\nQUIT\n", b"NOOP\n"), 100)
    assert reader.read() == b"text.\nQUIT\n"
    reader.unread(b"QUIT\n")
    assert reader.pending
    assert reader.line() == b"QUIT"
    assert not reader.pending
    assert reader.line() == b"NOOP"


def test_what_is_too_much_of_a_line_may_be_left_out() -> None:
    reader = LineReader(Pieces(b"QUIT " + b"x" * 50, *[b"x" * 50] * 10, b"y\nNOOP\n"), 100, cut=True)
    line = reader.line()
    assert line.startswith(b"QUIT x") and len(line) <= 150
    assert reader.line() == b"NOOP"


def test_a_line_without_an_end() -> None:
    reader = LineReader(Pieces(*[b"x" * 50] * 10), 100)
    with pytest.raises(LineTooLong):
        reader.line()
