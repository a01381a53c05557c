"""The short form of tests.soak.sessions."""

import os

import pytest

from tests.soak.sessions import measure

EACH_MAX_KIB = 8192  # a few sessions share less than a thousand do


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: another user owns the server")
def test_idle_tls_sessions_are_bounded_and_one_client_more_waits() -> None:
    found = measure(8)
    assert (found.all_kib - found.idle_kib) / 8 < EACH_MAX_KIB
    assert found.kept_waiting and found.greeting.startswith(b"220 mx.test")
