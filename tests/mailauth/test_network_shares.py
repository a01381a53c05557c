"""One network keeps no more than its share of qmail-verifyd's workers busy."""

import os

from pyqmail.mailauth.network_shares import NetworkShares


def test_half_of_the_workers_are_left_to_others_and_come_back() -> None:
    shares = NetworkShares(4, 2)
    assert shares.take(0, b"a", 0) and shares.take(1, b"a", 0)
    assert not shares.take(2, b"a", 0.05)
    assert shares.take(2, b"b", 0) and shares.take(3, b"b", 0)
    shares.free(1)
    assert shares.take(1, b"a", 0)


def test_who_waits_has_the_share_that_another_process_gives_back() -> None:
    shares = NetworkShares(2, 1)
    assert shares.take(0, b"a", 0)
    pid = os.fork()
    if pid == 0:
        shares.free(0)
        os._exit(0)
    try:
        assert shares.take(1, b"a", 30)
    finally:
        os.waitpid(pid, 0)
