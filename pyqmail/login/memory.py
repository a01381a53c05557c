"""Who was answered yes lately, so that the same password need not be hashed again a moment later (qmail-authd(8)).

Only an answer that follows from files alone is remembered: of virtual users, and of accounts where PAM asks nobody but
pam_unix. It holds while each of these files is the one that it was, and for control/authcachettl seconds at most, since
accounts expire by the date. Of a password there is a keyed digest, in this process only; nothing is remembered of a no.
"""

import hashlib
import hmac
import os
import time
from collections import OrderedDict

from pyqmail.control import Control, ControlUnreadable
from pyqmail.login import checking
from pyqmail.login.accounts import PAM_SERVICE
from pyqmail.login.pam_service import deciding_files
from pyqmail.login.virtual_users import COMPILED
from pyqmail.protocol.sasl import Credentials
from pyqmail.system.stamp import Seen

TTL, ACCOUNTS = "authcachettl", "accounts"
TTL_S, TTL_MAX_S = 60, 3600
KNOWN_MAX = 10_000
SHADOW = "/etc/shadow"


class Memory:
    """Names with the digests of their passwords, and with the files that said so."""

    def __init__(self, home: str, *, single_user: bool) -> None:
        self._home = home
        self._single_user = single_user
        self._key = os.urandom(32)
        self._known: OrderedDict[bytes, tuple[bytes, Seen, float]] = OrderedDict()
        self._looks: dict[tuple[str, ...], Seen] = {}  # one for all who depend on the same files

    def knows(self, credentials: Credentials) -> bool:
        """Whether they were right a moment ago, and nothing has changed since."""
        known = None if credentials.challenge else self._known.get(credentials.user)
        if known is None or not hmac.compare_digest(known[0], self._digest(credentials)):
            return False
        return time.monotonic() < known[2] and known[1].unchanged()

    def look(self, credentials: Credentials) -> Seen | None:
        """The files that decide, as they are before the check; None: a yes is not to be remembered."""
        try:
            paths = self._deciding(credentials)
        except ControlUnreadable:
            return None
        if paths is None:
            return None
        seen = self._looks.get(paths)
        if seen is None or not seen.unchanged():
            seen = self._looks[paths] = Seen(paths)
        return seen if seen.settled() else None

    def remember(self, credentials: Credentials, seen: Seen) -> None:
        """They are right by files that were looked at before."""
        if b"@" not in credentials.user and not in_shadow(credentials.user):
            return  # another source of NSS knows this account
        try:
            ttl_s = min(TTL_MAX_S, Control(self._home).integer(TTL, TTL_S))
        except ControlUnreadable:
            return
        self._known[credentials.user] = self._digest(credentials), seen, time.monotonic() + ttl_s
        self._known.move_to_end(credentials.user)
        while len(self._known) > KNOWN_MAX:
            self._known.popitem(last=False)

    def _digest(self, credentials: Credentials) -> bytes:
        return hashlib.blake2b(credentials.user + b"\0" + credentials.secret, key=self._key).digest()

    def _deciding(self, credentials: Credentials) -> tuple[str, ...] | None:
        """The paths of what decides; None where it is not files alone. Raises ControlUnreadable."""
        control = Control(self._home)
        lines = control.lines(checking.CONTROL) or checking.usual(self._home)
        if credentials.challenge or not set(lines) <= checking.WORDS:
            return None
        own = tuple(f"{control.directory}/{name}" for name in (checking.CONTROL, ACCOUNTS, TTL))
        if b"@" in credentials.user:
            return None if checking.ACCOUNTS in lines else (*own, self._home + COMPILED)
        paths = None if self._single_user else deciding_files(PAM_SERVICE)
        return None if paths is None else own + paths


def in_shadow(name: bytes) -> bool:
    """Whether /etc/shadow has a line for ``name``."""
    try:
        with open(SHADOW, "rb") as source:
            return any(line.startswith(name + b":") for line in source)
    except OSError:
        return False
