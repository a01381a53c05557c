"""How well a connection must be secured, and for whom a certificate is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyqmail.control import ControlUnreadable
from pyqmail.protocol.certificate_names import matches
from pyqmail.remote.routes import Route
from pyqmail.remote.security import Level, Policies, TlsControls, destination_key, parse_destination

RELAY = Route(b"Relay.Example.NET", 25)


@pytest.mark.parametrize(
    ("lines", "route", "key"),
    [
        ({b"x.test": b"", b".test": b"", b"": b""}, None, b"x.test"),
        ({b".test": b"", b"*": b""}, None, b".test"),
        ({b"*": b""}, None, b"*"),
        ({b"": b"", b"relay.example.net": b""}, RELAY, b"relay.example.net"),
        ({b"x.test": b"", b"relay.example.net": b""}, RELAY, b"x.test"),
        ({b"other.test": b""}, RELAY, None),
    ],
)
def test_the_recipients_domain_counts_then_the_relay_then_wildcards(
    lines: dict[bytes, bytes], route: Route | None, key: bytes | None
) -> None:
    assert destination_key(lines, b"X.test", route) == key


def test_a_destination_has_four_fields() -> None:
    assert parse_destination(b"Verify|ca.pem|HIGH|me.pem") == (Level.VERIFY, "ca.pem", "HIGH", "me.pem")
    assert parse_destination(b"") == (Level.MAY, "", "", "")
    for bad in (b"maybe", b"/etc/ca.pem", b"may|a|b|c|d"):
        with pytest.raises(ControlUnreadable):
            parse_destination(bad)


@given(st.binary(max_size=60))
def test_any_destination_is_read_or_refused(value: bytes) -> None:
    try:
        parse_destination(value)
    except ControlUnreadable:
        return


def test_file_names_in_lines_are_relative_to_control() -> None:
    controls, lines = TlsControls("/h"), {b"x.test": b"verify|ca.pem||/etc/me.pem"}
    found = Policies(controls, lines, b"x.test", None).of(b"MX.x.test.")
    assert (found.names, found.authorities, found.certificate) == ((b"mx.x.test",), "/h/control/ca.pem", "/etc/me.pem")
    assert found.must and Policies(controls, lines, b"y.test", None).of(b"mx").level is Level.MAY


@pytest.mark.parametrize(
    ("names", "asked", "fits"),
    [
        ([("DNS", "mx.test")], b"MX.test", True),
        ([("DNS", "*.x.test")], b"mx.x.test", True),
        ([("DNS", "*.x.test")], b"a.mx.x.test", False),
        ([("DNS", "*.x.test")], b"x.test", False),
        ([("DNS", "m*.x.test")], b"mx.x.test", False),
        ([("DNS", "*")], b"localhost", False),
        ([("DNS", "*.test")], b"mx.test", False),
        ([("DNS", "mx.x.test")], b".x.test", True),
        ([("DNS", "a.mx.x.test")], b".x.test", False),
        ([("IP Address", "127.0.0.1")], b"127.0.0.1", True),
        ([("IP Address", "0:0:0:0:0:0:0:1")], b"[::1]", True),
        ([("DNS", "127.0.0.1")], b"127.0.0.1", False),
        ([], b"cn.test", True),
        ([("DNS", "other.test")], b"cn.test", False),
    ],
)
def test_for_whom_a_certificate_is(names: list[tuple[str, str]], asked: bytes, fits: bool) -> None:
    certificate = {"subject": ((("commonName", "cn.test"),),), "subjectAltName": tuple(names)}
    assert matches(certificate if names else {"subject": certificate["subject"]}, asked) is fits
