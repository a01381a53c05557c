"""Putting whole drafts into the queue: S2 to S4 (INTERNALS 3), alone or several at once.

The order is the argument. What todo/N announces is whole and on disk before todo/N is made:

    mess/S/N linked | message, envelope and mess/S synced | todo/N linked, todo/ synced | success

mess/S/N announces nothing: without todo/N it is a message that is being written (S2), as it is in qmail from its first
byte on, and may be torn after a crash. The three syncs of the second step need one another in no order. They follow one
another because the first takes along, in one commit of the file system's journal, what the others would each wait for.

Where copies are wanted (qmail-shadowd(8)) each is made while the first two steps go on, and is there before the third:
what has none is refused, or goes its way and says so itself. After the third nothing is undone.

The facts of a message that has any (spool/facts) are made and synced, their name too, with the second step. That
another node's message is taken in (spool/transfers) is noted after todo/ is synced, and before success.
Whichever line the machine dies on, qmail-send sees all of the message or none of it; a mess/S/N without a todo/N is
swept after 36 hours. In a batch each step is done for every message before the next step, so that the syncs of one
directory, and the journal commits below them, are shared.
"""

import os
import time

from pyqmail.exits import QueueExit
from pyqmail.spool.draft import PENDING, Draft, Drafts, QueueFailure
from pyqmail.spool.trigger import pull_trigger
from pyqmail.system import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Protocol

    class Copies(Protocol):
        """Has messages copied elsewhere (shadow/copies). ``required``: one that is not is refused. None raises."""

        required: bool

        def new_id(self) -> bytes:
            """What a message and its copy are to be called."""

        def begin(self, drafts: Iterable[Draft]) -> None:
            """Begin to copy ``drafts``."""

        def settle(self) -> set[bytes]:
            """The IDs of those that are copied; the others are not, and will not be."""

        def end(self, drafts: Iterable[Draft], copied: set[bytes]) -> None:
            """The copies of what is not in the queue now are not wanted."""

    from pyqmail.spool.transfers import Transfers


