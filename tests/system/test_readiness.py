"""A service says once that it is ready, and only where systemd asked."""

import os
import socket
from pathlib import Path

import pytest

from pyqmail.system.readiness import tell_ready, without_request


@pytest.mark.parametrize("kind", ["path", "abstract"])
def test_ready_is_one_datagram(tmp_path: Path, kind: str) -> None:
    name = str(tmp_path / "notify") if kind == "path" else f"@pyqmail-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(name.replace("@", "\0", 1))
        listening.settimeout(10)
        tell_ready({b"NOTIFY_SOCKET": name.encode()})
        assert listening.recv(100) == b"READY=1"


@pytest.mark.parametrize("value", [None, b"", b"relative", b"/nowhere/at/all", b"@" + b"x" * 300])
def test_nobody_to_tell_is_no_trouble(value: bytes | None) -> None:
    tell_ready({} if value is None else {b"NOTIFY_SOCKET": value})


def test_others_do_not_inherit_the_request() -> None:
    assert without_request({b"NOTIFY_SOCKET": b"/x", b"PATH": b"/bin"}) == {b"PATH": b"/bin"}
