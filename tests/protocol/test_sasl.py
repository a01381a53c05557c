"""AUTH as a conversation of values."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyqmail.protocol import sasl
from pyqmail.protocol.sasl import Cancelled, Credentials, Malformed

OFFERED = b"LOGIN PLAIN CRAM-MD5"
CHALLENGE = b"<1.2@mx.test>"


def b64(data: bytes) -> bytes:
    return base64.b64encode(data)


def talk(argument: bytes, *lines: bytes, offered: bytes = OFFERED) -> tuple[list[bytes], Credentials | None]:
    """What is asked, and what comes out; None for an unknown mechanism."""
    exchange = sasl.begin(argument, offered, CHALLENGE)
    asked: list[bytes] = []
    if exchange is None:
        return asked, None
    answers = iter(lines)
    try:
        asked.append(next(exchange))
        while True:
            asked.append(exchange.send(next(answers)))
    except StopIteration as end:
        return asked, end.value


def fields(credentials: Credentials | None) -> tuple[bytes, ...]:
    assert credentials is not None
    return credentials.method, credentials.user, credentials.secret, credentials.challenge


@pytest.mark.parametrize(
    ("argument", "lines", "asked", "found"),
    [
        (b"PLAIN " + b64(b"\0ann\0pw"), [], [], (b"plain", b"ann", b"pw", b"")),
        (b"plain " + b64(b"ann\0ann\0pw"), [], [], (b"plain", b"ann", b"pw", b"")),
        (b"PLAIN", [b64(b"\0ann\0pw") + b"\r"], [b""], (b"plain", b"ann", b"pw", b"")),
        (b"LOGIN", [b64(b"ann"), b64(b"pw")], [b"Username:", b"Password:"], (b"login", b"ann", b"pw", b"")),
        (b"login " + b64(b"ann"), [b64(b"pw")], [b"Password:"], (b"login", b"ann", b"pw", b"")),
        (b"CRAM-MD5", [b64(b"a b 00FF")], [CHALLENGE], (b"cram-md5", b"a b", b"00ff", CHALLENGE)),
        (b"LOGIN =", [b64(b"pw")], [b"Password:"], (b"login", b"", b"pw", b"")),
    ],
)
def test_exchanges(argument: bytes, lines: list[bytes], asked: list[bytes], found: tuple[bytes, ...]) -> None:
    assert talk(argument, *lines)[0] == asked
    assert fields(talk(argument, *lines)[1]) == found


@pytest.mark.parametrize("argument", [b"", b"GSSAPI", b"PLAINER", b"CRAM-MD5"])
def test_a_mechanism_that_is_not_offered(argument: bytes) -> None:
    assert talk(argument, offered=b"LOGIN PLAIN") == ([], None)


@pytest.mark.parametrize(
    "argument",
    [
        pytest.param(b"PLAIN !", id="no base64"),
        pytest.param(b"PLAIN YQ", id="no padding"),
        pytest.param(b"PLAIN YQ== YQ==", id="two words"),
        pytest.param(b"PLAIN " + b64(b"ann"), id="one field"),
        pytest.param(b"PLAIN " + b64(b"\0ann\0p\0w"), id="four fields"),
        pytest.param(b"PLAIN " + b64(b"root\0ann\0pw"), id="somebody else"),
        pytest.param(b"PLAIN " + b64(bytes(75_000)), id="100 KiB"),
        pytest.param(b"CRAM-MD5 " + b64(b"ann 00"), id="an answer before the question"),
    ],
)
def test_what_is_malformed(argument: bytes) -> None:
    with pytest.raises(Malformed):
        talk(argument)


@pytest.mark.parametrize("argument", [b"PLAIN", b"LOGIN", b"CRAM-MD5", b"LOGIN " + b64(b"ann")])
def test_a_star_cancels(argument: bytes) -> None:
    with pytest.raises(Cancelled):
        talk(argument, b"*\r")


@pytest.mark.parametrize(
    ("user", "secret", "possible"),
    [
        (b"ann", b"pw", True),
        ("änn".encode(), b"\xff\r\n", True),
        (b"", b"pw", False),
        (b"ann", b"", False),
        (b"a\r\nn", b"pw", False),
        (b"a\0n", b"pw", False),
        (b"ann", b"p\0w", False),
        (b"a" * 255, b"p" * 254, True),
        (b"a" * 255, b"p" * 255, False),
    ],
)
def test_what_a_checker_is_asked(user: bytes, secret: bytes, possible: bool) -> None:
    assert Credentials(b"plain", user, secret).possible is possible


@given(st.binary(max_size=60), st.lists(st.binary(max_size=40), max_size=3))
def test_no_bytes_raise_anything_else(argument: bytes, lines: list[bytes]) -> None:
    for name in (b"", b"PLAIN ", b"LOGIN ", b"CRAM-MD5"):
        try:
            talk(name + argument, *lines)
        except (Cancelled, Malformed):
            pass
        except RuntimeError as error:
            assert isinstance(error.__cause__, StopIteration)  # the lines were over


@given(st.binary(min_size=1).filter(lambda each: b"\0" not in each), st.binary().filter(lambda each: b"\0" not in each))
def test_what_a_client_sends_comes_out(user: bytes, secret: bytes) -> None:
    assert fields(talk(b"PLAIN " + b64(b"\0" + user + b"\0" + secret))[1]) == (b"plain", user, secret, b"")
    assert fields(talk(b"LOGIN " + b64(user), b64(secret))[1]) == (b"login", user, secret, b"")
