"""Taking a message into the queue: S1 to S4 (INTERNALS 3), alone or several at once.

The order is the argument. Each file is whole and on disk before the name that announces it:

    message synced, envelope synced | mess/S/N linked, mess/S synced | todo/N linked, todo/ synced | success

Whichever line the machine dies on, qmail-send sees all of the message or none of it; a mess/S/N without a todo/N is
swept after 36 hours. In a batch each step is done for every message before the next step, so that the syncs of one
directory, and the journal commits below them, are shared.

Files start without a name (O_TMPFILE) and are linked once. Where the kernel or filesystem cannot do that, the classic
names in pid/ and intd/ are used, with qmail's own order of steps.
"""

import errno
import os
import time

from pyqmail.envelope import EnvelopeError, EnvelopeParser
from pyqmail.exits import QueueExit
from pyqmail.formats.received import format_received, how_invoked
from pyqmail.spool.trigger import pull_trigger
from pyqmail.system import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyqmail.policy.accounts import Accounts
    from pyqmail.spool.layout import Layout

BUFFER = 65536  # envelope bytes held before they are written
PENDING = -1  # a draft's exit code before it has one
PID_TRIES = 9  # qmail-queue tries the suffixes 1 to 9


class QueueFailure(Exception):
    """The message was not queued; ``exit_code`` is what qmail-queue says."""

    def __init__(self, exit_code: int) -> None:
        super().__init__(exit_code)
        self.exit_code = exit_code


class Draft:
    """One message on its way in: ``message`` and ``envelope`` are descriptors, ``number`` names it in the queue."""

    __slots__ = ("classic", "complete", "envelope", "exit_code", "linked", "message", "number", "parser", "pending")

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


