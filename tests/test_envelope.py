"""The envelope wire: what is written is read back, in any chunks; anything else has its exit code."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyqmail.envelope import ADDRESS_MAX, EnvelopeError, EnvelopeParser, format_envelope

ADDRESS = st.binary(max_size=40).map(lambda data: data.replace(b"\0", b"n"))


@given(ADDRESS, st.lists(ADDRESS, max_size=5), st.binary(max_size=10))
def test_one_byte_at_a_time_gives_the_same_records(sender: bytes, recipients: list[bytes], tail: bytes) -> None:
    data = format_envelope(sender, recipients) + tail
    parser = EnvelopeParser()
    records = b"".join(parser.feed(data[i : i + 1]) for i in range(len(data)))
    assert parser.done
    assert records == b"F" + sender + b"\0" + b"".join(b"T" + r + b"\0" for r in recipients)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        pytest.param(b"Tx\0", 91, id="no sender first"),
        pytest.param(b"\0", 91, id="a lone NUL first"),
        pytest.param(b"Fx\0Fy\0", 91, id="a second sender"),
        pytest.param(b"F" + b"a" * ADDRESS_MAX, 11, id="a sender of 1003 bytes without its NUL"),
        pytest.param(b"Fx\0T" + b"a" * ADDRESS_MAX + b"\0", 11, id="a recipient of 1003 bytes"),
    ],
)
def test_bad_bytes_have_their_exit_code(data: bytes, code: int) -> None:
    with pytest.raises(EnvelopeError) as caught:
        EnvelopeParser().feed(data)
    assert caught.value.exit_code == code


def test_1002_bytes_are_an_address() -> None:
    parser = EnvelopeParser()
    parser.feed(b"F" + b"a" * (ADDRESS_MAX - 1) + b"\0\0")
    assert parser.done


@given(st.binary())
def test_no_bytes_raise_anything_else(data: bytes) -> None:
    try:
        EnvelopeParser().feed(data)
    except EnvelopeError as error:
        assert error.exit_code in (11, 91)
