"""Bounce paragraphs and heads."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyqmail.formats.bounce_text import (
    Charset,
    bounce_envelope,
    format_date,
    format_head,
    format_paragraph,
    mime_fields_for,
    return_address,
)
from pyqmail.formats.logline import safe


@pytest.mark.contract("send 8a.1")
def test_a_paragraph() -> None:
    assert format_paragraph(b"a\n@b", b"no\n\nway") == b"<a_@b>:\nno\n/way\n\n"
    assert format_paragraph(b"a@b", b"\n\n\nno\n\n") == b"<a@b>:\n///no\n\n\n"


@given(st.binary(), st.binary())
def test_a_paragraph_has_no_blank_line_but_its_end(address: bytes, report: bytes) -> None:
    paragraph = format_paragraph(address, report)
    assert paragraph.endswith(b"\n")
    assert b"\n\n" not in paragraph[:-2]


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        (b"", b"us-ascii 7bit"),
        (b"550 no\n", b"us-ascii 7bit"),
        ("550 unbekannter Empf\u00e4nger\n".encode(), b"utf-8 8bit"),
        ("550 unbekannter Empf\u00e4nger\n".encode("latin-1"), b"unknown-8bit 8bit"),
        ("\u00e4".encode()[:1], b"unknown-8bit 8bit"),
    ],
)
def test_the_mime_fields_fit_the_bytes(text: bytes, fields: bytes) -> None:
    charset, encoding = fields.split()
    wanted = b"Content-Type: text/plain; charset=%b\nContent-Transfer-Encoding: %b\n" % (charset, encoding)
    assert mime_fields_for(text) == b"MIME-Version: 1.0\n" + wanted
    whole = Charset()
    for byte in text:
        whole.feed(bytes((byte,)))
    assert whole.mime_fields() == mime_fields_for(text)


def test_the_head() -> None:
    head = format_head(0, b"M@h", b"h", b'a b@c"', number=7, double=True, mime=mime_fields_for(b"x"))
    assert head.startswith(
        b"Date: 1 Jan 1970 00:00:00 -0000\nMessage-ID: <19700101000000.7.qmail-send@h>\n"
        b'From: M@h\nTo: "a b"@c"\nSubject: failure notice\nAuto-Submitted: auto-replied\nMIME-Version: 1.0\n'
        b"Content-Type: text/plain; charset=us-ascii\nContent-Transfer-Encoding: 7bit\n\nHi. "
    )
    assert format_date(86400 * 11) == b"12 Jan 1970 00:00:00 -0000"


@pytest.mark.contract("send 9a.1")
def test_log_text_is_safe() -> None:
    assert safe(b"a b%\n\x7f\xff~!") == b"a_b_/__~!"


@pytest.mark.contract("send 8.1", "send 8.2", "send 8.3")
@pytest.mark.parametrize(
    ("sender", "envelope"),
    [
        (b"joe@a.example", (b"", b"joe@a.example")),
        (b"o-@h-@[]", (b"", b"o-@h")),
        (b"-@[]", (b"#@[]", b"pm@h")),
        (b"", (b"#@[]", b"pm@h")),
        (b"#@[]", None),
    ],
)
def test_where_a_bounce_goes(sender: bytes, envelope: tuple[bytes, bytes] | None) -> None:
    assert bounce_envelope(return_address(sender), b"pm@h") == envelope
