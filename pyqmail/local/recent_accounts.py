"""What qmail-getpw has just answered (qmail-lspawn(8))."""

import time

from pyqmail.system.stamp import Glance

RECENT_S = 1.0  # how long an answer of our own qmail-getpw stands
RECENT_MAX = 1000
ACCOUNTS_FILE = "/etc/passwd"


class RecentAccounts:
    """The last answers of qmail-getpw, each for a second, none past a change of /etc/passwd.

    A burst of mail to one user is one look-up a second. What such an answer can be wrong about in that time is what any
    delivery can be wrong about that began a second ago.
    """

    def __init__(self, glance: Glance | None = None) -> None:
        self._answers: dict[bytes, tuple[float, bytes]] = {}
        self._glance = glance or Glance()
        self._accounts = self._glance.stamp(ACCOUNTS_FILE)

    def get(self, local: bytes) -> bytes | None:
        """The account record of ``local``, if it is known."""
        now = self._glance.stamp(ACCOUNTS_FILE)
        if now != self._accounts:
            self._accounts = now
            self._answers.clear()
        at, record = self._answers.get(local, (0.0, b""))
        return record if record and time.monotonic() - at < RECENT_S else None

    def put(self, local: bytes, record: bytes) -> None:
        """``record`` has just been found for ``local``."""
        if len(self._answers) >= RECENT_MAX:
            self._answers.clear()
        self._answers[local] = (time.monotonic(), record)
