"""Power cuts on ext4, XFS and btrfs: the image as it is after a file operation, mounted anew.

After every operation by ``python -m tests.crash.images``.
"""

import os

import pytest

from tests.crash.images import MAKE, check

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="loop devices are for root")


@pytest.mark.parametrize("kind", list(MAKE))
def test_what_the_filesystem_kept_is_enough(kind: str) -> None:
    result = check(kind, every=12)
    print(*result.lines(), sep="\n")
    assert result.images >= 15
    assert not result.wrong, result.lines()


@pytest.mark.parametrize("kind", list(MAKE))
def test_without_syncs_messages_are_lost(kind: str) -> None:
    assert any("never reached" in wrong for wrong in check(kind, every=12, syncs=False).wrong)
