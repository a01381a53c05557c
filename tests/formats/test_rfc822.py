"""Address fields as values: properties that hold for every input (the address table is in test_qmail_inject)."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyqmail.formats import rfc822

RULES = rfc822.Rules(b"mx.example.org", b"example.org", b"plus.org")
SPECIAL = st.lists(st.sampled_from([bytes([byte]) for byte in b' \t\r\n()[]<>@.,:;"\\+ab\xe9\0'])).map(b"".join)
TEXTS = st.one_of(st.binary(), SPECIAL)
FAILURES = (rfc822.LexicalError, rfc822.StructureError)
WORDS = st.binary(min_size=1).filter(lambda text: b"\\" not in text)
PLAIN = st.text("abcXYZ019-_+", min_size=1).map(str.encode)
TOKENS = st.lists(
    st.one_of(
        st.tuples(st.just(rfc822.ATOM), PLAIN),
        st.tuples(st.sampled_from([rfc822.QUOTED, rfc822.LITERAL, rfc822.COMMENT]), WORDS),
        st.sampled_from([(rfc822.AT, b"@"), (rfc822.DOT, b"."), (rfc822.LEFT, b"<"), (rfc822.RIGHT, b">")]),
        st.sampled_from([(rfc822.COMMA, b","), (rfc822.COLON, b":"), (rfc822.SEMICOLON, b";")]),
    )
)


def rewritten(text: bytes) -> tuple[bytes, list[bytes]]:
    """The list ``text`` formatted anew, and its addresses."""
    found: list[bytes] = []

    def rewrite(address: "rfc822.Tokens") -> "rfc822.Tokens":
        address = rfc822.complete(address, RULES)
        found.append(rfc822.plain_address(address))
        return address

    return rfc822.format_tokens(rfc822.rewrite_list(rfc822.tokenize(text), rewrite)), found


@given(TEXTS)
def test_any_text_is_a_list_or_one_of_the_two_failures(text: bytes) -> None:
    try:
        rewritten(text)
    except FAILURES:
        pass


@given(TOKENS)
def test_formatted_tokens_are_the_same_tokens_again(tokens: "rfc822.Tokens") -> None:
    assert rfc822.tokenize(rfc822.format_tokens(tokens)) == tokens


@given(st.lists(PLAIN, min_size=1))
def test_a_complete_list_is_not_changed_again(boxes: list[bytes]) -> None:
    once, found = rewritten(b", ".join(boxes))
    assert rewritten(once) == (once, found)
    assert found == [box + b"@mx.example.org" for box in reversed(boxes)]


@pytest.mark.parametrize("unit", [b"a ", b"a,", b"a@b c ", b"<a>", b"g:a;,", b"(", b"(a)", b'"a"', b"@a:", b"a."])
def test_a_field_of_four_times_the_length_takes_about_four_times_as_long(unit: bytes) -> None:
    def seconds(count: int) -> float:
        start = time.process_time()
        try:
            rewritten(unit * count)
        except FAILURES:
            pass
        return time.process_time() - start

    quickest = min(seconds(5000) for _ in range(3))
    assert min(seconds(20000) for _ in range(3)) < 10 * quickest + 0.02  # 16 times if it were quadratic
