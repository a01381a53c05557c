"""Who may send where, and how much: rcpthosts, morercpthosts.cdb, databytes (qmail-smtpd(8)).

A missing rcpthosts accepts only ``me`` and ``locals``, where the original accepted everything.
"""

import os

from pyqmail.control import Control, ControlUnreadable, parse_lines
from pyqmail.formats.cdb import Cdb, CdbCorrupt

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

UNSIGNED_MAX = 0xFFFFFFFF  # databytes is a 32-bit number
MORE = "morercpthosts.cdb"


def size_limit(control: Control, environ: "Mapping[bytes, bytes]") -> int:
    """The largest message in bytes, 0 for no limit: $DATABYTES, else control/databytes. Raises ControlUnreadable."""
    return size_limit_by(control.integer("databytes", 0), environ)


def size_limit_by(limit: int, environ: "Mapping[bytes, bytes]") -> int:
    """The same, where control/databytes says ``limit``."""
    given = environ.get(b"DATABYTES")
    if given is not None:
        digits = given[: len(given) - len(given.lstrip(b"0123456789"))]
        limit = int(digits[:18] or b"0")
    limit &= UNSIGNED_MAX
    return limit - 1 if limit == UNSIGNED_MAX else limit


def parse_hosts(data: bytes) -> frozenset[bytes]:
    """The names in a list of hosts, in lower case."""
    return frozenset(host.lower() for host in parse_lines(data))


class Hosts:
    """The names of rcpthosts, or what stands in where that is ``missing``."""

    __slots__ = ("missing", "names")

    def __init__(self, names: frozenset[bytes], *, missing: bool) -> None:
        self.names = names
        self.missing = missing


def read_hosts(control: Control) -> Hosts:
    """The hosts of ``control``. Raises ControlUnreadable."""
    hosts = control.made("rcpthosts", parse_hosts)
    if hosts is not None:
        return Hosts(hosts, missing=False)
    me = control.me()
    hosts = control.made("locals", parse_hosts) or frozenset()
    return Hosts(hosts | {me.lower()} if me else hosts, missing=True)


class Relaying:
    """The rules of one home, read when made; ``close`` it. Raises ControlUnreadable, from ``accepts`` too."""

    def __init__(self, control: Control, hosts: Hosts | None = None) -> None:
        """``hosts`` are those of ``control``, where they are known."""
        if hosts is None:
            hosts = read_hosts(control)
        self.rcpthosts_missing = hosts.missing
        self._hosts = hosts.names
        self._more = -1
        if not hosts.missing and not control.surely_missing(MORE):
            self._open_more(control.directory)

    def close(self) -> None:
        """Give back the open database."""
        if self._more >= 0:
            os.close(self._more)
            self._more = -1

    def accepts(self, recipient: bytes) -> bool:
        """Whether mail for ``recipient`` is taken from anyone; an address without ``@`` is local."""
        _, at, host = recipient.lower().rpartition(b"@")
        if not at or host in self._hosts:
            return True
        if not host:
            return False
        if not host.isascii():  # rcpthosts may have its A-labels
            from pyqmail.protocol.host_names import ascii_host

            spelled = ascii_host(host)
            if spelled.isascii():
                return self.accepts(b"@" + spelled)
        keys = [host, *(host[dot:] for dot in range(1, len(host)) if host[dot] == 0x2E)]
        if any(key in self._hosts for key in keys):
            return True
        return self._more >= 0 and self._in_cdb(keys)

    def _open_more(self, directory: str) -> None:
        """Open the second list; what is in it is first looked at when the first list has not matched."""
        try:
            self._more = os.open(f"{directory}/{MORE}", os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise ControlUnreadable(f"control/{MORE}: {error.strerror}") from error

    def _in_cdb(self, keys: list[bytes]) -> bool:
        try:
            database = Cdb(self._more)
            return any(database.get(key) is not None for key in keys)
        except (CdbCorrupt, OSError) as error:
            raise ControlUnreadable(f"control/{MORE}: damaged") from error