class Spool:
    """The way into one queue. Remembers whether unnamed files work there."""

    def __init__(self, layout: "Layout", accounts: "Accounts") -> None:
        self.layout = layout
        self.accounts = accounts
        self.classic = not os.path.isdir("/proc/self/fd")
        self._turn = os.getpid()  # so that the workers begin apart

    def begin(self, uid: int, submission: int) -> Draft:
        """A new draft with its Received line; ``submission`` is the pid or serial. Raises QueueFailure."""
        now = int(time.time())
        draft = self._create(b"u%d\0p%d\0" % (uid, submission), f"{submission}.{now}")
        line = format_received(submission, how_invoked(uid, self.accounts), now)
        self.write_message(draft, line)
        return draft

    def write_message(self, draft: Draft, data: bytes) -> None:
        """Append to the message. Raises QueueFailure, the draft being abandoned."""
        try:
            files.write_all(draft.message, data)
        except OSError:
            raise self.failed(draft, QueueExit.WRITE_ERROR) from None

    def message_complete(self, draft: Draft) -> None:
        """The message has ended: open the envelope. Raises QueueFailure."""
        if draft.classic:
            try:
                files.sync(draft.message)  # the body is on disk before intd/N exists
            except OSError:
                raise self.failed(draft, QueueExit.WRITE_ERROR) from None
        try:
            if draft.classic:
                draft.envelope = files.create_exclusive(self.layout.intd(draft.number))
            else:
                draft.envelope = files.open_unnamed(self._folder())
        except OSError:
            self._close(draft)
            raise QueueFailure(QueueExit.NO_ENVELOPE_FILE) from None

    def feed_envelope(self, draft: Draft, data: bytes) -> bool:
        """Take envelope bytes; true once the envelope is complete. Raises QueueFailure."""
        try:
            draft.pending += draft.parser.feed(data)
        except EnvelopeError as error:
            self._close(draft)  # classic names stay behind for the sweep, as the original leaves them
            raise QueueFailure(error.exit_code) from None
        if draft.parser.done or len(draft.pending) >= BUFFER:
            try:
                files.write_all(draft.envelope, draft.pending)
            except OSError:
                raise self.failed(draft, QueueExit.WRITE_ERROR) from None
            draft.pending = b""
        draft.complete = draft.parser.done
        return draft.complete

    def failed(self, draft: Draft, exit_code: int) -> QueueFailure:
        """Abandon ``draft`` and remove what it has in the queue; the failure to raise."""
        envelope = draft.envelope
        try:
            if draft.classic:
                if envelope >= 0:
                    files.truncate(envelope, 0)
                    files.unlink(self.layout.intd(draft.number))
                files.truncate(draft.message, 0)
            if draft.linked:
                files.unlink(self.layout.mess(draft.number))
        except OSError:
            pass  # the 36-hour sweep takes what is left
        self._close(draft)
        return QueueFailure(exit_code)

    def commit(self, drafts: list[Draft]) -> None:
        """Put complete drafts into the queue and set each ``exit_code``. Raises nothing but bugs."""
        for draft in drafts:
            files.start_writeback(draft.message)
            files.start_writeback(draft.envelope)
        for draft in drafts:
            self._step(draft, self._sync_files)
        for draft in drafts:
            self._step(draft, self._link_message)
        self._sync_directories(drafts, self.layout.mess)
        for draft in drafts:
            self._step(draft, self._link_todo)
        announced = [draft for draft in drafts if draft.exit_code == PENDING]
        self._sync_directories(announced, self.layout.todo, announced=True)
        if announced:
            pull_trigger(self.layout)
        for draft in drafts:
            if draft.exit_code == PENDING:
                draft.exit_code = QueueExit.DONE
                self._close(draft)

    def _create(self, head: bytes, name: str) -> Draft:
        if not self.classic:
            try:
                message = files.open_unnamed(self._folder())
                return Draft(message, os.fstat(message).st_ino, classic=False, head=head)
            except OSError as error:
                if error.errno not in files.UNNAMED_UNSUPPORTED:
                    raise QueueFailure(QueueExit.NO_PID_FILE) from None
                self.classic = True
        return self._create_classic(head, name)

    def _folder(self) -> str:
        """Where the next unnamed file is made: in each subdirectory of mess/ in turn.

        A file lies near the directory that it was made in, and ext4 without a journal looks there past every inode that
        was freed in the last minutes: with all files in one place that was most of what a message cost. (Sixteen in one
        place before the next, so that they share a block of inodes, spares 1.4 context switches a message there and
        costs more than it spares.)
        """
        self._turn += 1
        return f"{self.layout.queue}/mess/{self._turn % self.layout.split}"

    def _create_classic(self, head: bytes, name: str) -> Draft:
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

    def _step(self, draft: Draft, step: "Callable[[Draft], None]") -> None:
        """Run one step of commit on a draft that has not failed yet."""
        if draft.exit_code == PENDING:
            try:
                step(draft)
            except QueueFailure as failure:
                draft.exit_code = failure.exit_code

    def _sync_files(self, draft: Draft) -> None:
        try:
            if not draft.classic:
                files.sync(draft.message)
            files.sync(draft.envelope)
        except OSError:
            raise self.failed(draft, QueueExit.WRITE_ERROR) from None

    def _link_message(self, draft: Draft) -> None:
        # A todo/N that lost its mess/N has old recipients: a new body under that number would go to them
        if os.path.lexists(self.layout.todo(draft.number)):
            raise self.failed(draft, QueueExit.NO_TODO_LINK)
        if draft.linked:
            return
        try:
            files.link_unnamed(draft.message, self.layout.mess(draft.number))
            draft.linked = True
        except OSError as error:
            if error.errno not in files.UNNAMED_UNSUPPORTED:
                self._close(draft)
                raise QueueFailure(QueueExit.NO_MESSAGE_LINK) from None
            self.classic = True
            self._copy_to_classic(draft)

    def _copy_to_classic(self, draft: Draft) -> None:
        """Unnamed files exist here but cannot be given a name: start again under the classic names."""
        old_message, old_envelope = draft.message, draft.envelope
        try:
            fresh = self._create_classic(b"", f"{os.getpid()}.{int(time.time())}")
            draft.message, draft.envelope, draft.number = fresh.message, -1, fresh.number
            draft.classic = draft.linked = True
            if os.path.lexists(self.layout.todo(draft.number)):
                raise self.failed(draft, QueueExit.NO_TODO_LINK)
            self._copy(draft, old_message, draft.message)
            self.message_complete(draft)
            self._copy(draft, old_envelope, draft.envelope)
            self._sync_files(draft)
        finally:
            os.close(old_message)
            os.close(old_envelope)

    def _copy(self, draft: Draft, source: int, target: int) -> None:
        offset = 0
        try:
            while chunk := os.pread(source, 1 << 20, offset):
                files.write_all(target, chunk)
                offset += len(chunk)
        except OSError:
            raise self.failed(draft, QueueExit.WRITE_ERROR) from None

    def _link_todo(self, draft: Draft) -> None:
        todo = self.layout.todo(draft.number)
        try:
            if draft.classic:
                files.link(self.layout.intd(draft.number), todo)
            else:
                files.link_unnamed(draft.envelope, todo)
        except FileExistsError:
            raise self.failed(draft, QueueExit.NO_TODO_LINK) from None
        except OSError:
            self._close(draft)  # undo nothing: after EIO the link may yet be there
            raise QueueFailure(QueueExit.NO_TODO_LINK) from None

    def _sync_directories(self, drafts: list[Draft], path: "Callable[[int], str]", *, announced: bool = False) -> None:
        """Sync each directory that a draft has been linked in, once; failing it fails all drafts there."""
        folders: dict[str, list[Draft]] = {}
        for draft in drafts:
            if draft.exit_code == PENDING:
                folders.setdefault(os.path.dirname(path(draft.number)), []).append(draft)
        for folder, inside in folders.items():
            try:
                files.sync_directory(folder)
            except OSError:
                for draft in inside:
                    draft.exit_code = QueueExit.WRITE_ERROR
                    if announced:
                        self._close(draft)  # qmail-send may have it already: nothing is undone
                    else:
                        self.failed(draft, QueueExit.WRITE_ERROR)

    def _close(self, draft: Draft) -> None:
        if draft.message >= 0:
            os.close(draft.message)
        if draft.envelope >= 0:
            os.close(draft.envelope)
        draft.message = draft.envelope = -1


