"""Power cuts on ext4, XFS and btrfs: the image as it is after a file operation, mounted anew.

After every operation with PYQMAIL_TESTS_LONG, or by ``python -m tests.crash.images``.
"""

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor

import pytest

from tests.crash.images import MAKE, Result, check

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="loop devices are for root")


def checked(kind: str, *, syncs: bool = True) -> Result:
    """``check`` in a process of its own: it holds bare descriptors, and what other tests left behind may close some."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as fresh:
        return fresh.submit(check, kind, every=1 if os.environ.get("PYQMAIL_TESTS_LONG") else 12, syncs=syncs).result()


@pytest.mark.parametrize("kind", list(MAKE))
def test_what_the_filesystem_kept_is_enough(kind: str) -> None:
    result = checked(kind)
    print(*result.lines(), sep="\n")
    assert result.images >= 15
    assert not result.wrong, result.lines()


@pytest.mark.parametrize("kind", list(MAKE))
def test_without_syncs_messages_are_lost(kind: str) -> None:
    assert any("never reached" in wrong for wrong in checked(kind, syncs=False).wrong)
