"""The parent of qmail-queued: it takes connections, learns from the kernel whose they are, and hands them on.

Our own warm programs (qmail-smtpd and its like as qmaild, qmail-send as qmails, forwards of alias) connect to a socket
of their own and are served by a few shared workers. Everybody else, and whatever bin/qmail-queue sends, is served by a
worker for that uid alone (intake/strangers.py). The parent receives from neither: requests, descriptors and mail are
the workers' (intake/worker.py).
"""

import _socket
import os
import signal
import socket
from collections.abc import Callable

from pyqmail.build import BUILD_ID
from pyqmail.intake.doors import open_own
from pyqmail.intake.leases import Leases, look_round
from pyqmail.intake.overflow import Overflow
from pyqmail.intake.pulse import DISK
from pyqmail.intake.serials import Serials
from pyqmail.intake.shared import Shared, own_most
from pyqmail.intake.strangers import Strangers, keep_until_closed
from pyqmail.intake.workers import TICK_SECONDS, WorkerLink, Workers
from pyqmail.log.bugs import tell_bug
from pyqmail.policy.accounts import Accounts
from pyqmail.protocol import queued
from pyqmail.spool.layout import Layout
from pyqmail.system.accepting import accept
from pyqmail.system.loop import Loop
from pyqmail.system.peer import peer_credentials
from pyqmail.system.process import close_all_but

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyqmail.intake.flood import Flood
    from pyqmail.spool.commit import Copies

SLOTS = 100  # open submissions per uid, without control/conf-queueslots
DAEMON_SLOTS = 400  # qmaild has at least as many: every qmail-smtpd submits as qmaild
WAITING = 400  # submissions of one uid that wait for a slot; more are refused
WAITING_SHARE = 8  # fewer where there are few descriptors, or one uid would have all
ACCEPTS_A_TURN = 64
RETRY_SECONDS = 0.05  # when there are no descriptors, or too many connections are held
PATROL_SECONDS = 15.0  # from one look at workers to the next, when nothing asks for one
STOP_SECONDS = 6.0  # after TERM, for workers that strangers may hold
BUGS_MAX = 100  # in a row, before the service ends and lets its supervisor start it anew


def slots_by_uid(accounts: Accounts, slots: int) -> Callable[[int], int]:
    """How many submissions a uid may have open: ``slots``, but more for qmaild, who has those of all SMTP clients."""
    return lambda uid: max(slots, DAEMON_SLOTS) if uid == accounts.uid_daemon else slots


