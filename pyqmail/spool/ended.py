"""Copies of messages that had left the queue when qmail-send ended, and that may be there still: queue/pyqmail/ended.

    owner qmails, 0640; an ID a line (qmail-shadowd(8)); no file where there are none

Without it a copy whose end nobody heard would be taken for a message that the queue has lost.
"""

from collections.abc import Iterable

from pyqmail.spool.layout import Layout
from pyqmail.system import files


def read_ended(layout: Layout) -> list[bytes]:
    """Their IDs. Raises OSError."""
    try:
        return files.read_file(layout.ended).split()
    except FileNotFoundError:
        return []


def write_ended(layout: Layout, identities: Iterable[bytes]) -> None:
    """``identities`` and no others, durably. Raises OSError."""
    data = b"".join(identity + b"\n" for identity in identities)
    if data:
        files.replace_file(layout.ended + ".new", layout.ended, data, mode=0o640)
    else:
        files.unlink_if_present(layout.ended)
