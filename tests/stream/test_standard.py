"""The client on 0, as a worker of tcpserver has it from its listening socket."""

import os
import socket

import pytest

from pyqmail.stream.descriptors import turn_of
from pyqmail.stream.standard import Standard, client_socket, limit


@pytest.mark.parametrize(
    ("set_s", "wanted_s", "known"),
    [
        pytest.param(1200, 1200, True, id="whole seconds"),
        pytest.param(101, 101, True, id="a part of a second, which the kernel rounds"),
        pytest.param(1200, 31, False, id="another limit"),
        pytest.param(0, 1200, False, id="none"),
    ],
)
def test_a_limit_that_came_with_a_connection_is_known(set_s: int, wanted_s: int, known: bool) -> None:
    pid = os.fork()
    if pid == 0:
        code = 2
        try:
            code = 0 if (_limit_of_accepted(set_s, wanted_s) is not None) is known else 1
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def _limit_of_accepted(set_s: int, wanted_s: int) -> int | None:
    """Standard.limit_s of a process that wants ``wanted_s``, where connections come with ``set_s``."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        limit(listener, turn_of(set_s) if set_s else 0)
        with socket.create_connection(listener.getsockname()):
            accepted, _ = listener.accept()
            os.dup2(accepted.fileno(), 0)
            Standard.limit_s = wanted_s
            client_socket(socket.AF_INET).detach()
    return Standard.limit_s
