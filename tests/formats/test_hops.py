"""Hops of a header in any pieces."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyqmail.formats.hops import HopCounter


@pytest.mark.parametrize(
    ("text", "hops"),
    [
        pytest.param(b"Received: a\nDELIVERED-to: b\nX: y\n\nReceived: no\n", 2, id="header lines only"),
        pytest.param(b"received-spf: x\n", 1, id="no colon is needed"),
        pytest.param(b".Received: x\n", 0, id="compared with its dot"),
        pytest.param(b"\nReceived: x\n", 0, id="a body from the first line"),
        pytest.param(b"Received: x", 0, id="a line that does not end"),
        pytest.param(b"", 0, id="nothing"),
    ],
)
def test_hops(text: bytes, hops: int) -> None:
    for size in (1, 3, len(text) or 1):
        counter = HopCounter()
        for at in range(0, len(text), size):
            counter.feed(text[at : at + size])
        assert counter.count == hops


@given(st.lists(st.sampled_from([b"Received: x\n", b"Delivered-To: y\n", b"X: z\n", b"\n", b"Rece"]), max_size=9))
def test_hops_are_the_lines_before_the_first_empty_one(lines: list[bytes]) -> None:
    text = b"".join(lines)
    header = (b"\n" + text).partition(b"\n\n")[0].split(b"\n")[1:]
    whole = header if b"\n\n" in b"\n" + text else header[:-1]
    counter = HopCounter()
    counter.feed(text)
    assert counter.count == sum(line.lower().startswith((b"received", b"delivered")) for line in whole)