class Service:
    """The parent process."""

    def __init__(
        self,
        layout: Layout,
        accounts: Accounts,
        public: socket.socket,
        slots: int,
        descriptors: int,
        *,
        used: bool,
        flood: "Flood | None" = None,
        copies: "Callable[[], Copies] | None" = None,
    ) -> None:
        self._own_uids = {accounts.uid_daemon, accounts.uid_send, accounts.uid_alias}
        self._public = public
        self._own, closed = open_own(layout, self._own_uids)
        self._serials = Serials(layout.serial, used=used)
        self._loop = Loop()
        self._workers = Workers(self._loop, layout, accounts, self._freed, copies)
        self._workers.ended = self._ended
        waiting, open_slots = min(WAITING, descriptors // WAITING_SHARE), slots_by_uid(accounts, slots)
        self._shared = Shared(self._loop, self._workers, self._serial, open_slots, waiting)
        self._strangers = Strangers(self._loop, self._workers, self._serial, open_slots, descriptors, flood)
        self._ticking = self._stopping = False
        self._overflow = self._share_door(own_most(slots) if closed else 0)
        self.lock = -1  # that of the one running service

    def run(self) -> int:
        """Serve until SIGTERM, then let the workers finish; 0 then, 1 after too many bugs."""
        self._loop.add_signal(signal.SIGTERM, self._stop)
        self._loop.add_signal(signal.SIGCHLD, self._workers.reap)
        for listener in (self._public, self._own):
            listener.setblocking(False)
        self._shared.start()
        self._listen()
        if self._workers.leases is not None:
            self._patrol()
        bugs = 0
        while not (self._stopping and not self._workers.links):
            try:
                self._loop.run_once()
                bugs = 0
            except Exception as error:
                tell_bug("qmail-queued", error)
                bugs += 1
                if bugs >= BUGS_MAX:
                    break
        keep_until_closed(self._strangers.held(), close_all_but)
        return 0 if self._stopping else 1

    def _serial(self) -> int:
        """A number for a submission; 0 when none can be reserved."""
        try:
            return self._serials.take()
        except OSError:
            return 0

    def _share_door(self, most: int) -> Overflow:
        """Let each worker accept ``most`` connections of our own programs for itself; 0 is none."""
        shared, uids = self._shared, self._own_uids | {0, os.geteuid()}
        overflow = Overflow(self._loop, self._own, shared, lambda: self._accept(self._own), self._keep_ticking)
        if most:
            serials, advance = self._serials.take_many, shared.advance

            def away() -> None:
                overflow.lost()
                advance()

            self._workers.leases = Leases(self._own, uids, most, serials, away, advance)
        shared.changed, shared.own_most = overflow.rejoin, most
        return overflow

    def _listen(self) -> None:
        """Accept at everybody's door."""
        if not self._stopping:
            self._loop.add_reader(self._public.fileno(), lambda: self._accept(self._public))

    def _pause(self, listener: socket.socket) -> None:
        """Look again soon."""
        if listener is self._own:
            self._overflow.pause(RETRY_SECONDS)
        else:
            self._loop.remove_reader(listener.fileno())
            self._loop.call_later(RETRY_SECONDS, self._listen)

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(ACCEPTS_A_TURN):
            if listener is self._public and self._strangers.full:
                self._pause(listener)
                return
            try:
                connection, name = accept(listener, _socket.AF_UNIX, _socket.SOCK_SEQPACKET)
            except BlockingIOError:
                return
            except OSError:  # no descriptors
                self._pause(listener)
                return
            self._keep_ticking()  # before anything can fail that a tick mends
            uid = peer_credentials(connection)[1]
            if listener is self._own and uid in self._own_uids:
                self._shared.take(uid, connection)
            elif isinstance(name, bytes) and name.startswith(queued.BUILD_QUESTION):
                self._strangers.answer(uid, connection, queued.format_build(BUILD_ID))
            else:
                self._strangers.take(uid, connection)

    def _freed(self, link: WorkerLink, uid: int) -> None:
        if link.uid is None:
            self._shared.freed(uid)
        else:
            self._strangers.freed(link)

    def _ended(self, link: WorkerLink) -> None:
        if link.uid is None:
            self._shared.ended(link)
        else:
            self._strangers.ended(link)

    def _keep_ticking(self) -> None:
        if not self._ticking:
            self._ticking = True
            self._loop.call_later(TICK_SECONDS, self._tick)

    def _tick(self) -> None:
        """Look after the workers, once a second while anything is under way."""
        self._ticking = False
        try:
            self._workers.tick()
            self._strangers.tick()
            self._shared.advance()
            self._overflow.look()
        finally:
            at_work = any(link.at_work() for link in self._workers.links)
            if at_work or self._workers.dying or self._strangers.busy or self._overflow.watching:
                self._keep_ticking()

    def _patrol(self) -> None:
        """Have a look at workers whose work this process has heard nothing of."""
        if not self._stopping:
            self._loop.call_later(PATROL_SECONDS, self._patrol)
            self._keep_ticking()
            look_round(self._shared.links())

    def _stop(self) -> None:
        """No new submissions; the workers finish what is open and end when their job sockets do.

        The lock is given back at once, so that a successor may serve meanwhile.
        """
        if self._stopping:
            return
        # First what makes it end whatever goes wrong below: nobody is started any more, and all is tried again later.
        self._stopping = self._shared.stopping = self._strangers.places.stopping = True
        self._loop.call_later(STOP_SECONDS, self._leave_strangers)
        if self.lock >= 0:
            os.close(self.lock)
        self._loop.remove_reader(self._public.fileno())
        self._public.close()
        self._overflow.close()
        try:
            self._shared.stop()
        finally:
            for link in list(self._workers.links):
                self._workers.retire(link)
        keep_until_closed(self._strangers.held(), close_all_but)

    def _leave_strangers(self) -> None:
        """Do not wait for what a stranger may hold, and let everybody know who may not have heard of the end."""
        if self._workers.links:
            self._loop.call_later(STOP_SECONDS, self._leave_strangers)
        for link in list(self._workers.links):
            if link.uid is not None and link.pulse.read()[2] != DISK:
                self._workers.replace(link)
            else:
                self._workers.retire(link)
