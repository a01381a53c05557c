"""A home with an empty queue, and a qmail-send between scripted spawners."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.programs.sending import Sending, make_queue
from tests.programs.tcp_servers import Servers


@pytest.fixture
def send_home(single_user_home: Path) -> Path:
    """A single-user home: three subdirectories, one local and one virtual domain."""
    make_queue(single_user_home)
    control = single_user_home / "control"
    (control / "conf-split").write_text("3\n")
    (single_user_home / "run/send").mkdir(parents=True, exist_ok=True)
    for remainder in range(3):
        (single_user_home / f"queue/pyqmail/facts/{remainder}").mkdir(parents=True, exist_ok=True)
    (control / "locals").write_text("here.example\n")
    (control / "virtualdomains").write_text("v.example:alias-v\n")
    return single_user_home


@pytest.fixture
def sending(send_home: Path) -> Iterator[Sending]:
    """A qmail-send of that home, not yet started; ended afterwards."""
    daemon = Sending(send_home)
    yield daemon
    daemon.kill()


@pytest.fixture
def servers() -> Iterator[Servers]:
    """A starter of tcpservers; they end with the test."""
    made = Servers()
    yield made
    made.end()
