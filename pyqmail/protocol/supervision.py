"""What the supervisor of qmail-start and qmail-send say to each other: one record each (qmail-start(8)).

qmail-send -> supervisor    here:   b"S", once it holds its lock and serves
supervisor -> qmail-send    alert:  b"A" text, for the log
                            ends:   b"E", as it was told to
                            feed:   b"F" name of a helper, with one descriptor: what qmail-send tells goes there
"""

FD_VARIABLE = b"QMAIL_SUPERVISOR_FD"  # how qmail-start tells qmail-send in its own process; never in a real environment
HERE = b"S"
ENDS = b"E"
RECORD_MAX = 1024


def format_alert(text: bytes) -> bytes:
    """A line for the log, less its word ``alert``."""
    return b"A" + text[: RECORD_MAX - 1]


def format_feed(name: bytes) -> bytes:
    """The record that goes with a descriptor for the helper ``name``."""
    return b"F" + name


def parse_record(record: bytes) -> tuple[bytes, bytes] | None:
    """The kind, A, E or F, and the rest; None for anything else."""
    return (record[:1], record[1:]) if record[:1] in (b"A", ENDS, b"F") else None
