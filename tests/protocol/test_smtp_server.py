"""The SMTP server core: addresses, the order of commands as one function, message text in any chunks."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyqmail.protocol import smtp_server
from pyqmail.protocol.smtp_server import (
    BareLineFeed,
    BodyDecoder,
    Effect,
    Offer,
    State,
    declared_size,
    format_ehlo,
    parse_address,
    parse_command,
    parse_parameters,
    step,
)

OFFER = Offer(b"mx.test", 1000)
LIMITED = b"250-mx.test\r\n250-PIPELINING\r\n250-SIZE 0\r\n250-8BITMIME\r\n250 LIMITS RCPTMAX=%d\r\n"
IDLE, SENT, READY = State.IDLE, State.SENDER, State.RECIPIENTS


@pytest.mark.parametrize(
    ("line", "command"),
    [
        pytest.param(b"mail FROM:<a>\r", (b"MAIL", b"FROM:<a>"), id="case is folded and one CR dropped"),
        pytest.param(b"NOOP\0x", (b"NOOP", b""), id="a NUL ends the line"),
        pytest.param(b"RCPT   TO:<a> ", (b"RCPT", b"TO:<a> "), id="trailing blanks stay"),
        pytest.param(b"HELO\tx", (b"HELO\tX", b""), id="a tab separates nothing"),
        pytest.param(b"", (b"", b""), id="empty"),
    ],
)
def test_commands(line: bytes, command: tuple[bytes, bytes]) -> None:
    assert parse_command(line) == command


@pytest.mark.parametrize(
    ("argument", "address"),
    [
        pytest.param(b"FROM:<a@b>", b"a@b", id="in angle brackets"),
        pytest.param(b"FROM:<a@b> SIZE=5", b"a@b", id="parameters are ignored"),
        pytest.param(b"FROM: a@b x", b"a@b", id="without brackets up to a blank"),
        pytest.param(b"FROM:<@r,@s:a@b>", b"a@b", id="a source route is dropped"),
        pytest.param(b"FROM:<@r>", b"", id="a route without its colon leaves nothing"),
        pytest.param(b'FROM:<"a>b"@c>', b"a>b@c", id="quotes hide the bracket"),
        pytest.param(b"FROM:<a\\>b@c>", b"a>b@c", id="a backslash hides it too"),
        pytest.param(b"FROM:<a@b", b"a@b", id="the bracket may be missing"),
        pytest.param(b"", b"", id="no argument is the empty address"),
    ],
)
def test_addresses(argument: bytes, address: bytes) -> None:
    assert parse_address(argument) == address


@pytest.mark.parametrize(
    ("before", "line", "reply"),
    [
        pytest.param(IDLE, b"HELO x", b"250 mx.test\r\n", id="helo"),
        pytest.param(IDLE, b"RCPT TO:<c@d>", b"503 MAIL first (#5.5.1)\r\n", id="rcpt first"),
        pytest.param(IDLE, b"DATA", b"503 MAIL first (#5.5.1)\r\n", id="data before mail"),
        pytest.param(SENT, b"DATA", b"503 RCPT first (#5.5.1)\r\n", id="data before rcpt"),
        pytest.param(READY, b"RSET x", b"250 flushed\r\n", id="rset"),
        pytest.param(READY, b"NOOP", b"250 ok\r\n", id="noop"),
        pytest.param(READY, b"VRFY x", b"252 send some mail, i'll try my best\r\n", id="vrfy"),
        pytest.param(READY, b"QUIT", b"221 mx.test\r\n", id="quit"),
        pytest.param(READY, b"EXPN x", b"502 unimplemented (#5.5.1)\r\n", id="expn"),
        pytest.param(READY, b"", b"502 unimplemented (#5.5.1)\r\n", id="an empty line"),
    ],
)
def test_replies(before: State, line: bytes, reply: bytes) -> None:
    assert step(before, *parse_command(line), OFFER)[1] == reply


@pytest.mark.parametrize(
    ("before", "line", "outcome"),
    [
        pytest.param(IDLE, b"MAIL FROM:<a@b>", (Effect.SENDER, b"", b"FROM:<a@b>"), id="mail"),
        pytest.param(READY, b"MAIL", (Effect.SENDER, b"", b""), id="mail again, without an argument"),
        pytest.param(SENT, b"RCPT TO:<c@d>", (Effect.RECIPIENT, b"", b"TO:<c@d>"), id="rcpt"),
        pytest.param(READY, b"DATA", (Effect.DATA, b"", b""), id="data"),
    ],
)
def test_what_the_session_decides(before: State, line: bytes, outcome: object) -> None:
    assert step(before, *parse_command(line), OFFER) == outcome


def test_ehlo_offers_pipelining_size_and_8bitmime() -> None:
    reply = b"250-mx.test\r\n250-PIPELINING\r\n250-SIZE 1000\r\n250 8BITMIME\r\n"
    assert step(READY, b"EHLO", b"x", OFFER) == (Effect.HELLO, reply, b"x")


def test_an_extension_that_is_not_offered_has_no_line(monkeypatch: pytest.MonkeyPatch) -> None:
    extensions = [(b"ONE", lambda offer: b" 1"), (b"TWO", lambda offer: None)]
    monkeypatch.setattr(smtp_server, "EXTENSIONS", extensions)
    assert format_ehlo(OFFER) == b"250-mx.test\r\n250 ONE 1\r\n"


@pytest.mark.parametrize(
    ("offer", "line"),
    [
        (OFFER._replace(tls=True), b"STARTTLS"),
        (OFFER._replace(mechanisms=b"PLAIN"), b"AUTH PLAIN"),
        (OFFER._replace(chunking=True), b"CHUNKING"),
        (OFFER._replace(dsn=True), b"DSN"),
        (OFFER._replace(smtputf8=True), b"SMTPUTF8"),
        (OFFER._replace(requiretls=True), b"REQUIRETLS"),
    ],
    ids=lambda value: value.decode() if isinstance(value, bytes) else "",
)
def test_an_answer_to_ehlo_is_never_that_of_another_offer(offer: Offer, line: bytes) -> None:
    for _ in range(2):
        assert b" " + line + b"\r\n" in step(IDLE, b"EHLO", b"x", offer)[1].replace(b"-", b" ")
        assert line not in step(IDLE, b"EHLO", b"x", OFFER)[1]


@pytest.mark.parametrize(
    ("argument", "size"),
    [
        (b"FROM:<a> SIZE=1001", 1001),
        (b"FROM:<a> BODY=8BITMIME size=7 SIZE=8", 7),
        (b"FROM:<SIZE=5>", 0),
        (b"FROM:<a> SIZE=x SIZE=" + b"9" * 21, 0),
        (b"", 0),
    ],
)
def test_declared_sizes(argument: bytes, size: int) -> None:
    assert declared_size(parse_parameters(argument)) == size


def reference(wire: bytes) -> tuple[bytes, bytes] | None:
    """Stored text and what follows the end, byte by byte as the contract's table says; None for a bare LF."""
    text, at, start = bytearray(), 0, True
    while at < len(wire):
        if start and wire[at : at + 3] == b".\r\n":
            return bytes(text), wire[at + 3 :]
        if start and wire[at] == 0x2E and wire[at + 1 : at + 2] != b"\r":
            at += 1
            start = False
            continue
        if wire[at] == 0x0A:
            return None
        if wire[at : at + 2] == b"\r\n":
            text += b"\n"
            at, start = at + 2, True
            continue
        text.append(wire[at])
        at, start = at + 1, False
    raise AssertionError("no end")


