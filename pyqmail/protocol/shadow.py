"""What is said to qmail-shadowd and by it: records of netstrings, the first is a word (qmail-shadowd(8)).

    qmail-queued    copy ID FACTS ENVELOPE MESSAGE...  small messages, whole       ok ID... | no ID...
                    copy ID FACTS, and the descriptors of message and envelope
                    kept ID...      these messages are in the queue
                    withdraw ID...  these are not
    qmail-send      ended ID...     these have left the queue                      gone ID...
                    done ID PLACE RECIPIENT...  this recipient needs no other delivery; a PLACE is of one recipient
                    serve           from now on tell what is mine:                 margin SECONDS | taken ID... |
                                                                                   lease SECONDS | say LINE

A lease holds until SECONDS since boot; what others have taken is told before it, and before the first one
for how many SECONDS after its end nobody may adopt. An ID is 32 hexadecimal digits. What a client that goes away has
asked for and not called kept is withdrawn.
"""

from pyqmail.protocol.records import format_record as format_record
from pyqmail.protocol.records import parse_words

SOCKET = "/run/qmail-shadowd.sock"
RECORD_MAX = 65536  # bytes of a record
SMALL_MAX = 32768  # bytes of a message with envelope and facts that is in a record: opening its files costs more
COPY_WORDS = 4  # of such a message
IDS_MAX = 512  # of one record
MARKS_MAX = 30  # of one record
LINE_MAX = 1000  # bytes of a line for the log
PLACE_MAX = 64  # bytes
RECIPIENT_MAX = 1100  # bytes
ID_DIGITS = 32
COPY, KEPT, WITHDRAW = b"copy", b"kept", b"withdraw"
ENDED, DONE, SERVE = b"ended", b"done", b"serve"
OK, NO, GONE, TAKEN, LEASE, SAY = b"ok", b"no", b"gone", b"taken", b"lease", b"say"
MARGIN = b"margin"


def parse_record(record: bytes) -> list[bytes]:
    """The words of a record; none for anything else."""
    return parse_words(record, RECORD_MAX)


def is_id(word: bytes) -> bool:
    """Whether ``word`` is an ID."""
    return len(word) == ID_DIGITS and not word.strip(b"0123456789abcdef")
