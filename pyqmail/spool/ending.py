"""Ending a preprocessed message by order: removing it, or failing all that is left of it (qmail-q(8)).

Both are for messages that nothing else works on. Both can be repeated: an interrupted one is done again from its order.
"""

import os
from collections.abc import Callable, Iterable, Mapping

from pyqmail.formats.bounce_text import format_paragraph
from pyqmail.policy.classify import strip_prepend
from pyqmail.spool.channel import RecipientFile, UnknownMark, mark_done
from pyqmail.spool.layout import Layout
from pyqmail.system import files

CHANNELS = ("local", "remote")
MARKS_PER_SYNC = 1000


def remove_message(layout: Layout, number: int) -> None:
    """Remove everything of S5 but mess/N, which is qmail-clean's to remove. Raises OSError.

    bounce/N goes first: its failures must not be reported once the recipients are gone, nor with another message that
    gets the number. info/N goes last: while it is there the removal can be repeated.
    """
    files.unlink_if_present(layout.bounce(number))
    for channel in CHANNELS:
        files.unlink_if_present(layout.part(channel, number))
    files.unlink_if_present(layout.info(number))


def sync_names(layout: Layout, numbers: Iterable[int]) -> None:
    """What has been removed of ``numbers`` is gone for good, whatever happens to the machine. Raises OSError.

    Before that no order to end them may be forgotten: a name that a power cut brought back would be delivered.
    """
    folders = set[str]()
    for number in numbers:
        parts = [layout.part(channel, number) for channel in CHANNELS]
        folders.update(map(os.path.dirname, (layout.info(number), layout.bounce(number), *parts)))
    for folder in folders:
        files.sync_directory(folder)


def drop_recipients(layout: Layout, number: int) -> None:
    """Nobody is left to be tried here; what has failed before is still to be told to the sender. Raises OSError."""
    for channel in CHANNELS:
        files.unlink_if_present(layout.part(channel, number))


def not_done(layout: Layout, channel: str, number: int) -> list[tuple[int, bytes]]:
    """Offset and address of every recipient not done. Raises OSError, also for a record of an unknown kind."""
    try:
        recipients = RecipientFile(layout.part(channel, number))
    except FileNotFoundError:
        return []
    found = []
    try:
        while (recipient := recipients.next_not_done()) is not None:
            found.append(recipient)
    except UnknownMark:
        raise OSError(f"unknown record type in {layout.relative(channel, number)}") from None
    finally:
        recipients.close()
    return found


def always_told(channel: str, offset: int, address: bytes) -> bool:
    """Of no recipient a sender does not want to hear."""
    return False


def fail_recipients(
    layout: Layout,
    number: int,
    virtual: Mapping[bytes, bytes],
    report: Callable[[str, int], bytes],
    unwanted: Callable[[str, int, bytes], bool] = always_told,
) -> int:
    """Fail every recipient not done, with ``report(channel, offset)``; how many. Raises OSError.

    Those that are ``unwanted(channel, offset, address)`` are failed without a word to the sender (NOTIFY=NEVER).
    As with any failure, the paragraphs are durable in bounce/N before a recipient is marked.
    """
    failed = 0
    for channel in CHANNELS:
        recipients = not_done(layout, channel, number)
        for start in range(0, len(recipients), MARKS_PER_SYNC):
            batch = recipients[start : start + MARKS_PER_SYNC]
            text = b"".join(
                format_paragraph(strip_prepend(address, virtual), report(channel, offset))
                for offset, address in batch
                if not unwanted(channel, offset, address)
            )
            if text:
                _append_durably(layout, number, text)
            mark_done(layout.part(channel, number), [offset for offset, _ in batch])
        failed += len(recipients)
        files.unlink_if_present(layout.part(channel, number))
    return failed


def _append_durably(layout: Layout, number: int, text: bytes) -> None:
    fd = files.open_append(layout.bounce(number))
    try:
        size = os.fstat(fd).st_size
        try:
            files.write_all(fd, text)
            files.sync(fd)
        except OSError:
            files.truncate(fd, size)
            raise
    finally:
        os.close(fd)
    files.sync_directory(layout.queue + "/bounce")
