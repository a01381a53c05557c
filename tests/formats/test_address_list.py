"""Address lists of command lines, .qmail lines and odd fields (addresses(5))."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyqmail.formats import rfc822
from pyqmail.formats.address_list import complete_list, parse_addresses, parse_sender, read_list

RULES = rfc822.Rules(b"mx.example.org", b"example.org", b"plus.org")


@pytest.mark.parametrize(
    ("text", "addresses"),
    [
        ("bob@y.example", ["bob@y.example"]),
        ("bob", ["bob"]),
        ("", []),
        (" ", []),
        ("<>", []),
        (",", []),
        ("a@x.example,b@y.example", ["a@x.example", "b@y.example"]),
        ("a, b,", ["a", "b"]),
        (" bob@y.example \r\n", ["bob@y.example"]),
        ("a@x.example b@y.example", ["a@x.example", "b@y.example"]),
        ("<bob@y.example>", ["bob@y.example"]),
        ("Bob Roe <bob@y.example>", ["bob@y.example"]),
        ('"Roe, Bob" <bob@y.example>, ann', ["bob@y.example", "ann"]),
        ("bob@y.example (Bob, at work)", ["bob@y.example"]),
        ("Team: a@x.example, b@y.example;", ["a@x.example", "b@y.example"]),
        ("a@x.example; b@y.example", ["a@x.example", "b@y.example"]),
        ('"first last"@y.example', ["first last@y.example"]),
        ('"a,b"@y.example, c', ["a,b@y.example", "c"]),
        ("<@one,@two:bob@y.example>", ["bob@y.example"]),
        ("<<bob@y.example>>", ["bob@y.example"]),
        ("@one:bob@y.example", ["bob@y.example"]),
        ("@one,@two:bob@y.example", ["bob@y.example"]),
        ("ann@x.example, @one, @[192.0.2.1], @three:bob@y.example, zoe", ["ann@x.example", "bob@y.example", "zoe"]),
        ("@one,ann@x.example", ["@one", "ann@x.example"]),
        ("root admin", ["root", "admin"]),
        ('"bob@y.example"', ["bob@y.example"]),
        ('Bob <"bob@y.example">', ["bob@y.example"]),
        ("Bob <bob@y.example", ["bob@y.example"]),
        ("bob@y.example>", ["bob@y.example"]),
        ("mailto:bob@y.example", ["bob@y.example"]),
        ("Roe, Bob, RE: work <bob@y.example>", ["Roe", "Bob", "bob@y.example"]),
        ("\\joe, \\sue", ["joe", "sue"]),
    ],
)
def test_a_word_may_be_a_list(text: str, addresses: list[str]) -> None:
    assert parse_addresses(text.encode()) == [address.encode() for address in addresses]


@pytest.mark.parametrize(
    "text",
    [
        "first last@y.example",
        "Bob Roe",
        "(c)@x.example",
        "DOMAIN\\joe@y.example",
        'o"neil@y.example',
        "a:b@y.example",
        "J\xf6rg@y",
    ],
)
def test_what_is_no_list_is_one_address_as_it_stands(text: str) -> None:
    assert parse_addresses(text.encode()) == [text.encode()]


@pytest.mark.parametrize(
    ("text", "sender"),
    [("", ""), ("<>", ""), ("Joe <joe@x.example>", "joe@x.example"), ("#@[]", "#@[]"), ("list-@x-@[]", "list-@x-@[]")],
)
def test_a_sender_is_the_first_address_or_none(text: str, sender: str) -> None:
    assert parse_sender(text.encode()) == sender.encode()


def test_a_nul_ends_an_address() -> None:
    assert parse_addresses(b"<a@x.example\0Tvictim@y.example>") == [b"a@x.example"]


@given(st.binary(max_size=60) | st.text('ab@.,:;<>()"[]\\ \n', max_size=40).map(str.encode))
def test_any_bytes_are_read(text: bytes) -> None:
    reading = read_list(text)
    complete_list(text, RULES)
    assert len(reading.addresses) <= len(text)
    for address in parse_addresses(text):
        assert address
        assert b"\0" not in address


@pytest.mark.parametrize("piece", [b"(", b'"', b"[", b"<", b":", b"a:", b"<a", b"a,", b"a ", b"(a", b"; :", b"<<>"])
def test_reading_takes_no_more_than_its_time(piece: bytes) -> None:
    start = time.process_time()
    read_list(piece * (200_000 // len(piece)))
    assert time.process_time() - start < 10
