"""Fuzzing with coverage: ``python -m tests.fuzz.run [--seconds N] [--keep] [TARGET ...]``.

Each target (tests/fuzz/targets.py) runs for N seconds, 600 by default, in a process of its own under atheris, beginning
with what is in tests/fuzz/corpus/TARGET. Prints how many inputs were tried; an input that fails is named and left in
tests/fuzz/found. ``--keep`` adds inputs that reach new code to the corpus.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
CORPUS = HERE / "corpus"
LENGTH_MAX = 4096
ONE_INPUT_SECONDS = 20
ENDLESS = -1  # libFuzzer's word for it
RANDOM = 0  # the seed that libFuzzer takes for "another one each time"
MEMORY_MB = 2048
BEGINNING = """
import sys
import atheris
with atheris.instrument_imports(include=["pyqmail", "cdblib"]):
    from tests.fuzz.targets import TARGETS
target = TARGETS[sys.argv.pop(1)]
atheris.Setup(sys.argv, lambda data: target(bytes(data)))
atheris.Fuzz()
"""


class Outcome:
    """What became of one target."""

    def __init__(self, name: str, code: int, text: str) -> None:
        self.name = name
        self.code = code
        self.text = text
        done = re.search(r"Done (\d+) (?:runs|in)", text) or re.search(r"#(\d+)\tDONE", text)
        self.inputs = int(done[1]) if done else 0
        coverage = re.findall(r"cov: (\d+)", text)
        self.coverage = int(coverage[-1]) if coverage else 0


def start(name: str, seconds: int, inputs: int, seed: int, corpus: Path, found: Path) -> "subprocess.Popen[str]":
    """The fuzzer of one target; its new inputs go to ``corpus``, one that fails to ``found``."""
    words = [
        f"-runs={inputs}",
        f"-seed={seed}",
        f"-max_total_time={seconds}",
        f"-timeout={ONE_INPUT_SECONDS}",
        f"-rss_limit_mb={MEMORY_MB}",
    ]
    words += [f"-max_len={LENGTH_MAX}", f"-artifact_prefix={found}/{name}-", "-print_final_stats=1"]
    folders = [str(corpus), str(CORPUS / name)]
    return subprocess.Popen(
        [sys.executable, "-c", BEGINNING, name, *words, *folders],
        cwd=HERE.parents[1],
        env=dict(os.environ, PYTHONPATH=str(HERE.parents[1])),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )


def run(
    names: list[str],
    seconds: int,
    found: Path,
    *,
    inputs: int = ENDLESS,
    seed: int = RANDOM,
    keep: bool = False,
    together: int = 2,
) -> list[Outcome]:
    """Fuzz ``names``, ``together`` at a time, each for ``seconds`` or until it has tried ``inputs``."""
    outcomes = []
    waiting = list(names)
    running: list[tuple[str, subprocess.Popen[str]]] = []
    with tempfile.TemporaryDirectory(prefix="pyqmail-fuzz-") as scratch:
        while waiting or running:
            while waiting and len(running) < together:
                name = waiting.pop(0)
                new = CORPUS / name if keep else Path(scratch) / name
                new.mkdir(parents=True, exist_ok=True)
                running.append((name, start(name, seconds, inputs, seed, new, found)))
            name, process = running.pop(0)
            text = process.communicate()[0]
            outcomes.append(Outcome(name, process.returncode, text))
    return outcomes


def main() -> int:
    """Exit code: 0 when no input failed."""
    from tests.fuzz.targets import TARGETS

    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seconds", type=int, default=600, help="for each target")
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("targets", nargs="*", choices=[[], *TARGETS], default=[])
    options = parser.parse_args()
    found = HERE / "found"
    found.mkdir(exist_ok=True)
    outcomes = run(options.targets or list(TARGETS), options.seconds, found, keep=options.keep)
    for outcome in outcomes:
        print(f"{outcome.name}: {outcome.inputs} inputs, coverage {outcome.coverage}, exit {outcome.code}")
        if outcome.code:
            print(outcome.text[-3000:])
    failed = sum(outcome.code != 0 for outcome in outcomes)
    print(f"total: {sum(outcome.inputs for outcome in outcomes)} inputs tried, {failed} targets failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
