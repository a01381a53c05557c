"""Failures into bounce/N: a paragraph is on disk before its recipient is marked done (qmail-send(8)).

Whatever the machine dies on, the recipient is still in the queue, in the bounce, or in both.
"""

import os
from collections.abc import Callable

from pyqmail.formats.bounce_text import format_paragraph
from pyqmail.log.events import Alert
from pyqmail.policy.classify import strip_prepend
from pyqmail.send.background import Done
from pyqmail.send.job import Delivery
from pyqmail.send.means import Means
from pyqmail.system import files

SLEEP_S = 10


class Failures:
    """Records the failures of one channel; ``recorded`` gets each delivery, and whether it may be marked done."""

    def __init__(self, means: Means, recorded: Callable[[Delivery, bool], None]) -> None:
        self._means = means
        self._recorded = recorded
        self._writing = 0  # paragraphs that are not written yet
        self._written: list[Delivery] = []  # not synced yet
        self._syncing = False

    @property
    def idle(self) -> bool:
        """Whether every failure is recorded."""
        return not (self._writing or self._written or self._syncing)

    def add(self, delivery: Delivery, text: bytes) -> None:
        """Record that ``delivery`` failed as ``text`` says; where the disk is full, as soon as it is not."""
        self._writing += 1
        self._append(delivery, text)

    def _append(self, delivery: Delivery, text: bytes) -> None:
        means = self._means
        address = strip_prepend(delivery.recipient, means.controls.routing.virtual)
        try:
            append(means.layout.bounce(delivery.job.number), format_paragraph(address, text))
        except OSError:
            means.log(Alert(b"unable to append to bounce message; HELP! sleeping..."))
            means.loop.call_later(SLEEP_S, lambda: self._append(delivery, text))
            return
        self._writing -= 1
        self._written.append(delivery)
        self._sync()

    def _sync(self) -> None:
        """Make the paragraphs written so far durable, all in one go, and then let their recipients be marked."""
        if self._syncing or not self._written:
            return
        batch, self._written = self._written, []
        self._syncing = True
        layout = self._means.layout
        paths = {delivery.job.number: layout.bounce(delivery.job.number) for delivery in batch}
        folder = layout.queue + "/bounce"

        def sync() -> Done:
            troubled = sync_files(paths, folder)
            return lambda: self._synced(batch, troubled)

        self._means.background.submit(sync)

    def _synced(self, batch: list[Delivery], troubled: set[int]) -> None:
        self._syncing = False
        for delivery in batch:
            number = delivery.job.number
            if number in troubled:
                # not believed, so not marked: tried again later, and the paragraph may appear twice
                self._means.log(Alert(b"trouble fsyncing bounce/%d; will try again later" % number))
            self._recorded(delivery, number not in troubled)
        self._sync()


def append(path: str, data: bytes) -> None:
    """Append all of ``data``, or nothing. Raises OSError."""
    fd = files.open_append(path)
    try:
        size = os.fstat(fd).st_size
        try:
            files.write_all(fd, data)
        except OSError:
            files.truncate(fd, size)
            raise
    finally:
        os.close(fd)


def sync_files(paths: dict[int, str], folder: str) -> set[int]:
    """Sync files and their directory; the numbers of those that cannot be relied on."""
    troubled: set[int] = set()
    for number, path in paths.items():
        try:
            fd = files.open_write(path)
            try:
                files.sync(fd)
            finally:
                os.close(fd)
        except OSError:
            troubled.add(number)
    try:
        files.sync_directory(folder)
    except OSError:
        troubled.update(paths)
    return troubled
