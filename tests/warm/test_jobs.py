"""What a spawner tells its worker of a job."""

from hypothesis import given
from hypothesis import strategies as st

from pyqmail.warm.jobs import format_job, parse_job

WORDS = st.binary(max_size=20).filter(lambda word: b"\0" not in word)
NAMES = st.binary(min_size=1, max_size=20).filter(lambda word: not {0, 61} & set(word))


@given(
    argv=st.lists(WORDS, min_size=1, max_size=9),
    variables=st.dictionaries(NAMES, WORDS, max_size=5),
    errors=st.booleans(),
    size=st.none() | st.integers(0, 2**62),
)
def test_a_job_is_told_whole(argv: list[bytes], variables: dict[bytes, bytes], errors: bool, size: int | None) -> None:
    assert parse_job(format_job(argv, variables, errors=errors, size=size)) == (errors, variables, argv, size)
