"""The parameters of the DSN extension as values (RFC 3461 section 4)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyqmail.formats.xtext import decode_xtext, is_xtext
from pyqmail.protocol.dsn import WrongParameter, parse_mail, parse_rcpt
from pyqmail.protocol.smtp_server import names_any, parse_address, parse_parameters


@pytest.mark.parametrize(
    ("parameters", "ret", "envid"),
    [
        (b"", b"", b""),
        (b" SIZE=5 RET=hdrs", b"HDRS", b""),
        (b" ret=FULL envid=a+2Bb BODY=8BITMIME", b"FULL", b"a+2Bb"),
        (b" ENVID=" + b"x" * 100, b"", b"x" * 100),
        (b" ENVID=a=b", None, b""),
        (b" RET=SOME", None, b""),
        (b" RET=", None, b""),
        (b" RET=FULL RET=FULL", None, b""),
        (b" ENVID=", None, b""),
        (b" ENVID=" + b"x" * 101, None, b""),
        (b" ENVID=" + b"x" * 10240, None, b""),
        (b" ENVID=a+2b", None, b""),
        (b" ENVID=a+", None, b""),
        (b" ENVID=a\xe9", None, b""),
        (b" ENVID=a ENVID=a", None, b""),
        (b" ENVID=a\rb", None, b""),
        (b" ENVID=a+0D+0AX:+20y", b"", b"a+0D+0AX:+20y"),  # harmless: what is decoded is printed in one line
    ],
)
def test_parameters_of_mail(parameters: bytes, ret: bytes | None, envid: bytes) -> None:
    if ret is None:
        with pytest.raises(WrongParameter):
            parse_mail(parameters)
    else:
        assert parse_mail(parameters) == (ret, envid)


@pytest.mark.parametrize(
    ("parameters", "notify", "orcpt"),
    [
        (b"", set(), b""),
        (b" NOTIFY=success,FAILURE", {b"SUCCESS", b"FAILURE"}, b""),
        (b" NOTIFY=NEVER ORCPT=rfc822;a+2Bb@c", {b"NEVER"}, b"rfc822;a+2Bb@c"),
        (b" ORCPT=utf-8;\\x{3B4}@c", set(), b"utf-8;\\x{3B4}@c"),
        ((" ORCPT=utf-8;\u03b4@c").encode(), set(), ("utf-8;\u03b4@c").encode()),
        (b" NOTIFY=", None, b""),
        (b" NOTIFY", None, b""),
        (b" NOTIFY=NEVER,SUCCESS", None, b""),
        (b" NOTIFY=NEVER NOTIFY=NEVER", None, b""),
        (b" ORCPT=rfc822;", None, b""),
        (b" ORCPT=a@c", None, b""),
        (b" ORCPT=other;a@c", None, b""),
        (b" ORCPT=rfc822;\xe9@c", None, b""),
        (b" ORCPT=utf-8;\xe9@c", None, b""),
        (b" ORCPT=rfc822;" + b"x" * 493, set(), b"rfc822;" + b"x" * 493),  # RFC 3461 section 5.4
        (b" ORCPT=rfc822;" + b"x" * 494, None, b""),
        (b" ORCPT=rfc822;" + b"x" * 10240, None, b""),
        (b" NOTIFY=" + b"NEVER," * 1700, None, b""),
        (b" ORCPT=rfc822;a@c ORCPT=rfc822;a@c", None, b""),
        (b" ORCPT=rfc822;a\r@c", None, b""),
    ],
)
def test_parameters_of_rcpt(parameters: bytes, notify: set[bytes] | None, orcpt: bytes) -> None:
    if notify is None:
        with pytest.raises(WrongParameter):
            parse_rcpt(parameters)
    else:
        assert parse_rcpt(parameters) == (notify, orcpt)


@pytest.mark.parametrize(
    ("argument", "address", "parameters"),
    [
        (b"TO:<a@b> NOTIFY=NEVER", b"a@b", b" NOTIFY=NEVER"),
        (b"TO:<a@b> ORCPT=rfc822;x>y@c NOTIFY=NEVER", b"a@b", b" ORCPT=rfc822;x>y@c NOTIFY=NEVER"),
        (b'TO:<"a>b"@c> ORCPT=rfc822;x>y', b"a>b@c", b" ORCPT=rfc822;x>y"),
        (b"TO:<a\\>b@c> SIZE=5>", b"a>b@c", b" SIZE=5>"),
        (b"TO:<a@b", b"a@b", b"TO:<a@b"),
    ],
)
def test_parameters_begin_where_the_address_ends(argument: bytes, address: bytes, parameters: bytes) -> None:
    assert parse_address(argument) == address and parse_parameters(argument) == parameters


def test_a_parameter_is_named_at_the_beginning_of_a_word_only() -> None:
    assert names_any(b" SIZE=5 notify=NEVER", (b"NOTIFY=",))
    assert not names_any(b" ENVID=xNOTIFY=NEVER", (b"NOTIFY=",))


@given(st.binary(max_size=40))
def test_no_bytes_break_the_parsers(parameters: bytes) -> None:
    for parse in (parse_mail, parse_rcpt):
        try:
            parse(parameters)
        except WrongParameter:
            continue


@given(st.binary(max_size=40))
def test_what_is_xtext_is_decoded(data: bytes) -> None:
    text = b"".join(b"+%02X" % byte for byte in data)
    assert is_xtext(text) and decode_xtext(text) == data
