"""Records of netstrings, as the helpers' sockets carry them: the first is a word, what follows depends on it."""

from pyqmail.formats.netstring import NetstringError, format_netstrings, parse_netstrings


def format_record(*words: bytes) -> bytes:
    """One record."""
    return format_netstrings(words)


def parse_words(record: bytes, most: int) -> list[bytes]:
    """The words of a record of at most ``most`` bytes; none for anything else."""
    try:
        return parse_netstrings(record) if len(record) <= most else []
    except NetstringError:
        return []
