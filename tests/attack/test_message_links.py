"""Where qmailq lets queue/mess lead: the spawners, one of them root, open nothing there but a message."""

import os
import pty
from pathlib import Path

import pytest

from pyqmail.warm.message_file import Refused, open_message


@pytest.fixture
def mess(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_message_itself_is_opened(mess: Path) -> None:
    (mess / "7").write_bytes(b"x")
    fd, status = open_message(b"7", os.getuid())
    os.close(fd)
    assert status.st_size == 1


def test_a_link_in_the_place_of_a_message_defers(mess: Path) -> None:
    (mess / "elsewhere").write_bytes(b"x")
    (mess / "7").symlink_to("elsewhere")
    with pytest.raises(Refused) as refused:
        open_message(b"7", os.getuid())
    assert refused.value.letter == b"Z"


def test_a_terminal_in_the_place_of_a_message_does_not_become_the_spawners(mess: Path) -> None:
    master, slave = pty.openpty()
    (mess / "0").symlink_to("/dev/pts")
    name = b"0/" + os.path.basename(os.ttyname(slave)).encode()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.setsid()  # as whoever starts services has done
            with pytest.raises(Refused):
                open_message(name, os.getuid())
            with pytest.raises(OSError, match="No such device"):
                os.open("/dev/tty", os.O_RDWR)  # which is the terminal of a process
            code = 0
        finally:
            os._exit(code)
    os.close(master)
    os.close(slave)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
