"""Lists with plain lines, expressions and negation."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyqmail.policy.patterns import PatternList, address_keys, name_keys


@pytest.mark.parametrize(
    ("lines", "text", "listed"),
    [
        pytest.param(b"Joe@spam.test", b"joe@SPAM.test", True, id="a plain line is all of it, in either case"),
        pytest.param(b"spam.test", b"joe@spam.test", False, id="and nothing less"),
        pytest.param(b"joe+x@spam.test", b"joe+x@spam.test", True, id="a plus is itself too"),
        pytest.param(b"@spam.test", b"joe@Spam.test", True, id="a domain"),
        pytest.param(b"@spam.test", b"joe@spam.test.org", False, id="not a longer one"),
        pytest.param(rb"^[0-9]+@", b"1234@x.test", True, id="an expression"),
        pytest.param(rb"[[:digit:]]{4}", b"a-1234@x.test", True, id="found anywhere, with a class"),
        pytest.param(rb"(spam|scam)\.test$", b"joe@SCAM.test", True, id="in either case"),
        pytest.param(rb"!\.", b"localhost", True, id="what does not match"),
        pytest.param(rb"!\.", b"mx.test", False, id="and what does"),
        pytest.param(b"!(", b"mx.test", False, id="a broken one, turned round, lists nobody"),
        pytest.param(b"# joe@spam.test\n\njoe\0ann", b"ann", True, id="a NUL splits a line"),
    ],
)
def test_what_is_listed(lines: bytes, text: bytes, listed: bool) -> None:
    assert (PatternList(lines).match(text, address_keys(text)) is not None) is listed


def test_a_name_is_listed_by_the_domain_that_it_is_in() -> None:
    known = PatternList(b".dyn.example\n")
    assert known.match(b"host.a.Dyn.example", name_keys(b"host.a.Dyn.example")) == b".dyn.example"
    assert known.match(b"dyn.example", name_keys(b"dyn.example")) is None


def test_a_broken_line_is_named_with_its_number_and_the_others_work() -> None:
    known = PatternList(b"# three lines\n(oops\n^x\n")
    assert [(number, line) for number, line, _ in known.complaints] == [(2, b"(oops")]
    assert known.match(b"xy") == b"^x"


def test_an_expression_that_takes_for_ever_is_given_up_and_named() -> None:
    known = PatternList(b"^(a|aa)+$\nz$\n")
    assert known.match(b"a" * 400 + b"z") == b"z$"
    assert [(number, why) for number, _, why in known.complaints] == [(1, "takes too long")]
    assert known.match(b"a" * 400) is None  # it is not asked again


@given(st.binary(max_size=60), st.binary(max_size=30))
def test_any_bytes_are_a_list(data: bytes, text: bytes) -> None:
    PatternList(data).match(text, address_keys(text))
