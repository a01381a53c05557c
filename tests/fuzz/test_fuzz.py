"""The corpus of each target, and a little fuzzing with coverage."""

import sys
from pathlib import Path

import pytest

from tests.fuzz.run import CORPUS, run
from tests.fuzz.targets import TARGETS

SECONDS = 120
PER_TARGET = 500  # inputs, tried on however slow a machine
SEED = 1  # the same inputs each time: what turns red here was changed; the command of run.py looks for new ones


@pytest.mark.parametrize("name", TARGETS)
def test_the_corpus_holds(name: str) -> None:
    inputs = sorted((CORPUS / name).iterdir())
    assert inputs
    for path in inputs:
        TARGETS[name](path.read_bytes())


def test_each_directory_of_the_corpus_has_its_target() -> None:
    assert sorted(path.name for path in CORPUS.iterdir()) == sorted(TARGETS)


if sys.version_info < (3, 14):  # atheris is made for no later one

    def test_some_inputs_more_find_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        outcomes = run(list(TARGETS), SECONDS, tmp_path, inputs=PER_TARGET, seed=SEED)
        with capsys.disabled():
            print(f"\n{sum(outcome.inputs for outcome in outcomes)} inputs tried")
        for outcome in outcomes:
            assert outcome.code == 0, outcome.text[-3000:]
            assert outcome.inputs >= PER_TARGET, f"{outcome.name}: {outcome.inputs} inputs\n{outcome.text[-2000:]}"
