"""Debian's opendkim takes what is signed here, and here is taken what it signs; a change neither takes.

Simple header canonicalization is left to dkimpy (test_dkim): the test mode of opendkim changes fields before hashing,
which its milter does not.
"""

import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mailauth.test_dkim import KEYS, RSA, public_record, results, signed
from tests.remote.test_signatures import PEM

HEADERS = {
    "plain": b"Subject: a\n",
    "folded": b"Subject:  a  b\n\t c \n  d\n",
    "twice": b"Subject: a\nSubject: b\nTo: c@c.example\n",
    "8-bit": b"Subject: caf\xe9 \xff\n",
    "long": b"Subject: " + b"x" * 1990 + b"\n",
    "blank continuation": b"Subject: a\n \t\n b\n",
}
BODIES = {
    "short": b"hello\n",
    "empty": b"",
    "blank lines": b"\n\n\n",
    "trailing blanks": b"a  b\t\nc \n\n\n",
    "no line end": b"hello",
    "8-bit": b"caf\xe9 \xff\xfe\n",
    "dots": b".\n..\n.x\n",
    "long line": b"x" * 3000 + b"\n",
    "huge": b"0123456789abcdef  \t\n" * 30000,
}
START = b"From: Ann <ann@a.example>\nTo: bob@b.example\nDate: Sat, 28 Nov 2026 10:00:00 +0000\n"
MESSAGES = [(name, text, b"hello\n") for name, text in HEADERS.items()]
MESSAGES += [(name, b"Subject: a\n", body) for name, body in BODIES.items()]


class Opendkim:
    """opendkim in its test mode, with one key."""

    def __init__(self, base: Path) -> None:
        self._base = base
        (base / "key").write_bytes(PEM["r"])
        (base / "keys").write_bytes(b"r._domainkey.a.example " + public_record(RSA) + b"\n")
        (base / "hosts").write_text("127.0.0.1\nlocalhost\n0.0.0.0/0\n")
        self._common = "Syslog no\nUserID root\nSocket inet:8891@localhost\nRequireSafeKeys no\n"

    def _run(self, settings: str, message: bytes) -> bytes:
        (self._base / "conf").write_text(self._common + settings)
        sent = message if message.endswith(b"\n") else message + b"\n"  # SMTP ends each line
        (self._base / "message").write_bytes(sent.replace(b"\n", b"\r\n"))
        run = subprocess.run(
            ["opendkim", "-x", self._base / "conf", "-t", self._base / "message", "-v", "-v"],
            capture_output=True,
            check=False,
            timeout=60,
        )
        return run.stdout

    def verifies(self, message: bytes) -> bool:
        said = self._run(f"Mode v\nTestPublicKeys {self._base}/keys\n", message)
        assert b"verification (s=r" in said, said
        return b" succeeded" in said

    def signs(self, message: bytes, form: str) -> bytes:
        """The message with its signature."""
        said = self._run(
            f"Mode s\nKeyFile {self._base}/key\nSelector r\nDomain a.example\nInternalHosts {self._base}/hosts\n"
            f"Canonicalization {form}\n",
            message,
        )
        field = re.search(rb"hname='DKIM-Signature' hvalue='(.*)'", said, re.DOTALL)
        assert field is not None, said
        return b"DKIM-Signature: " + field[1] + b"\n" + message


@pytest.fixture(scope="module")
def opendkim() -> Iterator[Opendkim]:
    if not shutil.which("opendkim") or os.geteuid() != 0:
        assert "PYQMAIL_TESTS_WHOLE" not in os.environ, "opendkim is not installed"
        pytest.skip("opendkim is not installed, or this is not root")
    with tempfile.TemporaryDirectory(prefix="pyqmail-opendkim-") as base:
        yield Opendkim(Path(base))


@pytest.mark.parametrize(("header", "body"), [row[1:] for row in MESSAGES], ids=[row[0] for row in MESSAGES])
def test_both_agree(opendkim: Opendkim, header: bytes, body: bytes) -> None:
    text = START + header
    ours = signed(text, body, KEYS[:1], int(time.time()))
    assert opendkim.verifies(ours)
    assert not opendkim.verifies(ours.replace(b"ann@a", b"eve@a"))
    for form in ("relaxed/relaxed", "relaxed/simple"):
        theirs = opendkim.signs(text + b"\n" + body, form)
        assert results(theirs) == [b"pass"], form
        assert results(theirs.replace(b"ann@a", b"eve@a")) == [b"fail"]
