"""What the table of memory is made of."""

import os
import subprocess
import sys

import pytest

from tests.bench.memory import NOTHING, Memory, by_service, memory_of


@pytest.mark.parametrize(
    ("words", "name"),
    [
        pytest.param(["qmail-clean", "-ISc", "input(1)"], "qmail-clean", id="by its title"),
        pytest.param(["/usr/bin/python3", "-ISc", "input(1)", "x"], "input(1)", id="behind the interpreter"),
    ],
)
def test_a_process_is_counted_under_its_programs_name(words: list[str], name: str) -> None:
    process = subprocess.Popen(words, executable=sys.executable, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        process.stdout.read(1)  # it runs: its words are there
        found = by_service([process.pid])
        assert [(each, memory.processes) for each, memory in found.items()] == [(name, 1)]
    finally:
        process.communicate(b"\n")
    assert memory_of(process.pid) == NOTHING


def test_memory_adds_up() -> None:
    here = memory_of(os.getpid())
    assert here.processes == 1 and here.pss >= here.own > 1024
    assert here + Memory(2, 10, 5) == Memory(3, here.pss + 10, here.own + 5)
