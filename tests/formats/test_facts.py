"""The facts of a message as bytes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyqmail.formats.facts import (
    DELAY,
    FACTS_MAX,
    FAILURE,
    NEVER,
    SUCCESS,
    Facts,
    FactsError,
    RecipientFacts,
    Transfer,
    belong_to,
    format_facts,
    parse_facts,
    parse_notify,
)
from pyqmail.formats.netstring import format_netstrings

XTEXT = st.binary(min_size=1, max_size=30).map(lambda data: data.replace(b" ", b"_").replace(b"\0", b"_"))
ADDRESSES = st.binary(max_size=30).map(lambda data: data.replace(b"\0", b"_"))
NOTIFIES = st.sampled_from([frozenset({NEVER}), frozenset({SUCCESS, DELAY}), frozenset({FAILURE})])
TOLD = st.builds(RecipientFacts, ADDRESSES, NOTIFIES, st.just(b"") | XTEXT.map(lambda text: b"rfc822;" + text))
SILENT = st.builds(RecipientFacts, ADDRESSES)
FACTS = st.builds(
    Facts,
    st.sampled_from([b"", b"FULL", b"HDRS"]),
    st.just(b"") | XTEXT,
    st.booleans(),
    st.tuples(SILENT | TOLD, TOLD) | st.just(()),
    st.booleans(),
    st.none() | st.builds(Transfer, st.just(b"0123456789abcdef" * 2), st.integers(0, 10**12 - 1), st.booleans()),
)


@given(FACTS, ADDRESSES)
def test_format_then_parse_is_identity(facts: Facts, sender: bytes) -> None:
    data = format_facts(facts, sender)
    assert parse_facts(data) == facts if data else facts == Facts()


@given(st.binary(max_size=200) | st.lists(st.binary(max_size=20), max_size=5).map(format_netstrings))
def test_no_bytes_break_the_parser(data: bytes) -> None:
    try:
        parse_facts(data)
    except FactsError:
        return


def test_nothing_to_say_is_no_bytes_and_the_silent_last_recipients_are_left_out() -> None:
    assert format_facts(Facts(recipients=(RecipientFacts(b"ann@a"),)), b"joe@b") == b""
    told = RecipientFacts(b"ann@a", frozenset({NEVER}))
    data = format_facts(Facts(recipients=(told, RecipientFacts(b"bob@a"))), b"joe@b")
    assert parse_facts(data).recipients == (told,)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"1:2,", id="another version"),
        pytest.param(format_netstrings([b"1 0", b"later thing"]), id="a fact that nobody knows"),
        pytest.param(format_netstrings([b"1 0", b"ret SOME"]), id="a part that there is not"),
        pytest.param(format_netstrings([b"1 0", b"to NEVER,DELAY - a"]), id="never and sometimes"),
        pytest.param(format_netstrings([b"1 0", b"to NEVER"]), id="a recipient cut short"),
        pytest.param(format_netstrings([b"1 0", b"envid x"])[:-1], id="torn"),
        pytest.param(format_netstrings([b"1 0", b"envid " + b"x" * FACTS_MAX]), id="too long"),
    ],
)
def test_what_is_no_facts_is_an_error(data: bytes) -> None:
    with pytest.raises(FactsError):
        parse_facts(data)


def test_facts_belong_to_one_sender_and_the_recipients_that_they_name() -> None:
    told = (RecipientFacts(b"ann@a"), RecipientFacts(b"bob@a", frozenset({DELAY})))
    data = format_facts(Facts(recipients=told), b"joe@b")
    assert belong_to(data, b"joe@b", [b"ann@a", b"bob@a", b"cid@a"])
    assert not belong_to(data, b"", [b"ann@a", b"bob@a"])
    assert not belong_to(data, b"joe@b", [b"bob@a", b"ann@a"])
    assert not belong_to(data, b"joe@b", [b"ann@a"])


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (b"never", {NEVER}),
        (b"SUCCESS,delay", {SUCCESS, DELAY}),
        (b"failure", {FAILURE}),
        (b"FAILURE,FAILURE", {FAILURE}),
        (b"", None),
        (b"NEVER,FAILURE", None),
        (b"SUCCESS,", None),
        (b"ALWAYS", None),
    ],
)
def test_notify(value: bytes, words: set[bytes] | None) -> None:
    assert parse_notify(value) == (None if words is None else frozenset(words))


def test_who_says_nothing_wants_to_hear_of_failure() -> None:
    assert RecipientFacts(b"a").wants(FAILURE) and not RecipientFacts(b"a").wants(DELAY)
    assert not RecipientFacts(b"a", frozenset({SUCCESS})).wants(FAILURE)
