"""Date and Message-ID for the messages of printers (qmail-smtpd(8), COMPLETEHEADER)."""

import re

import pytest

from pyqmail.incoming.completion import HEADER_MAX, Completion

DATE = rb"Date: \d+ \w{3} \d{4} \d\d:\d\d:\d\d -0000\n"
ID = rb"Message-ID: <\d{14}\.\d{9}\.\d+\.qmail-smtpd@mx\.test>\n"


def completed(text: bytes, size: int) -> bytes:
    completion = Completion(b"mx.test")
    pieces = [completion.feed(text[at : at + size]) for at in range(0, len(text), size)]
    return b"".join(pieces) + completion.end()


@pytest.mark.parametrize("size", [1, 7, 100000])
@pytest.mark.parametrize(
    ("text", "added"),
    [
        (b"Subject: scan\n\nx\n\nDate: x\n", DATE + ID),
        (b"date : 1 Jan 2026 00:00:00 -0000\n\nx\n", ID),
        (b"Subject: a\n Date: b\nMESSAGE-ID: <1@x>\n\n", DATE),
        (b"Date: 1\nMessage-ID: <1@x>\n\nx\n", b""),
        (b"\nx\n", DATE + ID),
        (b"Subject: no body\n", DATE + ID),
        (b"Subject: a\n" * (HEADER_MAX // 8) + b"\n\n", b""),
        (b"", b""),
    ],
)
def test_what_is_missing_is_put_in_front(text: bytes, added: bytes, size: int) -> None:
    assert re.fullmatch(added + re.escape(text), completed(text, max(size, len(text) // 1000)))


def test_two_messages_have_two_ids() -> None:
    first, second = completed(b"\nx\n", 9), completed(b"\nx\n", 9)
    assert first.split(b"\n")[1] != second.split(b"\n")[1]
