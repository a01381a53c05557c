"""Every process killed at random while messages come in; PYQMAIL_TESTS_LONG: 10,000 of them."""

import os

import pytest

from tests.crash.storm import storm

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs the real users")


def test_each_acknowledged_message_reaches_each_recipient_whole() -> None:
    result = storm(10_000 if os.environ.get("PYQMAIL_TESTS_LONG") else 200, 0.3)
    print(*result.lines(), sep="\n")
    assert not result.wrong, result.lines()
    assert result.acknowledged >= 200
    assert result.kills.total() >= 1  # how many depends on how quickly the machine is done
