"""Processor time of the programs that start once per message, beside that of a bare interpreter.

    tests/bench/cold_start.py [RUNS]

The runs are interleaved; a stand-in takes the submissions, so that what is measured is the program alone. Printed are
the medians in milliseconds and the ratio to `python3 -I -c pass`; exit 1 when one is above 2.
"""

import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / ".deps")]

from pyqmail.admin.catalogue import PROGRAMS, PYTHON  # noqa: E402 - the checkout's own, wherever this was started
from pyqmail.formats.cdb import write_cdb  # noqa: E402
from pyqmail.launch import launcher_text  # noqa: E402
from tests.programs.queue_service import QueueService  # noqa: E402
from tests.programs.test_cold_start import COMMANDS, MESSAGE  # noqa: E402

LIMIT = 2.0
ENVIRON = {"PATH": "/usr/bin:/bin", "USER": "joe", "SENDER": "ann@a.test", "NEWSENDER": "ann@a.test"}
ENVIRON |= {
    "DEFAULT": "bob",
    "HOST": "b.test",
    "DTLINE": "Delivered-To: bob\n",
    "UFLINE": "From x\n",
    "RPLINE": "R: x\n",
}


def used(command: list[str], home: Path, service: QueueService | None) -> float:
    """Processor milliseconds of one run and its children."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with (home / "message").open("rb") as message:
        null = subprocess.DEVNULL
        process = subprocess.Popen(
            command, env=ENVIRON | {"QMAIL_HOME": str(home)}, cwd=home, stdin=message, stdout=null, stderr=null
        )
        _ = process.wait() if service is None else service.serve(process)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return 1000 * (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def main() -> int:
    """Measure and print."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 40
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        (home / "control").mkdir()
        (home / "control" / "me").write_text("mx.example.test\n")
        (home / ".forward").write_text("carl@c.test\n")
        write_cdb(str(home / "aliases.cdb"), [(b":bob@b.test", b"&carl@c.test\0")])
        (home / "bin").mkdir()
        inject = home / "bin" / "qmail-inject"
        inject.write_text(launcher_text(PROGRAMS["qmail-inject"].module, 111, PYTHON, str(ROOT)))
        (home / "message").write_bytes(MESSAGE)
        service = QueueService(home)
        jobs: dict[str, tuple[list[str], QueueService | None]] = {"bare": ([PYTHON, "-I", "-c", "pass"], None)}
        for name, (command, queues, _code, _limit) in COMMANDS.items():
            jobs[name] = ([str(ROOT / "bin" / name), *command[1:]], service if queues else None)
        times: dict[str, list[float]] = {name: [] for name in jobs}
        for _ in range(runs):
            for name, (words, taker) in jobs.items():
                times[name].append(used(words, home, taker))
        service.close()
    bare = statistics.median(times["bare"])
    worst = 0.0
    for name, values in times.items():
        median = statistics.median(values)
        worst = max(worst, median / bare)
        print(f"{name:14} {median:6.2f} ms  {median / bare:5.2f}")
    return 0 if worst <= LIMIT else 1


if __name__ == "__main__":
    sys.exit(main())
