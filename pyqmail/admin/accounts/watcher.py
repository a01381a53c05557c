"""qmail-accountsd at work: hears of changes in the source, and has them put in force (qmail-accountsd(8)).

    a process that listens, as qmailp  --rows-->  this one  --forks-->  a sync, or some changes, one at a time

What comes while one is at work waits, and is done together. After a failure, and after each new connection, the whole
is done anew: no change is missed for good.
"""

import os
import signal
from collections.abc import Callable, Iterator

from pyqmail.admin.accounts.changes import TooMany, apply
from pyqmail.admin.accounts.feed import AWAY, CHANGE, LINE_MAX, Feed, Fields
from pyqmail.admin.accounts.sync import sync
from pyqmail.admin.databases import NotMade
from pyqmail.control import ControlUnreadable
from pyqmail.formats.printable import printable
from pyqmail.login.account_settings import AccountsTrouble, read_settings
from pyqmail.login.account_source import AccountSource
from pyqmail.policy.accounts import AccountMissing, read_accounts
from pyqmail.system.loop import Loop
from pyqmail.system.process import close_all_but, fork_child, reset_signals

GATHER_S = 0.1  # for changes that come together
AGAIN_S, AGAIN_MAX_S = 1.0, 300.0  # after a failure, twice as long after each
SYNC_S = 86400.0  # after which the whole is done anew
PENDING_MAX = 1000  # changes; with more, the whole is done
FAILURES = (AccountsTrouble, AccountMissing, ControlUnreadable, NotMade, OSError)
Say = Callable[[str], None]


def fetch_changes(source: AccountSource) -> Iterator[tuple[bytes, Fields]]:
    """A row for each change, as it comes."""
    for address in source.changes():
        yield CHANGE, (address.encode(),)


class Watcher:
    """One loop: the process that listens, and the one at work."""

    def __init__(self, loop: Loop, home: str, say: Say) -> None:
        self._loop = loop
        self._home = home
        self._say = say
        self._feed: Feed | None = None
        self._rest = b""
        self._why = b""  # the source went away, by its own word
        self._all = False
        self._changed: set[bytes] = set()
        self._worker = 0  # the process at work
        self._gathering = False
        self._again_s = AGAIN_S

    def listen(self) -> None:
        """Start the process that listens."""
        try:
            feed = Feed(read_settings(self._home), read_accounts(self._home), fetch_changes)
        except FAILURES as error:
            self._failed(str(error))
            return
        self._feed = feed
        self._loop.call_later(SYNC_S, lambda: self._note(b""))
        self._rest, self._why = b"", b"the process that listens has ended"
        self._loop.add_reader(feed.fileno(), self._hear)

    def end(self) -> None:
        """End both processes; a sync that is killed is made good by the next one."""
        if self._feed is not None:
            self._feed.close()
        if self._worker:
            os.kill(self._worker, signal.SIGTERM)
            os.waitpid(self._worker, 0)

    def _hear(self) -> None:
        assert self._feed is not None
        data = os.read(self._feed.fileno(), LINE_MAX)
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            table, _, field = line.partition(b"\0")
            if table == CHANGE:
                self._note(field.lower())
            elif table == AWAY:
                self._why = field
        if not data or len(self._rest) > LINE_MAX:
            self._loop.remove_reader(self._feed.fileno())
            self._feed.close()
            self._feed = None
            self._failed(printable(self._why).decode())

    def _failed(self, why: str) -> None:
        """Say so, and listen again after a while."""
        self._say(f"warning: {why}; the last state stays, and is asked for again in {self._again_s:g} s")
        self._loop.call_later(self._again_s, self.listen)
        self._wait_longer()

    def _wait_longer(self) -> None:
        self._again_s = min(2 * self._again_s, AGAIN_MAX_S)

    def _note(self, address: bytes) -> None:
        if not address or address.startswith(b"@") or len(self._changed) >= PENDING_MAX:
            self._all = True
        else:
            self._changed.add(address)
        if not self._gathering:
            self._gathering = True
            self._loop.call_later(GATHER_S, self._work)

    def _work(self) -> None:
        """Have what is noted done, unless something is being done: then it comes after that."""
        self._gathering = False
        if self._worker or not (self._all or self._changed):
            return
        everything, changed = self._all, sorted(self._changed)
        self._all, self._changed = False, set()
        try:
            self._worker = fork_child(prepare, lambda: put_in_force(self._home, everything, changed, self._say))
            watch = os.pidfd_open(self._worker)
        except OSError as error:
            self._worker = 0
            self._try_again(str(error))
            return

        def ended() -> None:
            self._loop.remove_reader(watch)
            os.close(watch)
            code = os.waitstatus_to_exitcode(os.waitpid(self._worker, 0)[1])
            self._worker = 0
            if code:
                self._try_again("not all is in force")
            else:
                self._again_s = AGAIN_S
                self._work()

        self._loop.add_reader(watch, ended)

    def _try_again(self, why: str) -> None:
        self._say(f"warning: {why}; tried again in {self._again_s:g} s")
        self._loop.call_later(self._again_s, lambda: self._note(b""))
        self._wait_longer()


def prepare() -> None:
    """In a new process: nothing of the service's own stays open."""
    reset_signals()
    close_all_but((0, 1, 2))


def put_in_force(home: str, everything: bool, changed: list[bytes], say: Say) -> int:
    """A whole sync, or those changes: the life of a process. 0 when it is done."""
    try:
        if not everything:
            try:
                apply(home, changed, say)
                return 0
            except TooMany:
                pass
        sync(home, say)
        return 0
    except FAILURES as error:
        say(f"warning: {error}")
        return 111