class Commit:
    """The steps that put drafts into one queue."""

    def __init__(self, drafts: Drafts, copies: "Copies | None" = None) -> None:
        self._drafts = drafts
        self._copies = copies
        self._layout = drafts.layout
        self._transfers: Transfers | None = None

    def run(self, drafts: list[Draft]) -> None:
        """Put complete drafts into the queue and set each ``exit_code``. Raises nothing but bugs.

        The files of those that are there, DONE, are left to be closed by the caller: nobody should wait for that.
        """
        moved = [draft for draft in drafts if draft.transfer]
        for draft in moved:
            self._step(draft, self._claim)
        self._start_writeback([draft for draft in drafts if draft.exit_code == PENDING])
        if self._copies is not None:
            self._copies.begin(drafts)
        for draft in drafts:
            self._step(draft, self._link_message)
        for draft in drafts:
            self._step(draft, self._sync_files)
        self._write_facts([draft for draft in drafts if draft.token])
        self._sync_directories(drafts, self._layout.mess)
        copied = self._settle_copies(drafts)
        for draft in drafts:
            self._step(draft, self._link_todo)
        announced = [draft for draft in drafts if draft.exit_code == PENDING]
        self._sync_directories(announced, self._layout.todo, announced=True)
        if announced:
            pull_trigger(self._layout)
        for draft in moved:
            self._step(draft, self._record)
        for draft in drafts:
            if draft.exit_code == PENDING:
                draft.exit_code = QueueExit.DONE
        if self._copies is not None:
            self._copies.end(drafts, copied)

    def _start_writeback(self, drafts: list[Draft]) -> None:
        """Have written what is synced later: all but the first message, whose sync is next."""
        for draft in drafts:
            if draft is not drafts[0]:
                files.start_writeback(draft.message)
            files.start_writeback(draft.envelope)

    def _settle_copies(self, drafts: list[Draft]) -> set[bytes]:
        """The IDs of those that are copied; the others fail where they must, or say that they are not."""
        if self._copies is None:
            return set()
        copied = self._copies.settle()
        for draft in drafts:
            if draft.shadow not in copied:
                self._step(draft, self._go_without_copy)
        return copied

    def _go_without_copy(self, draft: Draft) -> None:
        assert self._copies is not None
        if self._copies.required:
            raise self._drafts.failed(draft, QueueExit.NEXT_HOP_TEMPORARY)
        try:
            draft.forget_copy()
            files.sync(draft.envelope)
        except OSError:
            raise self._drafts.failed(draft, QueueExit.WRITE_ERROR) from None

    def _claim(self, draft: Draft) -> None:
        from pyqmail.spool.transfers import TakenAlready, Transfers  # few queues have any

        self._transfers = self._transfers or Transfers(self._layout)
        try:
            draft.claim = self._transfers.claim(draft.transfer)
        except TakenAlready:
            raise self._drafts.failed(draft, QueueExit.DONE) from None
        except OSError:
            raise self._drafts.failed(draft, QueueExit.WRITE_ERROR) from None

    def _record(self, draft: Draft) -> None:
        assert self._transfers is not None
        try:
            self._transfers.record(draft.claim)
        except OSError:
            self._drafts.close(draft)  # qmail-send may have it already: nothing is undone
            raise QueueFailure(QueueExit.WRITE_ERROR) from None

    def _step(self, draft: Draft, step: "Callable[[Draft], None]") -> None:
        """Run one step of commit on a draft that has not failed yet."""
        if draft.exit_code == PENDING:
            try:
                step(draft)
            except QueueFailure as failure:
                draft.exit_code = failure.exit_code

    def _write_facts(self, drafts: list[Draft]) -> None:
        for draft in drafts:
            self._step(draft, self._write_facts_of)
        self._sync_directories(drafts, self._layout.facts)

    def _write_facts_of(self, draft: Draft) -> None:
        from pyqmail.spool import facts

        try:
            facts.write(self._layout, draft)
        except OSError:
            raise self._drafts.failed(draft, QueueExit.WRITE_ERROR) from None

    def _sync_files(self, draft: Draft) -> None:
        try:
            if not draft.classic:
                files.sync(draft.message)
            files.sync(draft.envelope)
        except OSError:
            raise self._drafts.failed(draft, QueueExit.WRITE_ERROR) from None

    def _link_message(self, draft: Draft) -> None:
        # A todo/N that lost its mess/N has old recipients: a new body under that number would go to them
        if os.path.lexists(self._layout.todo(draft.number)):
            raise self._drafts.failed(draft, QueueExit.NO_TODO_LINK)
        if draft.linked:
            return
        try:
            files.link_unnamed(draft.message, self._layout.mess(draft.number))
            draft.linked = True
        except OSError as error:
            if error.errno not in files.UNNAMED_UNSUPPORTED:
                self._drafts.close(draft)
                raise QueueFailure(QueueExit.NO_MESSAGE_LINK) from None
            self._drafts.classic = True
            self._copy_to_classic(draft)

    def _copy_to_classic(self, draft: Draft) -> None:
        """Unnamed files exist here but cannot be given a name: start again under the classic names."""
        old_message, old_envelope = draft.message, draft.envelope
        draft.message = draft.envelope = -1  # they are closed here, and not once more by whoever gives the draft up
        try:
            fresh = self._drafts.create_classic(b"", f"{os.getpid()}.{int(time.time())}")
            draft.message, draft.envelope, draft.number = fresh.message, -1, fresh.number
            draft.classic = draft.linked = True
            if os.path.lexists(self._layout.todo(draft.number)):
                raise self._drafts.failed(draft, QueueExit.NO_TODO_LINK)
            self._copy(draft, old_message, draft.message)
            self._drafts.open_envelope(draft)
            self._copy(draft, old_envelope, draft.envelope)
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
            raise self._drafts.failed(draft, QueueExit.WRITE_ERROR) from None

    def _link_todo(self, draft: Draft) -> None:
        todo = self._layout.todo(draft.number)
        try:
            if draft.classic:
                files.link(self._layout.intd(draft.number), todo)
            else:
                files.link_unnamed(draft.envelope, todo)
        except FileExistsError:
            raise self._drafts.failed(draft, QueueExit.NO_TODO_LINK) from None
        except OSError:
            self._drafts.close(draft)  # undo nothing: after EIO the link may yet be there
            raise QueueFailure(QueueExit.NO_TODO_LINK) from None

    def _sync_directories(self, drafts: list[Draft], path: "Callable[[int], str]", *, announced: bool = False) -> None:
        """Sync each directory that a draft has been linked in, once; failing it fails all drafts there."""
        folders: dict[str, list[Draft]] = {}
        for draft in drafts:
            if draft.exit_code == PENDING:
                folders.setdefault(path(draft.number).rpartition("/")[0], []).append(draft)
        for folder, inside in folders.items():
            try:
                files.sync_directory(folder)
            except OSError:
                for draft in inside:
                    draft.exit_code = QueueExit.WRITE_ERROR
                    if announced:
                        self._drafts.close(draft)  # qmail-send may have it already: nothing is undone
                    else:
                        self._drafts.failed(draft, QueueExit.WRITE_ERROR)
