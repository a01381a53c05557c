"""What qmail-lspawn tells a delivery of forwards: an SRS address in the place of a stranger's sender (qmail-lspawn(8)).

Only while control/srs_domain is there; whether it is, and whether anything has changed, is looked at once a second.
"""

import time
from collections.abc import Mapping

from pyqmail.control import Control, ControlUnreadable
from pyqmail.intake.resend import NO_SENDERS, REWRITTEN
from pyqmail.policy.routing import OwnDomains
from pyqmail.system.stamp import Seen, stamp

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyqmail.mailauth.srs import Srs

LOOK_S = 1.0
ALWAYS = "srs_alwaysrewrite"
UNCHANGED: Mapping[bytes, bytes] = {}
NOT_NOW: Mapping[bytes, bytes] = {REWRITTEN: b""}  # a forward has to wait


class SenderRewriting:
    """What control/ says, and what becomes of a sender by that."""

    def __init__(self, home: str) -> None:
        self._home = home
        self._look_at_s = 0.0
        self._seen: Seen | None = None  # the files that the rest is made of; None: look again
        self._srs: Srs | None = None
        self._own: OwnDomains | None = None  # whose senders stay
        self._unreadable = False

    def variables(self, sender: bytes) -> Mapping[bytes, bytes]:
        """What a delivery for ``sender`` finds in its environment. Never raises."""
        now_s = time.monotonic()
        if now_s >= self._look_at_s:
            self._look_at_s = now_s + LOOK_S
            self._look()
        if (self._srs is None and not self._unreadable) or not sender or sender.endswith(NO_SENDERS):
            return UNCHANGED
        try:
            made = self._rewritten(sender)
        except ControlUnreadable:
            return NOT_NOW
        return UNCHANGED if made == sender else {REWRITTEN: made}

    def _rewritten(self, sender: bytes) -> bytes:
        """Raises ControlUnreadable."""
        if self._srs is None:
            raise ControlUnreadable
        host = sender.rpartition(b"@")[2].lower()
        if host == self._srs.domain or (self._own is not None and self._own.has(host)):
            return sender
        return self._srs.forward(sender, time.time())

    def _look(self) -> None:
        """Read the files, if there are any and they have changed."""
        directory = self._home + "/control/"
        if self._seen is None and stamp(directory + "srs_domain") is None:
            self._forget()
        elif self._seen is None or not self._seen.unchanged():
            self._forget()
            self._read(directory)

    def _read(self, directory: str) -> None:
        from pyqmail.mailauth.srs_controls import FILES, read_srs  # few trees have SRS, and this process then OpenSSL

        seen = Seen(directory + name for name in (*FILES, ALWAYS, *OwnDomains.FILES))
        control = Control(self._home)
        try:
            self._srs = read_srs(control)
            if self._srs is not None and not control.integer(ALWAYS, 0):
                self._own = OwnDomains(control)
        except ControlUnreadable:
            self._srs, self._unreadable = None, True
        if seen.settled() and (self._srs is not None or self._unreadable):
            self._seen = seen

    def _forget(self) -> None:
        if self._own is not None:
            self._own.close()
        self._seen = self._srs = self._own = None
        self._unreadable = False
