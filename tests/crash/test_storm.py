"""Every process killed at random while messages come in. 10,000 of them by ``python -m tests.crash.storm``."""

import os

import pytest

from tests.crash.storm import storm

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs the real users")


def test_each_acknowledged_message_reaches_each_recipient_whole() -> None:
    result = storm(200, 0.3)
    print(*result.lines(), sep="\n")
    assert not result.wrong, result.lines()
    assert result.acknowledged >= 200
    assert result.kills.total() >= 1  # how many depends on how quickly the machine is done
