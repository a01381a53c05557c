"""Authentication-Results and Received-SPF: written, read back, and read as others write them (RFC 8601)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyqmail.mailauth.results import Result, authserv_id, format_received_spf, format_results, parse_results


def test_what_is_written_is_read_back() -> None:
    results = [
        Result(b"spf", b"pass", [(b"smtp.mailfrom", b"ann@a.example")]),
        Result(b"dkim", b"fail", [(b"header.d", b"a.example")], reason=b'no "fit"', comment=b"2048-bit (rsa)"),
    ]
    name, found = parse_results(format_results(b"MX.test", results).partition(b":")[2])
    assert name == b"mx.test"
    assert [(each.method, each.result, each.properties, each.reason) for each in found] == [
        (each.method, each.result, each.properties, each.reason) for each in results
    ]


@pytest.mark.parametrize(
    ("body", "name", "dkim"),
    [
        pytest.param(b" mx.test; dkim=pass header.d=a.example;", b"mx.test", b"pass", id="a semicolon at the end"),
        pytest.param(b' "mx.test" 1; dkim=pass', b"mx.test", b"pass", id="quotes and a version"),
        pytest.param(b" (c (d)) mx.test (x); dkim (y) = (z) pass", b"mx.test", b"pass", id="comments"),
        pytest.param(b" mx.test; dkim (x) / 1 (y) = fail", b"mx.test", b"fail", id="blanks in a name"),
        pytest.param(b' mx.test; spf=pass smtp.mailfrom=""; dkim=pass', b"mx.test", b"pass", id="an empty value"),
        pytest.param(b" mx.test; none", b"mx.test", b"", id="none"),
        pytest.param(b' mx.test; dkim/1=pass reason="a;b=c"', b"mx.test", b"pass", id="a semicolon in quotes"),
        pytest.param(b" spf=pass smtp.mailfrom=a; dkim=pass", b"spf", b"pass", id="no authserv-id"),
        pytest.param(b" MX.TEST ;dkim=Pass", b"mx.test", b"pass", id="capitals"),
        pytest.param(b"", b"", b"", id="nothing"),
        pytest.param(b"; dkim=pass", b"", b"pass", id="nobody's"),
    ],
)
def test_what_others_write_is_read(body: bytes, name: bytes, dkim: bytes) -> None:
    found, results = parse_results(body)
    assert found == authserv_id(body) == name
    assert next((each.result for each in results if each.method == b"dkim"), b"") == dkim


def test_blanks_around_the_sign_in_a_name_belong_to_it() -> None:
    (found,) = parse_results(b"mx.test; dkim=pass header.d=a.example. policy (A) . (b) expired (c) = 1 header .s=/s/")[
        1
    ]
    assert found.properties == ((b"header.d", b"a.example."), (b"policy.expired", b"1"), (b"header.s", b"/s/"))


def test_no_value_ends_its_line() -> None:
    text = format_results(b"mx.test", [Result(b"spf", b"pass", [(b"smtp.mailfrom", b'a"\r\nBcc: x@y\x00\xff')])])
    assert text.count(b"\n") == 2
    spf = format_received_spf(b"fail", b"2001:db8::1", b"a\nb@x", b"h\r\nh", b"mx", b"-all", b"p(")
    assert all(line[:1] == b"\t" for line in spf.split(b"\n")[1:-1])
    assert b'client-ip="2001:db8::1"' in spf


@given(st.binary(max_size=200))
def test_any_body_is_read(body: bytes) -> None:
    parse_results(body)


@given(st.binary(max_size=100), st.binary(max_size=100))
def test_any_value_comes_back_as_it_is_shown(value: bytes, reason: bytes) -> None:
    text = format_results(b"mx.test", [Result(b"spf", b"pass", [(b"smtp.mailfrom", value or b"x")], reason=reason)])
    name, (found,) = parse_results(text.partition(b":")[2])
    assert (name, found.method, found.result) == (b"mx.test", b"spf", b"pass")
    assert len(found.get(b"smtp.mailfrom")) == len(value or b"x")
