"""Values: what `value` makes of a class."""

import pytest

from pyqmail.log.events import MessageEnded, NewMessage
from pyqmail.send.job import Delivery


def test_values_of_one_class_are_equal_by_their_fields_and_others_never() -> None:
    assert NewMessage(7) == NewMessage(7) != NewMessage(8)
    assert NewMessage(7) != MessageEnded(7)
    assert len({NewMessage(7), NewMessage(7), NewMessage(8)}) == 2


def test_a_value_has_its_fields_and_nothing_else() -> None:
    with pytest.raises(AttributeError):
        NewMessage(7).other = 1  # type: ignore[attr-defined]
    assert Delivery.__match_args__ == ("job", "serial", "offset", "recipient", "key")
