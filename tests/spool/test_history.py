"""What of a reply is kept beside the queue, for qmail-q and for bounces."""

import pytest

from pyqmail.formats.logline import safe
from pyqmail.spool.history import REPLY_MAX, trimmed

TLS = b"tls=TLSv1.3, verified by dane"


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        pytest.param(b"no luck\n", b"no luck", id="a short one"),
        pytest.param(b"451 later\n" + TLS + b"\n", b"451 later\n" + TLS, id="a short one under TLS"),
        pytest.param(b"x" * 1000 + b"\n", b"x" * REPLY_MAX, id="a long one"),
        pytest.param(
            b"x" * 1000 + b"\n" + TLS + b"\n",
            b"x" * (REPLY_MAX - len(TLS) - 1) + b"\n" + TLS,
            id="a long one under TLS",
        ),
        pytest.param(
            b"451\ntls=" + b"y" * 1000, b"451\ntls=" + b"y" * (REPLY_MAX // 2 - 4), id="a policy that says much"
        ),
    ],
)
def test_a_reply_is_cut_before_what_it_says_of_tls(text: bytes, kept: bytes) -> None:
    assert trimmed(text) == safe(kept) and len(kept) <= REPLY_MAX
