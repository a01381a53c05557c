"""The lines in front of a delivered message (contract local, sections 3, 6 and 7)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyqmail.formats.mailline import (
    format_delivered_to,
    format_from_line,
    format_return_path,
    header_has_line,
    mbox_body,
)

LINE = b"Delivered-To: joe@x\n"


@pytest.mark.contract("local 9.11")
@pytest.mark.parametrize(
    ("sender", "expected"),
    [
        pytest.param(b"a@b", b"From a@b Thu Jan 01 00:00:05 1970\n", id="two digits for the day"),
        pytest.param(b"", b"From MAILER-DAEMON Thu Jan 01 00:00:05 1970\n", id="a bounce"),
        pytest.param(b"a b\tc\nd@e", b"From a-b-c-d@e Thu Jan 01 00:00:05 1970\n", id="no blanks"),
    ],
)
def test_from_line(sender: bytes, expected: bytes) -> None:
    assert format_from_line(sender, 5) == expected


def test_newlines_cannot_forge_a_header() -> None:
    assert format_delivered_to(b"a\nb@c") == b"Delivered-To: a_b@c\n"
    assert format_return_path(b"a\nb@c").count(b"\n") == 1
    assert format_return_path(b"a b@c") == b'Return-Path: <"a b"@c>\n'
    assert format_return_path(b"") == b"Return-Path: <>\n"


@pytest.mark.parametrize(
    ("message", "found"),
    [
        pytest.param(LINE, True, id="the very first line"),
        pytest.param(b"A: b\n" + LINE + b"\nbody\n", True, id="in the header"),
        pytest.param(b"A: b\njunk\n" + LINE, True, id="junk does not end the header"),
        pytest.param(b"A: b\n\n" + LINE, False, id="in the body"),
        pytest.param(b"\n" + LINE, False, id="no header at all"),
        pytest.param(LINE.lower(), False, id="case matters"),
        pytest.param(LINE[:-1], False, id="an unended last line is not compared"),
        pytest.param(b"X" + LINE, False, id="part of a line"),
        pytest.param(LINE[:-1] + b" \n", False, id="a longer line"),
    ],
)
def test_loop_check_compares_whole_header_lines(message: bytes, found: bool) -> None:
    assert header_has_line([message], LINE) is found
    assert header_has_line((message[i : i + 1] for i in range(len(message))), LINE) is found


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        pytest.param(b"", b"\n", id="an empty message"),
        pytest.param(b"a", b"a\n\n", id="a last line without newline"),
        pytest.param(b"From x\n>From y\n>>From z\n", b">From x\n>>From y\n>>>From z\n\n", id="one more bracket"),
        pytest.param(b"From\n From x\nxFrom y\nfrom z\n", b"From\n From x\nxFrom y\nfrom z\n\n", id="not a From line"),
        pytest.param(b"a\nFrom end", b"a\n>From end\n\n", id="an unended From line"),
    ],
)
def test_mbox_body(message: bytes, expected: bytes) -> None:
    assert b"".join(mbox_body([message])) == expected
    assert b"".join(mbox_body(message[i : i + 1] for i in range(len(message)))) == expected


@given(st.lists(st.sampled_from([b"From ", b">", b"\n", b"a", b"Fro", b"m "])), st.integers(1, 7))
def test_chunk_boundaries_do_not_matter(parts: list[bytes], size: int) -> None:
    message = b"".join(parts)
    chunks = [message[i : i + size] for i in range(0, len(message), size)]
    assert b"".join(mbox_body(chunks)) == b"".join(mbox_body([message]))
