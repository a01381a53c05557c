"""BDAT's argument, and the text in chunks: as one stream, however it is cut (RFC 3030)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyqmail.protocol.chunking import Chunk, ChunkDecoder, StrayLineEnd, parse_chunk

WIRE = st.lists(st.sampled_from([b"\r\n", b"\r", b"\n", b".", b"x", b"\0"]), max_size=12).map(b"".join)


@pytest.mark.parametrize(
    ("argument", "chunk"),
    [
        pytest.param(b"10", Chunk(10), id="a size"),
        pytest.param(b"0 last ", Chunk(0, last=True), id="the last of nothing"),
        pytest.param(b"9999999999999999999", Chunk(9999999999999999999), id="19 digits"),
        pytest.param(b"5 FIRST", Chunk(5, known=False), id="another word"),
        pytest.param(b"5 LAST LAST", Chunk(5, known=False), id="two words"),
        pytest.param(b"18446744073709551616 LAST", None, id="2 to the 64"),
        pytest.param(b"00000000000000000005", None, id="20 digits"),
        pytest.param(b"", None, id="nothing"),
        pytest.param(b"-1", None, id="negative"),
        pytest.param(b"5LAST", None, id="no blank"),
        pytest.param(b"5\tLAST", None, id="a tab is no blank"),
        pytest.param(b"\xb2", None, id="a digit that is none"),
    ],
)
def test_arguments(argument: bytes, chunk: Chunk | None) -> None:
    assert parse_chunk(argument) == chunk


def decoded(chunks: list[bytes]) -> bytes | None:
    """The text of a message, None where it is refused."""
    decoder = ChunkDecoder()
    try:
        return b"".join([*map(decoder.feed, chunks), decoder.finish()])
    except StrayLineEnd:
        return None


@given(WIRE)
def test_the_text_is_lines_and_nothing_else(wire: bytes) -> None:
    plain = wire.replace(b"\r\n", b"")
    stray = b"\r" in plain or b"\n" in plain
    text = wire.replace(b"\r\n", b"\n")
    assert decoded([wire]) == (None if stray else text if not text or text.endswith(b"\n") else text + b"\n")


@given(WIRE, st.integers(1, 5))
def test_where_it_is_cut_does_not_matter(wire: bytes, size: int) -> None:
    assert decoded([wire[at : at + size] for at in range(0, len(wire), size)]) == decoded([wire])
