"""Deliveries that a spawner is told to end: real programs, real pipes (qmail-lspawn(8), qmail-rspawn(8))."""

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyqmail.protocol.spawn import (
    Granted,
    Report,
    format_command,
    format_end,
    format_joint_command,
    format_probe,
    parse_probe_answer,
)
from pyqmail.system.processes import look
from pyqmail.warm.time_limits import ENDED
from tests.programs.spawn_bench import Home, Spawn, install, install_script
from tests.programs.test_remote_together import settle
from tests.public_directory import public_directory
from tests.waiting import wait_for

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="changes uid")
UID = 39001  # belongs to nobody
SENDER = b"s@example.org"


@pytest.fixture
def home() -> Iterator[Home]:
    made = Home()
    yield made
    made.close()


@pytest.fixture
def pids() -> Iterator[Path]:
    """Where a program of any user may write."""
    with public_directory() as folder:
        folder.chmod(0o777)
        yield folder


def ending(spawn: Spawn, *, together: bool = False) -> Granted:
    """What the spawner grants to who asks for ends."""
    spawn.parser.expect_probe_answer()
    os.write(spawn.to, format_probe(together=together, end=True))
    granted = parse_probe_answer(spawn.report())
    assert granted is not None and granted.end and spawn.parser.wide
    return granted


def ask(spawn: Spawn, slot: int, recipient: bytes) -> None:
    os.write(spawn.to, format_command(slot, b"0/1", SENDER, recipient, wide=True))


def pid_in(path: Path) -> int:
    """The process that has written its number there."""
    wait_for(lambda: path.exists() and path.read_text().endswith("\n"), path.name)
    return int(path.read_text())


@pytest.mark.parametrize("ours", [True, False], ids=["in a worker", "executed"])
def test_a_delivery_is_ended_with_all_it_started_and_no_other_is(home: Home, pids: Path, ours: bool) -> None:
    endless = f"sh -c 'echo $$ >{pids}/child; sleep 1000; :' & echo $$ >{pids}/parent; wait"
    if ours:
        install(home.path / "bin/qmail-local", "qmail_local")
        (pids / "program").write_text("#!/bin/sh\n" + endless)
        (pids / "program").chmod(0o755)
        lines = home.user("joe", UID, f"|{pids}/program\n") + home.user("ann", UID + 1, f"|cat {pids}/gate\n")
        home.assign(lines)
    else:
        script = f'if [ "$2" = joe ]; then {endless}; else cat {pids}/gate; fi'
        install_script(home.path / "bin/qmail-local", script)
        home.assign("".join(f"={name}:{name}:{UID}:{UID}:/home/joe:::\n" for name in ("joe", "ann")))
    os.mkfifo(pids / "gate", 0o666)
    (pids / "gate").chmod(0o666)
    spawn = Spawn(home, "qmail-lspawn", "./Mailbox")
    assert ending(spawn) == Granted(120, 1, end=True)
    ask(spawn, 7, b"joe@x.test")
    ask(spawn, 300, b"nobody@x.test")
    assert spawn.report().slot == 300
    ask(spawn, 8, b"ann@x.test")
    family = [pid_in(pids / name) for name in ("parent", "child")]
    os.write(spawn.to, format_end(9) + format_end(7) + format_end(7))
    assert spawn.report() == Report(7, ENDED[:1], ENDED[1:])
    for pid in family:
        wait_for(lambda pid=pid: look(pid) is None, "its end")  # type: ignore[misc]
    (pids / "gate").write_text("fine\n")
    report = spawn.report()
    assert (report.slot, report.letter) == (8, b"K")
    ask(spawn, 7, b"nobody@")
    assert spawn.report().slot == 7, "the slot is free"
    assert spawn.end() == 0


def test_what_has_ended_by_itself_is_reported_as_it_was(home: Home, pids: Path) -> None:
    install_script(
        home.path / "bin/qmail-local", f"echo $$ >{pids}/itself; sleep 1000 & echo $! >{pids}/left; echo delivered"
    )
    home.assign(f"=joe:joe:{UID}:{UID}:/home/joe:::\n")
    spawn = Spawn(home, "qmail-lspawn", "./Mailbox")
    ending(spawn)
    ask(spawn, 0, b"joe@x.test")
    itself, left = (pid_in(pids / name) for name in ("itself", "left"))
    wait_for(lambda: look(itself) is None, "its end")
    os.write(spawn.to, format_end(0))
    assert spawn.report() == Report(0, b"K", b"delivered\n")
    os.kill(left, signal.SIGKILL)
    assert spawn.end() == 0


def test_who_was_granted_nothing_ends_nothing(home: Home) -> None:
    install_script(home.path / "bin/qmail-local", "exit 0")
    home.assign(f"=joe:joe:{UID}:{UID}:/home/joe:::\n")
    spawn = Spawn(home, "qmail-lspawn", "./Mailbox")
    spawn.parser.expect_probe_answer()
    os.write(spawn.to, format_probe() + format_end(3))
    assert parse_probe_answer(spawn.report()) == Granted(120)
    assert spawn.report().letter in (b"D", b"Z"), "taken for a message without a name"
    assert spawn.end() == 0


def test_a_look_up_of_an_account_is_ended_and_nothing_follows_it(home: Home, pids: Path) -> None:
    install_script(home.path / "bin/qmail-getpw", f"echo $$ >{pids}/look; exec sleep 1000")
    install_script(home.path / "bin/qmail-local", f"touch {pids}/delivered")
    spawn = Spawn(home, "qmail-lspawn", "./Mailbox")
    ending(spawn)
    ask(spawn, 0, b"joe@x.test")
    pid = pid_in(pids / "look")
    os.write(spawn.to, format_end(0))
    report = spawn.report()
    assert (report.slot, report.letter) == (0, b"Z")
    wait_for(lambda: look(pid) is None, "its end")
    assert spawn.end() == 0 and not (pids / "delivered").exists()


def test_what_runs_and_what_waits_of_joint_commands_is_ended(home: Home) -> None:
    install(home.path / "bin/qmail-remote", "qmail_remote")
    (home.path / "control/me").write_text("me.test\n")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        settle(home, smtproutes=f":127.0.0.1:{silent.getsockname()[1]}", remotebatch="2")
        spawn = Spawn(home, "qmail-rspawn")
        assert ending(spawn, together=True) == Granted(120, 2, end=True)
        pairs = [[b"a%d@x.test" % slot, b"b%d@x.test" % slot] for slot in range(7)]
        os.write(
            spawn.to, b"".join(format_joint_command(slot, b"0/1", SENDER, pair) for slot, pair in enumerate(pairs))
        )
        os.write(spawn.to, format_joint_command(9, b"0/1", SENDER, [b"c%d@x.test" % at for at in range(5)]))
        peers = [silent.accept()[0] for _ in range(2)]
        os.write(spawn.to, b"".join(map(format_end, (6, 0, 9, 5, 4, 3, 2, 1, 0, 50))))
        found: dict[int, set[int]] = {}
        while sum(map(len, found.values())) < 7 * 2 + 5:
            report = spawn.report()
            places = set(range(report.first, report.last + 1))
            assert report.letter + report.text == ENDED and not found.get(report.slot, set()) & places
            found.setdefault(report.slot, set()).update(places)
        assert found == {**{slot: {0, 1} for slot in range(7)}, 9: {0, 1, 2, 3, 4}}
        for peer in peers:
            with peer:
                assert peer.recv(1) == b"", "its client has gone"
        assert spawn.end() == 0
