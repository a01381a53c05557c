"""Command-line options as qmail's programs take them: single letters, bundled, ended by the first other word."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


class UsageError(Exception):
    """A word that is no option of the program; the text is what getopt would print after the program's name."""

    def __init__(self, text: bytes) -> None:
        super().__init__(text)
        self.text = text


def parse_options(words: "Sequence[bytes]", letters: bytes) -> "tuple[list[tuple[bytes, bytes]], list[bytes]]":
    """The options in ``words`` as (letter, argument), and the words after them. Raises UsageError.

    In ``letters`` a letter with ``:`` takes an argument, the rest of its word or the next word; one with ``*`` makes
    the rest of its word part of the option. ``--`` ends the options; a lone ``-`` does too, and stays.
    """
    options: list[tuple[bytes, bytes]] = []
    at = 0
    while at < len(words) and len(words[at]) > 1 and words[at].startswith(b"-"):
        word = words[at]
        at += 1
        if word == b"--":
            break
        place = 1
        while place < len(word):
            letter = word[place : place + 1]
            place += 1
            form = _form(letter, letters)
            argument = b""
            if form:
                argument, place = word[place:], len(word)
            if form == b":" and not argument:
                if at >= len(words):
                    raise UsageError(b"option requires an argument -- " + letter)
                argument = words[at]
                at += 1
            options.append((letter, argument))
    return options, list(words[at:])


def _form(letter: bytes, letters: bytes) -> bytes:
    """``:`` or ``*`` if ``letter`` is marked so, else nothing. Raises UsageError for an unknown letter."""
    found = letters.find(letter)
    if found < 0 or letter in (b":", b"*"):
        raise UsageError(b"illegal option -- " + letter)
    mark = letters[found + 1 : found + 2]
    return mark if mark in (b":", b"*") else b""
