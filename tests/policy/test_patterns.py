"""Lists with plain lines, expressions and negation."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyqmail.policy import patterns
from pyqmail.policy.patterns import (
    MATCH_S,
    QUICK_MAX,
    TEXT_MAX,
    PatternList,
    address_keys,
    is_quick,
    name_keys,
)


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


@pytest.mark.parametrize(
    ("expression", "quick"),
    [
        (b"^[0-9]+[.]dynamic[.]", True), (b"[.]click$", True), (b".*x", True), (b"(a|b)@x$", True), (b"a{2,9}", True),
        (b"(a|aa)+$", False), (b"a+b+", False), (b"(a?)*", False), (b"a?a?b", False), (rb"(.*)\1", False),
        (b"(?:a)b", True), (rb"\.test$", True),
    ],
)  # fmt: skip
def test_only_what_cannot_take_long_is_tried_without_a_limit(expression: bytes, quick: bool) -> None:
    assert is_quick(expression) is quick


def test_quick_expressions_stay_below_the_limit_that_they_do_without() -> None:
    known = PatternList(b"".join(b"[a-z%d]*!\n" % number for number in range(QUICK_MAX)))
    began = time.process_time()
    assert known.match(b"a" * TEXT_MAX) is None
    assert time.process_time() - began < 10 * MATCH_S  # a machine may be slow; anything exponential takes for ever


def test_quick_expressions_need_no_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patterns, "processor_limit", None)
    assert PatternList(b"^[0-9]+[.]dynamic[.]\n[.]click$\n").match(b"ann@x.click") == b"[.]click$"
