"""What one item more costs in system calls, which do not drift with the machine; growth.py measures large numbers."""

from pathlib import Path

import pytest

from tests.bench.growth import WORKS, Work, calls_of_one_more, grows_well, make_home, run
from tests.public_directory import public_directory


@pytest.mark.parametrize("work", WORKS, ids=lambda work: work.what)
def test_an_item_more_costs_no_more_calls_than_it_may(work: Work) -> None:
    with public_directory() as parent:
        assert work.expected in run(work, make_home(work, Path(parent), 100))[1]
        assert calls_of_one_more(work, Path(parent), 100, 1100) <= work.calls_max


def test_memory_that_grows_with_the_square_is_noticed() -> None:
    assert grows_well(40, 500, 1000, 10_000) and not grows_well(40, 4000, 1000, 10_000)
    assert grows_well(1, 600, 1000, 10_000)  # the first says nothing
