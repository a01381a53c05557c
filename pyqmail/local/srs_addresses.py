"""The SRS addresses of a tree as qmail-rcptd judges them: by the secrets that it read as root (qmail-rcptd(8))."""

import time

from pyqmail.control import Control, ControlUnreadable
from pyqmail.mailauth.srs_address import kind_of
from pyqmail.system.stamp import Seen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyqmail.mailauth.srs import Srs


class SrsUnsure(Exception):
    """Whether an address was made here cannot be told now."""


class SrsAddresses:
    """What control/ said of SRS when this was made. Without control/srs_domain it costs one stat."""

    def __init__(self, home: str) -> None:
        self._srs: Srs | None = None
        directory = home + "/control/"
        self._seen = Seen()
        if not self._seen.look(directory + "srs_domain"):
            return
        from pyqmail.mailauth.srs_controls import FILES, read_srs  # few trees have SRS, and this process then OpenSSL

        self._seen = Seen(directory + name for name in FILES)
        try:
            self._srs = read_srs(Control(home))
        except ControlUnreadable:
            self._srs = None

    def current(self) -> bool:
        """Whether the files are still those that were read."""
        return self._seen.unchanged()

    def made_here(self, local: bytes) -> bool:
        """Whether this local part is a good SRS address of ours, or none at all. Raises SrsUnsure."""
        if not kind_of(local):
            return True
        if self._srs is None:
            raise SrsUnsure
        return self._srs.made(local, time.time())
