"""What qmail-verifyd is asked, and what it answers: netstrings in pairs, a name and a value (qmail-verifyd(8)).

A question is one record; ``message`` brings the descriptor of the text along. Of equal names in an answer each counts.
An empty value is as good as none, and is left out.
"""

from pyqmail.formats.netstring import NetstringError, format_netstrings, parse_netstrings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

SOCKET = "/run/qmail-verifyd.sock"
REPORTS = "/run/dmarc"  # where it keeps what qmail-dmarcreport reports
RECORD_MAX = 32768  # bytes of a question or an answer
VALUE_MAX = 2048
SENDER = b"sender"  # a question about the client and the envelope sender
MESSAGE = b"message"  # a question about a whole text

Pairs = list[tuple[bytes, bytes]]


def format_pairs(pairs: "Iterable[tuple[bytes, bytes]]") -> bytes:
    """The record; values are cut to VALUE_MAX bytes."""
    return format_netstrings([part for name, value in pairs if value for part in (name, value[:VALUE_MAX])])


def parse_pairs(record: bytes) -> Pairs | None:
    """The pairs of a record; None for anything else."""
    try:
        found = parse_netstrings(record) if len(record) <= RECORD_MAX else []
    except NetstringError:
        return None
    if not found or len(found) % 2:
        return None
    return list(zip(found[::2], found[1::2], strict=True))
