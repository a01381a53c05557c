"""Which channel and which address."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyqmail.policy.classify import Routing, classify, strip_prepend, variable_sender

VIRTUAL = {b"v.example": b"al-v", b".wild.example": b"w", b"ann@x.example": b"ann", b"out.wild.example": b""}
ROUTING = Routing(b"d.example", frozenset({b"here.example", b"d.example"}), frozenset({b"p.example"}), VIRTUAL)


@pytest.mark.contract(
    "send 3.7", "send 3.8", "send 4a.1", "send 4a.2", "send 4a.3", "send 4a.4", "send 4a.5", "send 11.3"
)
@pytest.mark.parametrize(
    ("recipient", "expected"),
    [
        pytest.param(b"joe", ("local", b"joe@d.example"), id="no host takes envnoathost"),
        pytest.param(b"", ("local", b"@d.example"), id="nothing at all does too"),
        pytest.param(b"Joe@HERE.example", ("local", b"Joe@HERE.example"), id="case is kept and ignored"),
        pytest.param(b"a%here.example@p.example", ("local", b"a@here.example"), id="percent hack"),
        pytest.param(b"a%far%p.example@p.example", ("remote", b"a@far"), id="percent hack repeats"),
        pytest.param(b"a%b@here.example@p.example", ("local", b"a@b@here.example"), id="the last at after it counts"),
        pytest.param(b"a@b@far.example", ("remote", b"a@b@far.example"), id="the last at counts"),
        pytest.param(b"X@V.example", ("local", b"al-v-X@V.example"), id="virtual domain"),
        pytest.param(b"x@a.wild.example", ("local", b"w-x@a.wild.example"), id="suffix"),
        pytest.param(b"x@wild.example", ("remote", b"x@wild.example"), id="a suffix is no domain"),
        pytest.param(b"x@out.wild.example", ("remote", b"x@out.wild.example"), id="empty prepend is an exception"),
        pytest.param(b"Ann@x.example", ("local", b"ann-Ann@x.example"), id="whole address"),
    ],
)
def test_classify(recipient: bytes, expected: tuple[str, bytes]) -> None:
    assert classify(recipient, ROUTING) == expected


def test_the_empty_key_catches_the_rest() -> None:
    routing = Routing(b"d", frozenset(), frozenset(), {b"": b"all"})
    assert classify(b"x@y.z", routing) == ("local", b"all-x@y.z")


@given(st.binary())
def test_classify_never_raises(recipient: bytes) -> None:
    assert b"@" in classify(recipient, ROUTING)[1]


@pytest.mark.parametrize(
    ("address", "expected"),
    [(b"al-v-x@v.example", b"x@v.example"), (b"AL-v-x@v.example", b"AL-v-x@v.example"), (b"ann-ann@x.example",) * 2],
    ids=["prefix removed", "only in its case", "not of whole addresses"],
)
def test_strip_prepend(address: bytes, expected: bytes) -> None:
    assert strip_prepend(address, VIRTUAL) == expected


@pytest.mark.parametrize(
    ("sender", "recipient", "expected"),
    [
        (b"l-@h-@[]", b"a@b@c", b"l-a@b=c@h"),
        (b"l@h", b"a@b", b"l@h"),
        (b"-@[]", b"a@b", b"-@[]"),
        (b"l-@h-@[]", b"a", b"l-@h-@[]"),
    ],
)
def test_variable_sender(sender: bytes, recipient: bytes, expected: bytes) -> None:
    assert variable_sender(sender, recipient) == expected


@pytest.mark.parametrize(
    ("recipient", "channel", "address"),
    [
        ("joe@bücher.example", "local", "joe@xn--bcher-kva.example"),
        ("joe@BüCHER.example", "local", "joe@xn--bcher-kva.example"),
        ("joe@grüße.example", "local", "joe@grüße.example"),
        ("joe@größe.example", "remote", "joe@größe.example"),
        ("joe@v.bücher.example", "local", "v-joe@v.xn--bcher-kva.example"),
        ("e\u0301@bücher.example", "local", "\u00e9@xn--bcher-kva.example"),
        ("e\u0301@far.example", "remote", "e\u0301@far.example"),
    ],
)
def test_domains_in_utf_8_are_known_by_their_a_labels_and_local_parts_are_composed(
    recipient: str, channel: str, address: str
) -> None:
    ours = frozenset({b"xn--bcher-kva.example", "grüße.example".encode()})
    routing = Routing(b"h", ours, frozenset(), {b"v.xn--bcher-kva.example": b"v"})
    assert classify(recipient.encode(), routing) == (channel, address.encode())
