"""The spawners' engine in this process, where system calls can be made to fail (contract: spawn section 2)."""

import errno
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from pyqmail.local.channel import LocalChannel
from pyqmail.policy.accounts import read_accounts
from pyqmail.protocol.spawn import Report, ReportParser, format_command
from pyqmail.system.loop import Loop
from pyqmail.system.processes import look
from pyqmail.warm import spawner, time_limits
from pyqmail.warm.spawner import Spawner
from tests.programs.spawn_bench import Home, install_script
from tests.public_directory import public_directory
from tests.waiting import wait_for

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
    yield from serving(tmp_path_factory, monkeypatch, capfdbinary, "echo delivered", commands=2)


@pytest.fixture
def serve_script(
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    capfdbinary: pytest.CaptureFixture[bytes],
) -> Iterator[Callable[..., list[Report]]]:
    """The reports on one command whose qmail-local is a script, where a delivery may take half a second or as told."""

    def run(script: str, delivery_s: float = 0.5) -> list[Report]:
        made = serving(tmp_path_factory, monkeypatch, capfdbinary, script, commands=1, delivery_s=delivery_s)
        try:
            return next(made)(time_limits, "LOOK_S", 0.1)
        finally:
            next(made, None)

    yield run


@pytest.fixture
def pids() -> Iterator[Path]:
    """Where a script of any user may write."""
    with public_directory() as folder:
        folder.chmod(0o777)
        yield folder


def serving(
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    capfdbinary: pytest.CaptureFixture[bytes],
    script: str,
    *,
    commands: int,
    delivery_s: float = 1000,
) -> Iterator[Serve]:
    """A local spawner whose qmail-local is ``script``."""
    home = Home()
    install_script(home.path / "bin/qmail-local", script)
    home.assign("=joe:joe:39001:39001:/home/joe:::\n")
    monkeypatch.chdir(home.path / "queue/mess")
    accounts, loop = read_accounts(str(home.path)), Loop()
    channel = LocalChannel(loop, str(home.path), accounts, b"./Mailbox", {b"PATH": b"/usr/bin:/bin"}, 10)
    engine = Spawner(loop, channel, spawn_limit=10, message_owner=accounts.uid_queue, delivery_s=delivery_s)
    file = tmp_path_factory.mktemp("commands") / "commands"
    file.write_bytes(format_command(3, b"0/1", b"s@x", b"joe@x") * commands)
    before, given = os.dup(0), os.open(file, os.O_RDONLY)

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


def test_a_delivery_that_does_not_end_is_ended_with_all_it_started(
    serve_script: Callable[..., list[Report]], pids: Path
) -> None:
    (report,) = serve_script(f"sh -c 'echo $$ >{pids}/child; sleep 1000; :' & echo $$ >{pids}/parent; wait")
    assert (report.letter, b"(#4.4.7)" in report.text) == (b"Z", True)
    for name in ("parent", "child"):
        pid = int((pids / name).read_text())
        wait_for(lambda pid=pid: look(pid) is None, f"the end of the {name}")  # type: ignore[misc]


def test_who_keeps_the_output_open_keeps_no_slot_for_ever(
    serve_script: Callable[..., list[Report]], pids: Path
) -> None:
    (report,) = serve_script(f"sleep 1000 & echo $! >{pids}/left; echo delivered")
    assert (report.letter, report.text) == (b"K", b"delivered\n")
    left = int((pids / "left").read_text())
    assert look(left) is not None  # the program has ended by itself, and what it left stays
    os.kill(left, signal.SIGKILL)


def test_a_program_without_end_finds_its_pipe_closed(serve_script: Callable[..., list[Report]]) -> None:
    (report,) = serve_script("yes 2>/dev/null; exit 111", 1000)
    assert report.letter == b"Z" and b"(#4.4.7)" not in report.text
    (report,) = serve_script("yes 2>/dev/null; exit 0", 1000)
    assert report.letter == b"K"
