"""How qmail-remote measures a message before it says how many octets there are."""

import os

from hypothesis import given
from hypothesis import strategies as st

from pyqmail.protocol.chunking import ChunkDecoder
from pyqmail.protocol.message_body import LineEnds
from pyqmail.remote import message
from pyqmail.remote.message import Message

TEXT = st.lists(
    st.sampled_from([b"a", b".", b"\n", b"\n.\n", b"\r", b"\r\n", b"\xe9", b"QUIT\n", b"\n\n"]), max_size=40
)


@given(TEXT.map(b"".join), st.sampled_from([b"", b"DKIM-Signature: x\n\ty\n"]), st.sampled_from([1, 3, 65536]))
def test_lines_are_counted_exactly_and_a_receiver_of_chunks_has_them(text: bytes, above: bytes, piece: int) -> None:
    fd = os.memfd_create("message")
    usual = message.PIECE
    message.PIECE = piece
    try:
        os.pwrite(fd, text, 0)
        found = Message(fd)
        found.above = above
        measure = found.measure()
        beginning = text[:piece]
        ended = beginning.startswith(b"\n") or b"\n\n" in beginning
        assert measure.lines == (ended and text.endswith(b"\n") and b"\r" not in text)
        for _ in range(2 if measure.lines else 0):
            encoder = LineEnds()
            wire = b"".join(map(encoder.encode, found.pieces()))
            assert (len(wire), encoder.finish()) == (measure.size, b"")
            decoder = ChunkDecoder()
            assert decoder.feed(wire) + decoder.finish() == above + text
            found.rewind()
    finally:
        message.PIECE = usual
        os.close(fd)
