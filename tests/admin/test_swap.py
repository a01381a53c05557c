"""What a C qmail in our tree would bounce or send in clear."""

from pathlib import Path

import pytest

from pyqmail.admin.swap import lost_lines
from pyqmail.control import ControlUnreadable
from tests.scripted_peers import run_program

CLEAR = "goes in clear, to any server"


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("smtproutes", "a.test:relay.test:26\nb.test:\n:[192.0.2.1]\n", []),
        ("smtproutes", "a.test:imap.test:24/lmtp\nb.test:[127.0.0.1]:1/lmtp=/run/lmtp\n", []),
        ("smtproutes", "a.test:relay.test:587|joe|secret\n", ["control/smtproutes: 'a.test': it gives no password"]),
        ("smtproutes", ":relay.test|joe|secret\n", ["control/smtproutes: everybody else: the user and password are"]),
        ("smtproutes", "a.test:[2001:db8::1]:26\n", ["control/smtproutes: 'a.test': an IPv6 address is no relay"]),
        ("authsenders", "@a.test:relay.test|joe|secret\n", ["control/authsenders: mail from '@a.test' goes without"]),
        ("tlsdestinations", "*:may\nb.test:none\n", []),
        ("tlsdestinations", "*:dane\n", [f"control/tlsdestinations: '*': {CLEAR}"]),
        ("tlsdestinations", "b.test:encrypt\n", [f"control/tlsdestinations: 'b.test': {CLEAR}"]),
        ("tlsdestinations", "b.test:odd\n", [f"control/tlsdestinations: 'b.test': {CLEAR}"]),
        ("tlshosts/mx.test.pem", "x", [f"control/tlshosts: 'mx.test': {CLEAR}"]),
        ("tlshosts/exhaustivelist", "", []),
        ("mtasts", "inet:127.0.0.1:8461\n", [f"control/mtasts: mail for a domain with a policy {CLEAR}"]),
    ],
)
def test_lines_that_a_c_qmail_does_not_know(tmp_path: Path, name: str, text: str, found: list[str]) -> None:
    path = tmp_path / "control" / name
    path.parent.mkdir(parents=True)
    path.write_text(text)
    lines = list(lost_lines(str(tmp_path)))
    assert len(lines) == len(found) and all(a.startswith(b) for a, b in zip(lines, found, strict=True)), lines
    assert "secret" not in str(lines)


def test_what_cannot_be_read_is_said(tmp_path: Path) -> None:
    (tmp_path / "control" / "smtproutes").mkdir(parents=True)
    with pytest.raises(ControlUnreadable):
        list(lost_lines(str(tmp_path)))


def test_the_command_prints_them(tmp_path: Path) -> None:
    (tmp_path / "control").mkdir()
    words = [b"--check", b"swap"]
    assert run_program("pyqmail.programs.qmail_showctl", words, tmp_path) == (0, b"")
    (tmp_path / "control/tlsdestinations").write_text("b.test:verify\n")
    said = f"qmail-showctl: swap: control/tlsdestinations: 'b.test': {CLEAR}\n".encode()
    assert run_program("pyqmail.programs.qmail_showctl", words, tmp_path) == (1, said)
