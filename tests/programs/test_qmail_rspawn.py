"""qmail-rspawn as a process (contract: spawn)."""

import os
from collections.abc import Iterator

import pytest

from tests.programs.spawn_bench import Home, Spawn, install_script

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="needs files of another owner")


@pytest.fixture
def home() -> Iterator[Home]:
    made = Home()
    yield made
    made.close()


@pytest.mark.contract("spawn 1.4", "spawn 9.6")
def test_qmail_remote_is_found_by_path_and_gets_host_sender_recipient(home: Home) -> None:
    install_script(home.path / "bin/qmail-remote", 'printf "r[%s]" "$@" "$PWD"; printf "\\\\0Kdone\\\\0"')
    spawn = Spawn(home, "qmail-rspawn")
    answer = spawn.deliver("a@b@example.net")
    mess = os.fsencode(home.path / "queue/mess")
    assert answer == b"K[example.net]r[s@example.org]r[a@b@example.net]r[" + mess + b"]done"
    assert spawn.deliver("@host").startswith(b"K[host]")
    assert spawn.end() == 0


@pytest.mark.contract("spawn 1.3", "spawn 9.13")
def test_the_table_of_timeouts_is_wiped_at_start(home: Home) -> None:
    spawn = Spawn(home, "qmail-rspawn")
    assert (home.path / "queue/lock/tcpto").read_bytes() == bytes(1024)
    spawn.end()


@pytest.mark.contract("spawn 1.4", "remote 7.11")
def test_qmailremote_names_another_program(home: Home) -> None:
    install_script(home.path / "other", 'printf "r$0\\\\0K\\\\0"')
    name = str(home.path / "other")
    spawn = Spawn(home, "qmail-rspawn", environ={"QMAILREMOTE": name})
    assert spawn.deliver("a@b") == b"K" + os.fsencode(name)
    spawn.end()


@pytest.mark.parametrize(
    ("script", "letter"),
    [
        pytest.param("kill -9 $$", b"Z", id="killed"),
        pytest.param("exit 111", b"Z", id="111"),
        pytest.param("printf 'rA\\\\0KB\\\\0'; exit 1", b"D", id="any other status"),
        pytest.param("exit 0", b"Z", id="no output"),
    ],
)
@pytest.mark.contract("spawn 7.1", "spawn 7.2", "spawn 7.3", "spawn 7.4")
def test_trouble_with_qmail_remote(home: Home, script: str, letter: bytes) -> None:
    install_script(home.path / "bin/qmail-remote", script)
    spawn = Spawn(home, "qmail-rspawn")
    answer = spawn.deliver("a@b")
    assert answer.startswith(letter)
    assert b"A" not in answer[1:]
    spawn.end()


@pytest.mark.contract("spawn 9.1")
def test_a_missing_qmail_remote_never_bounces(home: Home) -> None:
    spawn = Spawn(home, "qmail-rspawn")
    assert spawn.deliver("a@b").startswith(b"Z")
    spawn.end()


def test_a_probe_makes_slots_wide(home: Home) -> None:
    (home.path / "control/conf-spawn").write_text("1000\n")
    install_script(home.path / "bin/qmail-remote", 'printf "rA\\\\0KB\\\\0"')
    spawn = Spawn(home, "qmail-rspawn")
    assert spawn.limit == 255
    os.write(spawn.to, b"\xffwide\0\0\0")
    answer = spawn.report()
    assert (answer.slot, answer.letter, answer.text) == (255, b"W", b"1000")
    os.write(spawn.to, b"\x03\xe00/1\0s\0a@b\0")
    spawn.parser.wide = True
    report = spawn.report()
    assert (report.slot, report.letter + report.text) == (992, b"KAB")
    spawn.end()


@pytest.mark.contract("spawn 1.7")
def test_a_broken_report_pipe_does_not_stop_the_work(home: Home) -> None:
    install_script(home.path / "bin/qmail-remote", f"echo x >> {home.path}/done")
    spawn = Spawn(home, "qmail-rspawn")
    assert spawn.process.stdout is not None
    assert spawn.process.stdin is not None
    spawn.process.stdout.close()
    for slot in range(3):
        spawn.send(slot, "a@b")
    spawn.process.stdin.close()
    assert spawn.process.wait(20) == 0
    assert (home.path / "done").read_bytes() == b"x\n" * 3