def _read(fd: int) -> bytes:
    """Up to 64 KiB from the caller's descriptor, waiting even if it was made non-blocking. Raises QueueFailure."""
    while True:
        try:
            return os.read(fd, BUFFER)
        except BlockingIOError:
            import select

            arrival = select.poll()
            arrival.register(fd, select.POLLIN)
            arrival.poll()
        except OSError as error:
            if error.errno != errno.EINTR:
                raise QueueFailure(QueueExit.READ_ERROR) from None


def enqueue(
    spool: Spool,
    uid: int,
    submission: int,
    message: int,
    envelope: int,
    wanted: "Callable[[], bool]" = lambda: True,
) -> int:
    """Queue one message read from descriptors, the message to its end first; qmail-queue's exit code.

    ``wanted`` is asked before the commit, in case the client has gone meanwhile.
    """
    try:
        draft = spool.begin(uid, submission)
        try:
            while data := _read(message):
                spool.write_message(draft, data)
            spool.message_complete(draft)
            while not draft.complete:
                data = _read(envelope)
                if not data:
                    raise QueueFailure(QueueExit.READ_ERROR)
                spool.feed_envelope(draft, data)
            if not wanted():
                raise QueueFailure(QueueExit.CONNECTION_BROKE)
        except QueueFailure as failure:
            if draft.message >= 0:
                spool.failed(draft, failure.exit_code)
            raise
    except QueueFailure as failure:
        return failure.exit_code
    spool.commit([draft])
    return draft.exit_code
