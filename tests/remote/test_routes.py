"""smtproutes: which relay takes the mail for a host."""

import pytest

from pyqmail.control import parse_mapping
from pyqmail.protocol.sasl_client import Login
from pyqmail.remote.routes import Route, find_route, without_password

CLEAR, LMTP = frozenset((b"clear",)), frozenset((b"lmtp",))


@pytest.mark.contract("remote 2", "remote 2.2", "remote 2.5", "remote 2.6", "remote 2.7", "remote 2.8", "remote 2.9")
@pytest.mark.contract("remote 2.10", "remote 2.11", "remote 7.5")
@pytest.mark.parametrize(
    ("lines", "host", "route"),
    [
        pytest.param(b"dom:relay\n", b"dom", Route(b"relay", 25), id="a relay on port 25"),
        pytest.param(b"dom:relay\n", b"DoM", Route(b"relay", 25), id="case does not matter"),
        pytest.param(b"dom:relay:26\n", b"dom", Route(b"relay", 26), id="a port"),
        pytest.param(b"dom:relay:26x\n", b"dom", Route(b"relay", 26), id="the port is its digits"),
        pytest.param(b"dom:relay:x\n", b"dom", Route(b"relay", 0), id="no digits is port 0"),
        pytest.param(b"dom:[192.0.2.1]:26\n", b"dom", Route(b"[192.0.2.1]", 26), id="a literal"),
        pytest.param(b"dom:[2001:db8::1]:26\n", b"dom", Route(b"[2001:db8::1]", 26), id="an IPv6 literal"),
        pytest.param(b"dom:[2001:db8::1]\n", b"dom", Route(b"[2001:db8::1]", 25), id="an IPv6 literal without port"),
        pytest.param(b"dom:\n:x\n", b"dom", None, id="an empty relay beats the wildcard"),
        pytest.param(b"dom::26\n", b"dom", Route(b"", 26), id="an empty relay with a port names nothing"),
        pytest.param(b".dom:x\n", b"dom", None, id="a leading dot is not the domain itself"),
        pytest.param(b".dom:x\n", b"a.b.dom", Route(b"x", 25), id="a leading dot is every host below"),
        pytest.param(b".dom:x\n.b.dom:y\n", b"a.b.dom", Route(b"y", 25), id="the longest key first"),
        pytest.param(b":x\n", b"any", Route(b"x", 25), id="the empty key is everything else"),
        pytest.param(b"dom:a:5|j|x\n", b"dom", Route(b"a", 5, Login(b"j", b"x")), id="a user and a password"),
        pytest.param(b"dom:a|j|x|y\n", b"dom", Route(b"a", 25, Login(b"j", b"x|y")), id="a password with a bar"),
        pytest.param(b"dom:a:5|j\n", b"dom", Route(b"a", 5), id="a user alone is none"),
        pytest.param(b"dom:a:5/clear|j|x\n", b"dom", Route(b"a", 5, Login(b"j", b"x"), CLEAR), id="a word behind it"),
        pytest.param(b"dom:a:5/odd\n", b"dom", Route(b"a", 5), id="a word that is none"),
        pytest.param(b"dom:a:24/lmtp\n", b"dom", Route(b"a", 24, None, LMTP), id="LMTP"),
        pytest.param(
            b"dom:[127.0.0.1]:1/lmtp=/run/A/lmtp\n",
            b"dom",
            Route(b"[127.0.0.1]", 1, None, LMTP, b"/run/A/lmtp"),
            id="a socket, whose path is as it stands",
        ),
        pytest.param(
            b"dom:a:1/clear/lmtp=/s|j|x\n",
            b"dom",
            Route(b"a", 1, Login(b"j", b"x"), CLEAR | LMTP, b"/s"),
            id="a socket behind another word",
        ),
        pytest.param(b"dom:a:1/lmtp=s\n", b"dom", Route(b"a", 1), id="a relative path is a word that is none"),
        pytest.param(b"dom\n", b"dom", None, id="a line without colon is ignored"),
        pytest.param(b"dom:a\ndom:b\n", b"dom", Route(b"b", 25), id="the last line wins"),
        pytest.param(b" dom:a\n", b"dom", None, id="leading blanks are part of the key"),
    ],
)
def test_route(lines: bytes, host: bytes, route: Route | None) -> None:
    assert find_route(parse_mapping(lines), host) == route


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        (b"dom:relay:25", b"dom:relay:25"),
        (b"dom:relay:25|joe", b"dom:relay:25|joe"),
        (b"dom:relay:25|joe|se|ret", b"dom:relay:25|joe|***"),
        (b"dom:relay|joe|!program --key x", b"dom:relay|joe|***"),
    ],
)
def test_a_line_is_shown_without_its_password(line: bytes, shown: bytes) -> None:
    assert without_password(line) == shown
