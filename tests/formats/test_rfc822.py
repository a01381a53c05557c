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


ROWS = [
    (b"fred", b"fred@mx.example.org", [b"fred@mx.example.org"]),
    (b"joe@host", b"joe@host.example.org", [b"joe@host.example.org"]),
    (b"sue@h+", b"sue@h.plus.org", [b"sue@h.plus.org"]),
    (b"p+", b"p+@mx.example.org", [b"p+@mx.example.org"]),
    (b"A B <q@r.x>", b"A B <q@r.x>", [b"q@r.x"]),
    (b"<@r1,@r2:u@v>", b"<u@v.example.org>", [b"u@v.example.org"]),
    (b"<>", b"<>", [b""]),
    (b"grp: a@b, c@d;", b"grp: a@b.example.org, c@d.example.org;", [b"c@d.example.org", b"a@b.example.org"]),
    (b"a b", b"a@mx.example.org, b@mx.example.org", [b"b@mx.example.org", b"a@mx.example.org"]),
    (b"foo@", b"foo@mx.example.org", [b"foo@mx.example.org"]),
    (b"x@y.", b"x@y.example.org", [b"x@y.example.org"]),
    (b"<.>", b"<>", [b""]),
    (b"@foo", b"", [b""]),
    (b"foo@[]", b"foo@[]", [b"foo@[]"]),
    (b"u@[1.2.3.4]", b"u@[1.2.3.4]", [b"u@[1.2.3.4]"]),
    (b"x.@y", b"x.@y.example.org", [b"x.@y.example.org"]),
    (b"a@@b", b"a@@b.example.org", [b"a@@b.example.org"]),
    (b"<d> E F", b"<d@mx.example.org>, E@mx.example.org, F@mx.example.org", None),
    (b"c)d@x.y", b'"c\\)d"@x.y', [b"c)d@x.y"]),
    (b"joe@host (a (b) \\))", b"joe@host.example.org (a b \\))", [b"joe@host.example.org"]),
    (b'"a b"@c.d', b'"a b"@c.d', [b"a b@c.d"]),
    (b"a\\ b@c.d", b"a b@c.d", [b"a b@c.d"]),
]


def rewritten(text: bytes) -> tuple[bytes, list[bytes]]:
    """The list ``text`` formatted anew, and its addresses."""
    found: list[bytes] = []

    def rewrite(address: "rfc822.Tokens") -> "rfc822.Tokens":
        address = rfc822.complete(address, RULES)
        found.append(rfc822.plain_address(address))
        return address

    return rfc822.format_tokens(rfc822.rewrite_list(rfc822.tokenize(text), rewrite)), found


@pytest.mark.contract(*(f"inject 2.{row}" for row in range(1, 17)))
@pytest.mark.parametrize(("text", "output", "addresses"), ROWS)
def test_address_rows(text: bytes, output: bytes, addresses: list[bytes] | None) -> None:
    assert rewritten(text)[0] == output
    if addresses is not None:
        assert rewritten(text)[1] == addresses


@pytest.mark.parametrize("text", [b"(a", b'"a', b"[a", b")a", b"]a", b"a (b"])
def test_lexical_failures(text: bytes) -> None:
    with pytest.raises(rfc822.LexicalError):
        rfc822.tokenize(text)


@pytest.mark.parametrize("text", [b"a: b", b"a; b;", b"a>"])
def test_structural_failures(text: bytes) -> None:
    with pytest.raises(rfc822.StructureError):
        rewritten(text)


def test_long_lists_break_after_commas() -> None:
    text, found = rewritten(b", ".join(b"user%d@some.example.org" % number for number in range(20)))
    assert all(len(line) <= 80 for line in text.split(b"\n"))
    assert all(line.startswith(b"  user") for line in text.split(b"\n")[1:])
    assert len(found) == 20


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
