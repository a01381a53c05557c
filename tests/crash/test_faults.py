"""A fault in each program of the chain: the sender hears a temporary failure or the message is safe, and life goes on.

Every fault by ``python -m tests.crash.faults``.
"""

import os
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.crash.faults import as_user, inject

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="becomes an ordinary user")
EVERY = {
    "qmail-send": 71,
    "qmail-clean": 29,
    "qmail-queued": 37,
    "qmail-queue": 11,
    "qmail-local": 7,
    "qmail-lspawn": 37,
    "qmail-rspawn": 37,
}


@pytest.mark.parametrize("bugs", [False, True], ids=["faults", "bugs"])
@pytest.mark.parametrize("program", list(EVERY))
def test_nothing_is_lost_refused_or_stuck(program: str, bugs: bool) -> None:
    base = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with TemporaryDirectory(prefix="pyqmail-faults-", dir=base) as where:
        os.chmod(where, 0o755)
        (result,) = as_user(Path(where), lambda bench: [inject(bench, program, EVERY[program], bugs=bugs)])
    print(*result.lines(), sep="\n")
    assert result.faults >= 2
    assert not result.wrong, result.lines()