@given(st.lists(st.sampled_from([b"\r", b"\n", b".", b"\r\n", b"a", b"\0", b"\r\n.", b"\xe9"]), max_size=30), st.data())
def test_any_chunks_store_what_the_table_says(parts: list[bytes], data: st.DataObject) -> None:
    wire = b"".join(parts) + b"\r\n.\r\nrest"
    expected = reference(wire)
    decoder, text, at = BodyDecoder(), b"", 0
    try:
        while not decoder.done:
            size = data.draw(st.integers(1, len(wire)))
            text += decoder.feed(wire[at : at + size])
            at += size
    except BareLineFeed:
        assert expected is None
        return
    assert expected is not None, "a bare LF went through"
    assert (text, decoder.rest + wire[at:]) == expected


@pytest.mark.parametrize(
    ("wire", "hops"),
    [
        pytest.param(b"Received: a\r\nDELIVERED-to: b\r\nX: y\r\n\r\nReceived: no\r\n.\r\n", 2, id="header lines only"),
        pytest.param(b"received-spf: x\r\n.\r\n", 1, id="no colon is needed"),
        pytest.param(b"..Received: x\r\n.\r\n", 0, id="compared with its dot"),
        pytest.param(b"X: y\r\n.Received: x\r\n.\r\n", 0, id="compared with its dot, before that is dropped"),
        pytest.param(b"\r\nReceived: x\r\n.\r\n", 0, id="a body from the first line"),
    ],
)
def test_hops(wire: bytes, hops: int) -> None:
    for size in (1, 3, len(wire)):
        decoder = BodyDecoder()
        for at in range(0, len(wire), size):
            decoder.feed(wire[at : at + size])
        assert decoder.hops.count == hops


@pytest.mark.parametrize("most", [1, 999_999])
def test_a_limit_of_recipients_is_told(most: int) -> None:
    assert format_ehlo(Offer(b"mx.test", 0, recipients_max=most)) == LIMITED % most


@pytest.mark.parametrize("most", [0, 1_000_000])
def test_no_limit_and_one_of_seven_digits_are_not_told(most: int) -> None:
    assert b"LIMITS" not in format_ehlo(Offer(b"mx.test", 0, recipients_max=most))
