"""What bounces say to programs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyqmail.formats.bounce_text import format_paragraph
from pyqmail.formats.delivery_status import (
    PARAGRAPH_MAX,
    Outcome,
    format_message_fields,
    format_outcome,
    format_recipient_fields,
    format_typed_address,
    parse_paragraphs,
    status_of,
)

FAILURES = st.lists(st.tuples(st.binary().filter(lambda found: b"\n" not in found), st.binary()), max_size=5)


@given(FAILURES, st.integers(min_value=1, max_value=50))
def test_the_recipients_of_a_bounce_file_are_found_in_any_pieces(
    failures: list[tuple[bytes, bytes]], size: int
) -> None:
    data = b"".join(format_paragraph(address, text) for address, text in failures)
    pieces = [data[start : start + size] for start in range(0, len(data), size)]
    assert [address for address, _ in parse_paragraphs(pieces)] == [address for address, _ in failures]


def test_a_paragraph_without_an_end_takes_no_more_memory_than_is_looked_at() -> None:
    ((address, text),) = parse_paragraphs(iter([b"<a@b>:\n"] + [b"x" * 60_000] * 50))
    assert address == b"a@b" and len(text) <= PARAGRAPH_MAX
    pieces = [b"<a@b>:\n", b"x" * 60_000, b"\n", b"\n<c@d>:\nno\n\n"]
    assert [address for address, _ in parse_paragraphs(pieces)] == [b"a@b", b"c@d"]


@pytest.mark.parametrize(
    ("text", "status"),
    [
        (b"Sorry, no mailbox here by that name. (#5.1.1)\n", b"5.1.1"),
        (b"1.2.3.4 failed.\nRemote host said: 550 5.7.26 no\n", b"5.7.26"),
        (b"1.2.3.4 failed.\nRemote host said: 550-5.7.26 no #5.1.1\n", b"5.7.26"),
        (b"1.2.3.4 failed.\nRemote host said: 550 no (#5.2.2)\n", b"5.2.2"),
        (b"1.2.3.4 failed.\nRemote host said: 550 no 5.1.1\n", b"5.0.0"),
        (b"1.2.3.4 failed.\nRemote host said: 550 5.1.1111 no\n", b"5.0.0"),
        (b"Sorry, I wasn't able to establish an SMTP connection. (#4.4.1)\nI'm not going to try again;\n", b"4.4.1"),
        (b"", b"5.0.0"),
    ],
)
def test_the_status_is_that_of_the_other_host_or_our_own(text: bytes, status: bytes) -> None:
    assert status_of(text) == status


@pytest.mark.parametrize(
    ("address", "typed"),
    [
        (b"joe+x@a.example", b"rfc822; joe+x@a.example"),
        (b"a b@a.example", b'rfc822; "a b"@a.example'),
        (b"a\rX: y@a.example", b'rfc822; "a\\?X: y"@a.example'),
        ("jos\u00e9=\\@a.example".encode(), b'utf-8; "jos\\x{E9}\\x{3D}\\x{5C}\\x{5C}"@a.example'),
        ("jos\u00e9@a.example".encode(), b"utf-8; jos\\x{E9}@a.example"),
        (b"jos\xe9@a.example", b'rfc822; "jos?"@a.example'),
    ],
)
def test_an_address_is_ascii_of_the_right_type(address: bytes, typed: bytes) -> None:
    assert format_typed_address(address) == typed


@given(st.binary(), st.binary())
def test_no_text_can_add_a_field_or_a_recipient(address: bytes, text: bytes) -> None:
    lines = format_recipient_fields(address, text).split(b"\n")
    assert [line.partition(b":")[0] for line in lines[1:5]] == [
        b"Final-Recipient", b"Action", b"Status", b"Diagnostic-Code"
    ]  # fmt: skip
    assert (
        lines[0] == b""
        and lines[5:] == [b""]
        and all(b" " <= bytes((byte,)) <= b"~" for line in lines for byte in line)
    )
    assert len(lines[4]) <= 998


@pytest.mark.parametrize(
    ("text", "host"),
    [
        (b"192.0.2.1 does not like recipient.\nRemote host said: 550 no\n", b"[192.0.2.1]"),
        (b"Connected to 192.0.2.1 but sender was rejected.\nRemote host said: 550 no\n", b"[192.0.2.1]"),
        (b"2001:db8::1 failed on DATA command.\nRemote host said: 550 no\n", b"[IPv6:2001:db8::1]"),
        (b"/run/lmtp does not like recipient.\nRemote host said: 550 no\n", b""),
        (b"192.0.2.1 accepted message.\n", b""),
    ],
)
@pytest.mark.parametrize("action", ["failed", "delayed", "relayed", "delivered"])
def test_who_answered_is_the_remote_mta(text: bytes, host: bytes, action: str) -> None:
    """RFC 3461 section 6.3 (h) and (i)."""
    of_failure = format_recipient_fields(b"a@b", text)
    fields = of_failure if action == "failed" else format_outcome(Outcome(b"a@b", action, text), 0)
    answered = b"Remote host said" in text and action != "delivered"
    assert (b"\nRemote-MTA: dns; %b\n" % host in fields) == bool(host and answered)
    assert (b"\nDiagnostic-Code: smtp; 550 no\n" in fields) == answered


def test_xtext_adds_no_field() -> None:
    fields = format_message_fields(b"mx", 0, b"a+0D+0AX:+20y") + format_recipient_fields(
        b"a@b", b"no", b"rfc822;o+0D+0AX:+20y@x"
    )
    assert b"\nX:" not in fields and b"Original-Envelope-Id: a??X: y\n" in fields and b"rfc822; o??X: y@x\n" in fields
