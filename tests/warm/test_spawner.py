"""The spawners' engine in this process, where system calls can be made to fail (contract: spawn section 2)."""

import errno
import os
from collections.abc import Callable, Iterator
from typing import NoReturn

import pytest

from pyqmail.policy.accounts import read_accounts
from pyqmail.programs.qmail_lspawn import LocalChannel
from pyqmail.protocol.spawn import Report, ReportParser, format_command
from pyqmail.system.loop import Loop
from pyqmail.warm import spawner
from pyqmail.warm.spawner import Spawner
from tests.programs.spawn_bench import Home, install_script

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="needs files of another owner")
Serve = Callable[[object, str, object], list[Report]]


def fails(*_args: object, **_more: object) -> NoReturn:
    raise OSError(errno.EAGAIN, "made to fail")


def out_of_memory(*_args: object) -> NoReturn:
    raise MemoryError


@pytest.fixture
def serve(
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    capfdbinary: pytest.CaptureFixture[bytes],
) -> Iterator[Serve]:
    """A local spawner's reports on two commands for slot 3, while something is replaced."""
    home = Home()
    install_script(home.path / "bin/qmail-local", "echo delivered")
    home.assign("=joe:joe:39001:39001:/home/joe:::\n")
    monkeypatch.chdir(home.path / "queue/mess")
    accounts, loop = read_accounts(str(home.path)), Loop()
    channel = LocalChannel(loop, str(home.path), accounts, b"./Mailbox", {b"PATH": b"/usr/bin:/bin"}, 10)
    engine = Spawner(loop, channel, spawn_limit=10, message_owner=accounts.uid_queue)
    commands = tmp_path_factory.mktemp("commands") / "commands"
    commands.write_bytes(format_command(3, b"0/1", b"s@x", b"joe@x") * 2)
    before, given = os.dup(0), os.open(commands, os.O_RDONLY)

    def run(target: object, name: str, value: object) -> list[Report]:
        os.dup2(given, 0)
        with monkeypatch.context() as patch:
            patch.setattr(target, name, value)
            engine.run()
        output = capfdbinary.readouterr().out
        assert output[0] == 10
        return ReportParser().feed(output[1:])

    yield run
    os.dup2(before, 0)
    os.close(before)
    os.close(given)
    loop.close()
    home.close()


def assert_deferred(reports: list[Report]) -> None:
    """Both commands gave Z 4.3.0: the first did not leave its slot taken."""
    assert [(report.slot, report.letter) for report in reports] == [(3, b"Z")] * 2
    assert all(b"(#4.3.0)" in report.text for report in reports), reports


@pytest.mark.contract("spawn 2.9")
def test_a_message_without_status_is_deferred(serve: Serve) -> None:
    assert_deferred(serve(os, "fstat", fails))


@pytest.mark.parametrize("call", ["pipe2", "fork"])
@pytest.mark.contract("spawn 2.12")
def test_no_pipe_or_no_process_is_deferred(serve: Serve, call: str) -> None:
    assert_deferred(serve(os, call, fails))


def test_no_memory_for_a_collected_command_is_deferred(serve: Serve) -> None:
    assert_deferred(serve(spawner, "check_message_name", out_of_memory))


@pytest.mark.contract("spawn 4.5")
def test_descriptors_that_cannot_be_put_in_place_are_a_deferral(serve: Serve) -> None:
    parent, dup2 = os.getpid(), os.dup2
    first, _ = serve(os, "dup2", lambda *fds: dup2(*fds) if os.getpid() == parent else fails())
    assert (first.slot, first.letter) == (3, b"Z")
    assert b"delivered" not in first.text
