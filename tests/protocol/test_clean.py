"""qmail-clean's requests as values."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyqmail.protocol import clean


@given(st.sampled_from([clean.FOOP, clean.TODO, clean.FACT]), st.integers(min_value=10, max_value=1 << 63))
def test_format_then_parse_is_identity(word: str, number: int) -> None:
    request = clean.format_request(word, number)
    assert request.endswith(b"\0")
    assert clean.parse_request(request[:-1]) == (word, number)


@pytest.mark.contract("queue 8.1", "queue 8.2")
@pytest.mark.parametrize("request_bytes", [b"foop/1", b"todo/1", b"foop/" + b"1" * 94])
def test_shortest_and_longest_requests_are_served(request_bytes: bytes) -> None:
    assert clean.parse_request(request_bytes) is not None


@pytest.mark.contract("queue 8.3")
@pytest.mark.parametrize(
    "request_bytes",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"foop/", id="six bytes with the NUL"),
        pytest.param(b"foop/x", id="no digit at offset 5"),
        pytest.param(b"foop/12a", id="a letter after digits gets a single x and is not executed"),
        pytest.param(b"mess/12", id="another word"),
        pytest.param(b"todox12", id="the fifth byte of todo counts too"),
        pytest.param(b"foop/" + b"1" * 95, id="101 bytes with the NUL"),
        pytest.param(b"foop/../x", id="a path"),
    ],
)
def test_anything_else_is_malformed(request_bytes: bytes) -> None:
    assert clean.parse_request(request_bytes) is None


@given(st.binary())
def test_no_bytes_break_the_parser(data: bytes) -> None:
    clean.parse_request(data)


@given(st.lists(st.binary(max_size=99).filter(lambda part: b"\0" not in part), max_size=6))
def test_chunk_boundaries_do_not_matter(requests: list[bytes]) -> None:
    stream = b"".join(request + b"\0" for request in requests)
    reader = clean.RequestReader()
    assert [found for byte in stream for found in reader.feed(bytes((byte,)))] == requests


def test_an_endless_request_is_not_kept() -> None:
    reader = clean.RequestReader()
    for _ in range(1000):
        assert reader.feed(b"1" * 1000) == []
    (request,) = reader.feed(b"\0")
    assert clean.parse_request(request) is None
    assert reader.feed(b"foop/7\0") == [b"foop/7"]
