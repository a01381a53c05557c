"""Programs held in memory: what each parent gets of them."""

import os

import pytest

from pyqmail.remote.sender import Sender
from pyqmail.system.alert_clock import AlertClock
from pyqmail.tcp.chain import FORKED, POOLED
from pyqmail.warm.served import Plain, load


def test_a_program_that_prepares_nothing_is_its_main() -> None:
    served = load("pyqmail.programs.qmail_tcpok", {})
    assert isinstance(served, Plain)
    assert served.serve([b"qmail-tcpok", b"no such option"], {b"QMAIL_HOME": b"/nonexistent"}) != 0
    served.wait(0)
    served.close()


def test_qmail_remote_keeps_connections_from_job_to_job() -> None:
    served = load("pyqmail.programs.qmail_remote", {})
    assert isinstance(served, Sender)
    served.close()


@pytest.mark.parametrize("module", [*POOLED, *FORKED])
def test_servers_share_one_clock_for_alerts(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(AlertClock, "inherited", None)
    load(module, {b"QMAIL_HOME": os.fsencode("/nonexistent")})
    assert AlertClock.inherited is not None
