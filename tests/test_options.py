"""How options are read from a command line."""

import pytest

from pyqmail.options import UsageError, parse_options


def test_letters_arguments_and_the_end_of_options() -> None:
    assert parse_options([b"-nfx", b"-f", b"y", b"a", b"-n"], b"nf:") == (
        [(b"n", b""), (b"f", b"x"), (b"f", b"y")],
        [b"a", b"-n"],
    )
    assert parse_options([b"-Efoo", b"-", b"x"], b"E*") == ([(b"E", b"foo")], [b"-", b"x"])
    assert parse_options([b"--", b"-n"], b"n") == ([], [b"-n"])
    for words in ([b"-z"], [b"-f"]):
        with pytest.raises(UsageError):
            parse_options(words, b"nf:")
