"""The SMTP server core: addresses, the transaction as one function, message text in any chunks."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyqmail.protocol.smtp_server import (
    BareLineFeed,
    BodyDecoder,
    Effect,
    Policy,
    Transaction,
    parse_address,
    parse_command,
    step,
)


def policy(**changed: object) -> Policy:
    """The rules of these tests, less what ``changed`` says."""
    rules: dict[str, object] = {
        "greeting": b"mx.test",
        "size_limit": 1000,
        "relay_suffix": None,
        "bad_sender": lambda sender: sender == b"bad@x",
        "accepts": lambda recipient: not recipient.endswith(b"@elsewhere"),
        "exists": lambda recipient: not recipient.startswith(b"nobody@"),
        "localize": lambda address: address,
    }
    return Policy(**(rules | changed))  # type: ignore[arg-type]


POLICY = policy()
SENT = Transaction(b"a@b")
READY = Transaction(b"a@b", has_recipient=True)


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
        pytest.param(Transaction(), b"HELO x", b"250 mx.test\r\n", id="helo"),
        pytest.param(Transaction(), b"MAIL FROM:<a@b>", b"250 ok\r\n", id="mail"),
        pytest.param(Transaction(), b"MAIL", b"250 ok\r\n", id="mail without an argument is the empty sender"),
        pytest.param(Transaction(), b"MAIL FROM:<a> SIZE=1001", b"552 sorry, that message size exceeds my databytes "
                     b"limit (#5.3.4)\r\n", id="a declared size over the limit"),
        pytest.param(Transaction(), b"MAIL FROM:<" + b"a" * 900, b"555 syntax error (#5.5.4)\r\n", id="mail too long"),
        pytest.param(Transaction(), b"RCPT TO:<c@d>", b"503 MAIL first (#5.5.1)\r\n", id="rcpt first"),
        pytest.param(SENT, b"RCPT TO:<c@d>", b"250 ok\r\n", id="rcpt"),
        pytest.param(SENT, b"RCPT TO:<c@elsewhere>", b"553 sorry, that domain isn't in my list of allowed rcpthosts "
                     b"(#5.7.1)\r\n", id="relaying"),
        pytest.param(SENT, b"RCPT TO:<nobody@d>", b"550 sorry, no mailbox here by that name (#5.1.1)\r\n", id="nobody"),
        pytest.param(SENT, b"RCPT TO:<nobody@elsewhere>", b"553 sorry, that domain isn't in my list of allowed "
                     b"rcpthosts (#5.7.1)\r\n", id="nobody's existence is asked only where we accept mail"),
        pytest.param(Transaction(b"bad@x", sender_refused=True), b"RCPT TO:<c@d>", b"553 sorry, your envelope sender "
                     b"is in my badmailfrom list (#5.7.1)\r\n", id="badmailfrom"),
        pytest.param(Transaction(), b"DATA", b"503 MAIL first (#5.5.1)\r\n", id="data before mail"),
        pytest.param(SENT, b"DATA", b"503 RCPT first (#5.5.1)\r\n", id="data before rcpt"),
        pytest.param(READY, b"DATA", b"354 go ahead\r\n", id="data"),
        pytest.param(READY, b"RSET x", b"250 flushed\r\n", id="rset"),
        pytest.param(READY, b"NOOP", b"250 ok\r\n", id="noop"),
        pytest.param(READY, b"VRFY x", b"252 send some mail, i'll try my best\r\n", id="vrfy"),
        pytest.param(READY, b"QUIT", b"221 mx.test\r\n", id="quit"),
        pytest.param(READY, b"EXPN x", b"502 unimplemented (#5.5.1)\r\n", id="expn"),
        pytest.param(READY, b"", b"502 unimplemented (#5.5.1)\r\n", id="an empty line"),
    ],
)  # fmt: skip
def test_replies(before: Transaction, line: bytes, reply: bytes) -> None:
    assert step(before, *parse_command(line), POLICY)[1] == reply


def test_ehlo_offers_pipelining_size_and_8bitmime() -> None:
    transaction, reply, effect, _, helo = step(READY, b"EHLO", b"x", POLICY)
    assert reply == b"250-mx.test\r\n250-PIPELINING\r\n250-SIZE 1000\r\n250 8BITMIME\r\n"
    assert (transaction.sender, transaction.has_recipient, effect, helo) == (None, False, Effect.CLEAR, b"x")


def test_a_refused_mail_leaves_the_transaction_alone() -> None:
    assert step(READY, b"MAIL", b"<" + b"a" * 900 + b">", POLICY)[0] is READY


def test_relayclient_accepts_everything_and_adds_its_text() -> None:
    _, _, effect, address, _ = step(SENT, b"RCPT", b"TO:<nobody@elsewhere>", policy(relay_suffix=b".via"))
    assert (effect, address) == (Effect.ACCEPTED, b"nobody@elsewhere.via")


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
    assert decoder.size == len(text)


@pytest.mark.parametrize(
    ("wire", "hops"),
    [
        pytest.param(b"Received: a\r\nDELIVERED-to: b\r\nX: y\r\n\r\nReceived: no\r\n.\r\n", 2, id="header lines only"),
        pytest.param(b"received-spf: x\r\n.\r\n", 1, id="no colon is needed"),
        pytest.param(b"..Received: x\r\n.\r\n", 0, id="compared with its dot"),
        pytest.param(b"\r\nReceived: x\r\n.\r\n", 0, id="a body from the first line"),
    ],
)
def test_hops(wire: bytes, hops: int) -> None:
    for size in (1, 3, len(wire)):
        decoder = BodyDecoder()
        for at in range(0, len(wire), size):
            decoder.feed(wire[at : at + size])
        assert decoder.hops == hops


def test_the_limit_counts_after_the_local_address_was_replaced() -> None:
    far = policy(localize=lambda address: address + b".long.name")
    assert step(Transaction(), b"MAIL", b"<" + b"a" * 895 + b">", POLICY)[1] == b"250 ok\r\n"
    assert step(Transaction(), b"MAIL", b"<" + b"a" * 895 + b">", far)[1] == b"555 syntax error (#5.5.4)\r\n"
