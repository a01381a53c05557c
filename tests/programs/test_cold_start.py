"""What programs that start once per message import from first to last, during a whole run (design: the import budget).

Counted rather than timed: a clock says more about the machine than about the program. tests/bench/cold_start.py has
the clock.
"""

import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyqmail.admin.bundle import LATER
from pyqmail.admin.catalogue import PROGRAMS, PYTHON
from pyqmail.formats.cdb import write_cdb
from pyqmail.launch import launcher_text
from tests.programs.queue_service import QueueService

ROOT = Path(__file__).parents[2]
# Nothing else of the standard library: each is a C module, or a few lines.
LIGHT = {"_socket", "errno", "_signal"}
# What a constant database needs besides.
DATABASE = {"cdblib", "cdblib.cdblib", "cdblib.djb_hash", "cdblib._djb_hash", "struct", "_struct", "mmap", "itertools"}
MESSAGE = b"From: ann@a.test\nTo: bob@b.test, Carl <carl@c.test>\nSubject: s\n\nbody\n"
QUEUES = True
# The command, whether it queues a message, its exit code, and the most modules of the package that it may import.
COMMANDS = {
    "sendmail": (["sendmail", "-t", "-i", "-fann@a.test"], QUEUES, 0, 21),
    "qmail-inject": (["qmail-inject"], QUEUES, 0, 21),
    "forward": (["forward", "bob@b.test"], QUEUES, 0, 13),
    "condredirect": (["condredirect", "bob@b.test", "true"], QUEUES, 99, 16),
    "bouncesaying": (["bouncesaying", "no", "false"], not QUEUES, 0, 9),
    "except": (["except", "false"], not QUEUES, 0, 9),
    "preline": (["preline", "cat"], not QUEUES, 0, 11),
    "dot-forward": (["dot-forward", ".forward"], QUEUES, 99, 23),
    "fastforward": (["fastforward", "-d", "aliases.cdb"], QUEUES, 0, 22),
    "maildirmake": (["maildirmake", "box"], not QUEUES, 0, 6),
}


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    """A home, and what some programs look for in the current directory, which it is as well."""
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        (home / "control").mkdir()
        (home / "control" / "me").write_text("mx.example.test\n")
        (home / ".forward").write_text("carl@c.test\n")
        write_cdb(str(home / "aliases.cdb"), [(b":bob@b.test", b"&carl@c.test\0")])
        (home / "bin").mkdir()
        inject = home / "bin" / "qmail-inject"  # sendmail looks whether it is its own
        inject.write_text(launcher_text(PROGRAMS["qmail-inject"].module, 111, PYTHON, str(ROOT)))
        yield home


@pytest.fixture(scope="module")
def service(home: Path) -> Iterator[QueueService]:
    """The queue service of ``home``."""
    service = QueueService(home)
    yield service
    service.close()


def imported(command: list[str], home: Path, service: QueueService | None, code: int) -> set[str]:
    """Every module imported in a whole run of ``command``, which must end with ``code``."""
    environ = {
        "QMAIL_HOME": str(home),
        "PATH": "/usr/bin:/bin",
        "USER": "joe",
        "DEFAULT": "bob",
        "HOST": "b.test",
        "SENDER": "ann@a.test",
    }
    environ |= {"NEWSENDER": "ann@a.test", "DTLINE": "Delivered-To: bob\n", "UFLINE": "From x\n", "RPLINE": "R: x\n"}
    words = [PYTHON, "-ISXutf8", "-X", "importtime", *command]
    with tempfile.TemporaryFile() as message, tempfile.TemporaryFile() as errors:
        message.write(MESSAGE)
        message.seek(0)
        process = subprocess.Popen(
            words, env=environ, cwd=home, stdin=message, stdout=subprocess.DEVNULL, stderr=errors
        )
        done = process.wait(60) if service is None else service.serve(process)
        errors.seek(0)
        lines = errors.read().decode().splitlines()
    assert done == code, "\n".join(line for line in lines if not line.startswith("import time:"))
    return {line.rpartition("|")[2].strip() for line in lines if line.startswith("import time:")}


@pytest.fixture(scope="module")
def bare(home: Path) -> set[str]:
    """What an interpreter needs to start, and the os module that every launcher imports."""
    return imported(["-c", "import os"], home, None, 0)


def bundled(program: str) -> set[str]:
    """The modules in the bundle of ``program``."""
    words = "import sys; sys.path[:0] = sys.argv[1:3]\nfor name in sys.argv[3:]: __import__(name)\nprint(*sys.modules)"
    command = [PYTHON, "-ISBc", words, str(ROOT), str(ROOT / ".deps"), program, *LATER.get(program, ())]
    modules = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return {module for module in modules if module.startswith("pyqmail.")}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_program_that_starts_once_per_message_imports_little(
    name: str, home: Path, service: QueueService, bare: set[str]
) -> None:
    (command, queues, code, limit) = COMMANDS[name]
    modules = imported([str(ROOT / "bin" / command[0]), *command[1:]], home, service if queues else None, code) - bare
    ours = {module for module in modules if module.partition(".")[0] == "pyqmail"}
    assert f"pyqmail.programs.{PROGRAMS[name].module.rpartition('.')[2]}" in ours
    assert modules - ours <= (LIGHT | DATABASE if name == "fastforward" else LIGHT)
    assert len(ours) <= limit, sorted(ours)
    assert ours - bundled(PROGRAMS[name].module) == {"pyqmail", "pyqmail.launch"}
    assert bundled(PROGRAMS[name].module) <= ours  # of an installed copy nothing is loaded that is not used


def test_a_message_of_sendmail_reaches_the_service_whole(home: Path, service: QueueService) -> None:
    imported([str(ROOT / "bin" / "sendmail"), "-fann@a.test", "bob@b.test"], home, service, 0)
    assert service.envelope == b"Fann@a.test\0Tbob@b.test\0\0"
    assert service.message_bytes > len(MESSAGE)


def test_no_launcher_is_left_out() -> None:
    assert all(os.access(ROOT / "bin" / name, os.X_OK) for name in COMMANDS)
