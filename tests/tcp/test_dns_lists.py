"""Whether a client is turned away: given these lists, this command line, and what the lists say."""

import time

import pytest

from pyqmail.tcp import dns_lists
from pyqmail.tcp.dns_lists import LATER, Block, Listing, Lists, Refusal, decide, means, means_listed, reversed_address
from pyqmail.tcp.remote_name import SoftFailure

CLIENT = {b"TCPREMOTEIP": b"192.0.2.9"}
SAID: dict[bytes, Listing | SoftFailure] = {
    b"no": Listing(False, b""),
    b"block": Listing(True, b"listed"),
    b"silent": Listing(True, b""),
    b"known": Listing(True, b""),
    b"down": SoftFailure("no answer"),
    b"shut": Refusal(b"not for you"),
}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The lists that were asked, in order."""
    seen: list[bytes] = []

    def look_up(name: bytes, environ: object, codes: bytes, until: float) -> Listing:
        client, _, base = name.rpartition(b".")
        assert client == b"9.2.0.192"
        seen.append(base)
        said = SAID[base]
        if isinstance(said, SoftFailure):
            raise said
        return said

    monkeypatch.setattr(dns_lists, "look_up", look_up)
    return seen


def lists(words: str, *, permanent: bool = False, fail_closed: bool = False) -> Lists:
    """``r:base`` and ``a:base``."""
    pairs = (word.encode().split(b":") for word in words.split())
    return Lists(tuple((letter, base) for letter, base in pairs), permanent, fail_closed)


@pytest.mark.parametrize(
    ("given", "block"),
    [
        pytest.param(lists(""), None, id="no list, nobody is blocked"),
        pytest.param(lists("r:no r:block"), Block(b"listed", False), id="one of two lists is enough"),
        pytest.param(lists("r:block", permanent=True), Block(b"listed", True), id="for ever"),
        pytest.param(lists("r:silent r:no"), None, id="a list without a text blocks nobody"),
        pytest.param(lists("a:known r:block"), None, id="an allowing list before it decides"),
        pytest.param(lists("r:block a:known"), Block(b"listed", False), id="after it comes too late"),
        pytest.param(lists("r:down r:block"), Block(b"listed", False), id="a list that is down is passed over"),
        pytest.param(lists("r:down", fail_closed=True), Block(LATER, False), id="or turns away for now"),
        pytest.param(lists("r:down", permanent=True, fail_closed=True), Block(LATER, False), id="never for ever"),
        pytest.param(lists("a:down r:block"), None, id="an allowing list that is down allows"),
        pytest.param(
            lists("a:down r:block", permanent=True, fail_closed=True),
            Block(b"listed", False),
            id="or does not, for now",
        ),
    ],
)
def test_who_is_blocked(given: Lists, block: Block | None, asked: list[bytes]) -> None:
    assert decide(given, CLIENT, lambda text: None) == block


def test_who_is_decided_on_is_asked_after_no_more(asked: list[bytes]) -> None:
    decide(lists("r:no r:block r:down"), CLIENT, lambda text: None)
    assert asked == [b"no", b"block"]


def test_the_log_hears_of_a_list_that_turns_us_away_only(asked: list[bytes]) -> None:
    said: list[bytes] = []
    assert decide(lists("r:shut r:down r:no"), CLIENT, said.append) is None
    assert said == [b"shut does not answer: not for you"]


@pytest.mark.parametrize(
    ("variable", "block"),
    [
        (b"", None),
        (b"go away", Block(b"go away", False)),
        (b"-go away", Block(b"go away", True)),
        (b"x" * 300, Block(b"x" * 200, False)),
        (b"a\r\n250 ok", Block(b"a??250 ok", False)),
    ],
    ids=["empty", "for now", "for ever", "too long", "lines"],
)
def test_a_rule_of_tcpserver_decides_before_every_list(
    variable: bytes, block: Block | None, asked: list[bytes]
) -> None:
    assert decide(lists("r:block"), {**CLIENT, b"RBLSMTPD": variable}, lambda text: None) == block
    assert asked == []


@pytest.mark.parametrize(
    ("address", "listed"),
    [
        (b"\x7f\0\0\2", True),
        (b"\x7f\xff\xfe\xff", True),
        (b"\x7f\0\0\1", False),
        (b"\x7f\xff\xff\xfe", False),
        (b"\xc0\0\2\1", False),
        (b"\0" * 15 + b"\1", False),
    ],
    ids=["127.0.0.2", "127.255.254.255", "127.0.0.1", "127.255.255.254", "a parked domain", "no address of a list"],
)
def test_which_answers_mean_that_a_client_is_listed(address: bytes, listed: bool) -> None:
    assert means_listed(address) is listed


@pytest.mark.parametrize(
    ("ip", "labels"),
    [
        (b"192.0.2.9", b"9.2.0.192"),
        (b"::ffff:192.0.2.9", b"9.2.0.192"),
        (b"2001:db8::1", b"1" + b".0" * 23 + b".8.b.d.0.1.0.0.2"),
        (b"dd.the", b"the.dd"),
        (b"", b""),
    ],
)
def test_an_address_is_asked_for_from_its_end(ip: bytes, labels: bytes) -> None:
    assert reversed_address(ip) == labels


@pytest.mark.parametrize(
    ("codes", "address", "meant"),
    [
        (b"127.0.0.2", b"\x7f\0\0\2", True),
        (b"127.0.0.2", b"\x7f\0\0\3", False),
        (b"127.0.0.[2..11]", b"\x7f\0\0\x0b", True),
        (b"127.0.[0;2].[2;4..6]", b"\x7f\0\2\5", True),
        (b"127.0.[0;2].[2;4..6]", b"\x7f\0\1\5", False),
        (b"127.0.0", b"\x7f\0\0\2", False),
        (b"127.0.0.x", b"\x7f\0\0\2", False),
        (b"127.0.0.2", b"\0" * 16, False),
    ],
)
def test_which_answers_count(codes: bytes, address: bytes, meant: bool) -> None:
    assert means(codes, address) is meant


def test_when_the_time_for_all_lists_is_over_no_other_is_asked() -> None:
    with pytest.raises(SoftFailure, match="the time for all lists is over"):
        dns_lists.look_up(b"2.0.0.127.x", {}, b"", time.monotonic() - 1)
