"""Who may send where: rcpthosts, morercpthosts.cdb, badmailfrom (qmail-smtpd(8)).

A missing rcpthosts accepts only ``me`` and ``locals``, where the original accepted everything.
"""

import os

from pyqmail.control import Control, ControlUnreadable
from pyqmail.formats.cdb import Cdb, CdbCorrupt


class Relaying:
    """The rules of one home, read when made. Raises ControlUnreadable, from ``accepts`` too (a broken cdb)."""

    def __init__(self, control: Control) -> None:
        self._directory = control.directory
        hosts = control.lines("rcpthosts")
        self.rcpthosts_missing = hosts is None
        if hosts is None:
            me = control.me()
            own = control.lines("locals")
            hosts = own if own is not None else ()
            hosts = (*hosts, me) if me else hosts
        self._hosts = frozenset(host.lower() for host in hosts)
        self._bad_senders = frozenset(entry.lower() for entry in control.lines("badmailfrom") or ())

    def bad_sender(self, sender: bytes) -> bool:
        """Whether badmailfrom lists ``sender``, whole or by its ``@domain``."""
        if not self._bad_senders:
            return False
        lowered = sender.lower()
        _, at, host = lowered.rpartition(b"@")
        return lowered in self._bad_senders or (bool(at) and at + host in self._bad_senders)

    def accepts(self, recipient: bytes) -> bool:
        """Whether mail for ``recipient`` is taken from anyone; an address without ``@`` is local."""
        _, at, host = recipient.lower().rpartition(b"@")
        if not at:
            return True
        keys = [host, *(host[dot:] for dot in range(len(host)) if host[dot] == 0x2E)]
        if any(key in self._hosts for key in keys):
            return True
        return not self.rcpthosts_missing and self._in_cdb(keys)

    def _in_cdb(self, keys: list[bytes]) -> bool:
        try:
            fd = os.open(self._directory + "/morercpthosts.cdb", os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise ControlUnreadable(f"control/morercpthosts.cdb: {error.strerror}") from error
        try:
            database = Cdb(fd)
            return any(database.get(key) is not None for key in keys)
        except (CdbCorrupt, OSError) as error:
            raise ControlUnreadable("control/morercpthosts.cdb: damaged") from error
        finally:
            os.close(fd)
