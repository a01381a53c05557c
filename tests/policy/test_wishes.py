"""What was said of recipients, where they are in the channel files."""

import pytest

from pyqmail.formats.facts import Facts, RecipientFacts
from pyqmail.policy import wishes
from pyqmail.policy.classify import Routing

ROUTING = Routing(b"here.example", frozenset({b"here.example"}), frozenset(), {})
TO = b"joe@far.example"


def notify(words: str) -> frozenset[bytes]:
    return frozenset(words.encode().split(b",")) if words else frozenset()


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        (["", ""], ""),
        (["NEVER", "NEVER"], "NEVER"),
        (["NEVER", ""], "FAILURE"),
        (["SUCCESS", ""], "FAILURE,SUCCESS"),
        (["SUCCESS", "NEVER"], "SUCCESS"),
        (["DELAY", "SUCCESS"], "DELAY,SUCCESS"),
    ],
)
def test_equal_addresses_want_what_any_of_them_wants(said: list[str], wanted: str) -> None:
    facts = Facts(recipients=tuple(RecipientFacts(TO, notify(words)) for words in said))
    places = wishes.place(facts, ROUTING)
    assert [each.notify for each in places.values()] == [notify(wanted)] * 2
    assert [offset for _, offset in places] == [0, len(TO) + 2]
    assert wishes.by_address(places, "remote")[TO].notify == notify(wanted)
