"""What is said to qmail-shadowd and by it: records of netstrings, the first is a word (qmail-shadowd(8)).

    qmail-queued    copy ID FACTS, and the descriptors of message and envelope     ok ID | no ID
                    kept ID...      these messages are in the queue
                    withdraw ID...  these are not
    qmail-send      ended ID...     these have left the queue                      gone ID...

An ID is 32 hexadecimal digits. What a client that goes away has asked for and not called kept is withdrawn.
"""

from pyqmail.formats.netstring import NetstringError, format_netstrings, parse_netstrings

SOCKET = "/run/qmail-shadowd.sock"
RECORD_MAX = 40960  # bytes of a record: an ID and the facts of a message
IDS_MAX = 512  # of one record
ID_DIGITS = 32
COPY, KEPT, WITHDRAW, ENDED = b"copy", b"kept", b"withdraw", b"ended"
OK, NO, GONE = b"ok", b"no", b"gone"


def format_record(*words: bytes) -> bytes:
    """One record."""
    return format_netstrings(words)


def parse_record(record: bytes) -> list[bytes]:
    """The words of a record; none for anything else."""
    try:
        return parse_netstrings(record) if len(record) <= RECORD_MAX else []
    except NetstringError:
        return []


def is_id(word: bytes) -> bool:
    """Whether ``word`` is an ID."""
    return len(word) == ID_DIGITS and not word.strip(b"0123456789abcdef")
