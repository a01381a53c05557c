"""Taking a message into the queue: S1 to S4 (INTERNALS 3).

A message is read into a draft, which nobody sees (spool/draft), and put into the queue when it is whole (spool/commit,
where the order of the steps is the argument that a crash loses nothing).
"""

import errno
import os
import time

from pyqmail.envelope import EnvelopeError
from pyqmail.exits import QueueExit
from pyqmail.formats.received import format_received, how_invoked
from pyqmail.spool.commit import Commit
from pyqmail.spool.draft import Draft, Drafts, QueueFailure
from pyqmail.system import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyqmail.policy.accounts import Accounts
    from pyqmail.spool.commit import Copies
    from pyqmail.spool.layout import Layout

BUFFER = 65536  # envelope bytes held before they are written


class Spool:
    """The way into one queue. ``copies`` has each message copied elsewhere, where that is wanted."""

    def __init__(self, layout: "Layout", accounts: "Accounts", copies: "Copies | None" = None) -> None:
        self.accounts = accounts
        self.drafts = Drafts(layout)
        self._copies = copies
        self._trusted = {accounts.uid_daemon} | ({accounts.uid_remote} if copies is not None else set())
        self._commit = Commit(self.drafts, copies)

    def begin(self, uid: int, submission: int, facts: bytes = b"", start: bytes = b"") -> Draft:
        """A new draft with its Received line and the ``start`` of the message; ``submission`` is the pid or serial.
        Raises QueueFailure.

        ``facts`` are taken if they turn out to be those of its envelope (formats/facts).
        """
        now = int(time.time())
        draft = self.drafts.create(b"u%d\0p%d\0" % (uid, submission), f"{submission}.{now}")
        draft.facts = facts
        if self._copies is not None:
            draft.name_copy(self._copies.new_id())
        line = format_received(submission, how_invoked(uid, self.accounts), now)
        self.write_message(draft, line + start)
        return draft

    def write_message(self, draft: Draft, data: bytes) -> None:
        """Append to the message. Raises QueueFailure, the draft being abandoned."""
        try:
            files.write_all(draft.message, data)
        except OSError:
            raise self.drafts.failed(draft, QueueExit.WRITE_ERROR) from None

    def message_complete(self, draft: Draft) -> None:
        """The message has ended: open the envelope. Raises QueueFailure."""
        self.drafts.open_envelope(draft)

    def feed_envelope(self, draft: Draft, data: bytes) -> bool:
        """Take envelope bytes; true once the envelope is complete. Raises QueueFailure."""
        try:
            draft.pending += draft.parser.feed(data)
        except EnvelopeError as error:
            self.drafts.close(draft)  # classic names stay behind for the sweep, as the original leaves them
            raise QueueFailure(error.exit_code) from None
        if draft.parser.done or len(draft.pending) >= BUFFER:
            if draft.facts and not draft.token:
                from pyqmail.spool.facts import announce  # few messages have any

                announce(draft, trusted=self._trusted)
            try:
                files.write_all(draft.envelope, draft.pending)
            except OSError:
                raise self.drafts.failed(draft, QueueExit.WRITE_ERROR) from None
            draft.pending = b""
        draft.complete = draft.parser.done
        return draft.complete

    def failed(self, draft: Draft, exit_code: int) -> QueueFailure:
        """Abandon ``draft`` and remove what it has in the queue; the failure to raise."""
        return self.drafts.failed(draft, exit_code)

    def commit(self, drafts: list[Draft]) -> None:
        """Put complete drafts into the queue and set each ``exit_code``. Raises nothing but bugs.

        Those that are DONE are still open: ``close`` them once their clients have their answer.
        """
        self._commit.run(drafts)

    def close(self, draft: Draft) -> None:
        """Close the files of ``draft``; what is in the queue stays there."""
        self.drafts.close(draft)


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
    facts: bytes = b"",
) -> int:
    """Queue one message read from descriptors, the message to its end first; qmail-queue's exit code.

    ``wanted`` is asked before the commit, in case the client has gone meanwhile.
    """
    try:
        draft = spool.begin(uid, submission, facts)
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
    spool.close(draft)
    return draft.exit_code
