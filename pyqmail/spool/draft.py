"""A message on its way into the queue, before it has a name that announces it: its files, made, opened and given up.

Files start without a name (O_TMPFILE) and are linked once. Where the kernel or filesystem cannot do that, the classic
names in pid/ and intd/ are used, with qmail's own order of steps.
"""

import os

from pyqmail.envelope import EnvelopeParser
from pyqmail.exits import QueueExit
from pyqmail.system import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyqmail.spool.layout import Layout

PENDING = -1  # a draft's exit code before it has one
PID_TRIES = 9  # qmail-queue tries the suffixes 1 to 9


class QueueFailure(Exception):
    """The message was not queued; ``exit_code`` is what qmail-queue says."""

    def __init__(self, exit_code: int) -> None:
        super().__init__(exit_code)
        self.exit_code = exit_code


class Draft:
    """One message on its way in: ``message`` and ``envelope`` are descriptors, ``number`` names it in the queue."""

    __slots__ = (
        "claim", "classic", "complete", "envelope", "exit_code", "facts", "linked", "message", "number", "parser",
        "pending", "shadow", "token", "transfer",
    )  # fmt: skip

    def __init__(self, message: int, number: int, *, classic: bool, head: bytes) -> None:
        self.message = message
        self.envelope = -1
        self.number = number
        self.classic = classic
        self.linked = classic  # mess/S/N exists
        self.complete = False  # the final NUL of the envelope has come
        self.exit_code = PENDING
        self.parser = EnvelopeParser()
        self.pending = head
        self.facts = b""  # beside the envelope, as the client gave them (formats/facts)
        self.token = b""  # of the facts, once they are known to be this envelope's
        self.transfer = b""  # its name, if another node has sent it (spool/transfers)
        self.claim = -1  # the file that goes with that
        self.shadow = b""  # the ID of its copy, where copies are made (qmail-shadowd(8))

    def name_copy(self, identity: bytes) -> None:
        """Have its envelope say which copy is of this message, before anything else of it."""
        from pyqmail.formats.todo import SHADOW_RECORD  # most queues have no copies

        self.shadow = identity
        self.pending = SHADOW_RECORD + identity + b"\0" + self.pending

    def forget_copy(self) -> None:
        """Have it say that there is none. Raises OSError."""
        from pyqmail.formats.todo import ALONE_RECORD, FACTS_RECORD

        before = len(FACTS_RECORD) + len(self.token) + 1 if self.token else 0
        os.pwrite(self.envelope, ALONE_RECORD, before)
        self.shadow = b""


class Drafts:
    """Makes drafts in one queue. Remembers whether unnamed files work there: not if ``classic``."""

    def __init__(self, layout: "Layout") -> None:
        self.layout = layout
        self.classic = not os.path.isdir("/proc/self/fd")
        self._turn = os.getpid()  # so that the workers begin apart
        self._apart = True  # there are directories for drafts alone

    def create(self, head: bytes, name: str) -> Draft:
        """A draft whose envelope begins with ``head``; ``name`` is for pid/. Raises QueueFailure."""
        if not self.classic:
            try:
                message = self._open_unnamed()
                return Draft(message, os.fstat(message).st_ino, classic=False, head=head)
            except OSError as error:
                if error.errno not in files.UNNAMED_UNSUPPORTED:
                    raise QueueFailure(QueueExit.NO_PID_FILE) from None
                self.classic = True
        return self.create_classic(head, name)

    def create_classic(self, head: bytes, name: str) -> Draft:
        """The same under the classic names. Raises QueueFailure."""
        for sequence in range(1, PID_TRIES + 1):
            path = f"{self.layout.pid}/{name}.{sequence}"
            try:
                message = files.create_exclusive(path)
                break
            except OSError:
                continue
        else:
            raise QueueFailure(QueueExit.NO_PID_FILE)
        number = os.fstat(message).st_ino
        code = QueueExit.NO_TODO_LINK if os.path.lexists(self.layout.todo(number)) else QueueExit.NO_MESSAGE_LINK
        try:
            if code == QueueExit.NO_TODO_LINK:
                files.unlink(path)
                raise FileExistsError
            files.link(path, self.layout.mess(number))
            code = QueueExit.NO_PID_FILE
            files.unlink(path)
        except OSError:
            os.close(message)
            raise QueueFailure(code) from None
        return Draft(message, number, classic=True, head=head)

    def _open_unnamed(self) -> int:
        """A file without a name, in a place that changes whenever a draft is closed. Raises OSError.

        A file lies near the directory that it was made in, and ext4 without a journal looks there past every inode that
        was freed in the last minutes: with all files in one place that was most of what a message cost. What is open at
        the same time, so that it may be synced together, is made in one place: its inodes share a block, written once.
        """
        if self._apart:
            try:
                return files.open_unnamed(self.layout.drafts(self._turn))
            except (FileNotFoundError, NotADirectoryError, PermissionError):
                self._apart = False  # a queue that another qmail has made: mess/ has 23 places
        return files.open_unnamed(f"{self.layout.queue}/mess/{self._turn % self.layout.split}")

    def open_envelope(self, draft: Draft) -> None:
        """Make the envelope's file; the message has ended. Raises QueueFailure."""
        if draft.classic:
            try:
                files.sync(draft.message)  # the body is on disk before intd/N exists
            except OSError:
                raise self.failed(draft, QueueExit.WRITE_ERROR) from None
        try:
            if draft.classic:
                draft.envelope = files.create_exclusive(self.layout.intd(draft.number))
            else:
                draft.envelope = self._open_unnamed()
        except OSError:
            self.close(draft)
            raise QueueFailure(QueueExit.NO_ENVELOPE_FILE) from None

    def failed(self, draft: Draft, exit_code: int) -> QueueFailure:
        """Abandon ``draft`` and remove what it has in the queue; the failure to raise."""
        assert draft.exit_code != QueueExit.DONE, "a message that was accepted is not undone"
        envelope = draft.envelope
        try:
            if draft.classic:
                if envelope >= 0:
                    files.truncate(envelope, 0)
                    files.unlink(self.layout.intd(draft.number))
                files.truncate(draft.message, 0)
            if draft.linked:
                if draft.token:
                    files.unlink_if_present(self.layout.facts(draft.number))
                files.unlink(self.layout.mess(draft.number))
        except OSError:
            pass  # the 36-hour sweep takes what is left
        self.close(draft)
        return QueueFailure(exit_code)

    def close(self, draft: Draft) -> None:
        """Close its files, whatever names they have; the next draft is made in another place."""
        self._turn += 1
        if draft.message >= 0:
            os.close(draft.message)
        if draft.envelope >= 0:
            os.close(draft.envelope)
        if draft.claim >= 0:
            os.close(draft.claim)
        draft.message = draft.envelope = draft.claim = -1
