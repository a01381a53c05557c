"""Logging in at a relay: which mechanism is used, and what is said, against the server's half."""

import hmac
from base64 import b64decode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyqmail.protocol import sasl
from pyqmail.protocol.sasl_client import Login, exchange
from pyqmail.protocol.smtp_replies import Reply

TEXT = st.binary(min_size=1, max_size=60).filter(lambda text: b"\0" not in text)

PASSWORD = TEXT.filter(lambda text: not text.startswith(b"!"))  # which would name a program


def said(login: Login, secret: bytes, offered: list[bytes], replies: list[Reply]) -> list[bytes] | None:
    """All lines that an exchange says; None where nothing of the offer is good."""
    talk = exchange(login, lambda: secret, offered, b"relay.test", 587)
    try:
        lines = [next(talk)]
        for reply in replies:
            lines.append(talk.send(reply))
    except StopIteration as end:
        return lines if end.value else None
    return lines


@given(TEXT, PASSWORD, st.sampled_from([b"PLAIN", b"LOGIN", b"CRAM-MD5"]))
def test_the_servers_half_understands_it(user: bytes, password: bytes, name: bytes) -> None:
    talk = exchange(Login(user, password), lambda: password, [name.lower()], b"relay.test", 25)
    server = sasl.begin(next(talk).removeprefix(b"AUTH "), name, b"<1.2@x>")
    assert server is not None
    try:
        challenge = next(server)
        while True:
            line = talk.send(Reply(334, sasl.encode(challenge).replace(b"\r", b"")))
            challenge = server.send(line)
    except StopIteration as end:
        got = end.value
    assert got.user == user
    expected = hmac.new(password, b"<1.2@x>", "md5").hexdigest().encode() if name == b"CRAM-MD5" else password
    assert got.secret == expected


@pytest.mark.parametrize(
    ("offered", "first"),
    [
        ([b"LOGIN", b"PLAIN", b"CRAM-MD5"], b"AUTH CRAM-MD5"),
        ([b"LOGIN", b"PLAIN"], b"AUTH PLAIN AHUAcA=="),
        ([b"GSSAPI", b"LOGIN"], b"AUTH LOGIN"),
    ],
)
def test_which_mechanism(offered: list[bytes], first: bytes) -> None:
    assert said(Login(b"u", b"p"), b"p", offered, []) == [first]


@pytest.mark.parametrize(("password", "offered"), [(b"p", [b"XOAUTH2"]), (b"!token", [b"PLAIN"]), (b"p", [])])
def test_nothing_that_the_login_can_use(password: bytes, offered: list[bytes]) -> None:
    with pytest.raises(StopIteration) as end:
        next(exchange(Login(b"u", password), lambda: b"t", offered, b"h", 25))
    assert end.value.value is None


def test_bearer_tokens() -> None:
    login, wrong = Login(b"joe,x@y.test", b"!token"), Reply(334, b"334 e30=\n")
    lines = said(login, b"T0K", [b"XOAUTH2"], [wrong])
    assert lines and b64decode(lines[0][13:]) == b"user=joe,x@y.test\1auth=Bearer T0K\1\1" and lines[1] == b""
    lines = said(login, b"T0K", [b"XOAUTH2", b"OAUTHBEARER"], [wrong])
    assert lines and lines[1] == b"AQ=="
    assert b64decode(lines[0][17:]) == b"n,a=joe=2Cx@y.test,\1host=relay.test\1port=587\1auth=Bearer T0K\1\1"


def test_a_password_is_not_in_what_may_be_printed() -> None:
    assert b"secret".decode() not in repr(Login(b"joe", b"secret"))
