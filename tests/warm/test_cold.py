"""Programs by fork and exec, and the collector of their output."""

import os

import pytest

from pyqmail.system.loop import Loop
from pyqmail.warm.cold import NULL, Program, start_program
from pyqmail.warm.collector import Collector


def run(program: Program, collector: Collector, pipe: int, loop: Loop, done: list[tuple[int | None, bytes]]) -> None:
    start_program(loop, program, collector.ended)
    os.close(pipe)
    while not done:
        loop.run_once(20)


def collect(loop: Loop, done: list[tuple[int | None, bytes]]) -> Collector:
    return Collector(loop, lambda stored, data: stored.extend(data), lambda status, out: done.append((status, out)))


@pytest.mark.parametrize(
    ("script", "result"),
    [
        pytest.param("pwd; echo $A; exit 3", (3, b"/\nb\n"), id="an exit status, and all output"),
        pytest.param("kill -9 $$", (None, b""), id="a death by signal"),
        pytest.param("cat", (0, b""), id="descriptor 0 is the null device"),
        pytest.param("head -c 300000 /dev/zero", (0, bytes(300000)), id="more output than a pipe holds"),
    ],
)
def test_a_program_ends_with_status_and_output(script: str, result: tuple[int | None, bytes]) -> None:
    loop, done = Loop(), list[tuple[int | None, bytes]]()
    collector = collect(loop, done)
    argv, standard = (b"sh", b"-c", script.encode()), (NULL, pipe := collector.open(), pipe)
    environ = {b"A": b"b", b"PATH": b"/usr/bin:/bin"}
    run(Program("/bin/sh", argv, environ, standard, directory="/"), collector, pipe, loop, done)
    assert done == [result]
    loop.close()


@pytest.mark.parametrize(
    ("path", "directory", "code"),
    [
        pytest.param("/no/such/program", "/", 120, id="the program is missing"),
        pytest.param("/bin/sh", "/no/such/directory", 112, id="the directory is missing"),
    ],
)
@pytest.mark.contract("spawn 4.2", "spawn 4.8")
def test_the_exit_code_says_which_step_failed(path: str, directory: str, code: int) -> None:
    loop, done = Loop(), list[tuple[int | None, bytes]]()
    collector = collect(loop, done)
    standard = (NULL, pipe := collector.open(), NULL)
    program = Program(path, (b"x",), {}, standard, directory=directory, setup_exit=112, exec_exit=120)
    run(program, collector, pipe, loop, done)
    assert done == [(code, b"")]
    loop.close()


@pytest.mark.contract("spawn 4.6")
@pytest.mark.skipif(os.getuid() != 0, reason="changes uid")
def test_an_identity_is_uid_gid_and_that_one_group() -> None:
    loop, done = Loop(), list[tuple[int | None, bytes]]()
    collector = collect(loop, done)
    argv, standard = (b"sh", b"-c", b"id -u; id -G"), (NULL, pipe := collector.open(), NULL)
    program = Program("/bin/sh", argv, {b"PATH": b"/usr/bin:/bin"}, standard, identity=(39001, 39002))
    run(program, collector, pipe, loop, done)
    assert done == [(0, b"39001\n39002\n")]
    loop.close()
