"""The rows of a source of accounts, fetched by a process that is not root (qmail-accounts(8)).

    TABLE NUL FIELD NUL FIELD ... LF        a row
    "done" LF                               the end; without it the source went away

The process is qmailp. It has the settings in its memory and a pipe; what comes out of that pipe is as hostile as the
source is, and bounded.
"""

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType

from pyqmail.formats.printable import printable
from pyqmail.login.account_settings import AccountSettings, AccountsTrouble
from pyqmail.login.account_source import AccountSource, load_source
from pyqmail.policy.accounts import Accounts
from pyqmail.system.process import become, close_all_but, fork_child, plug_standard_descriptors, reset_signals

LINE_MAX = 65536
MEMORY = 1 << 20  # of what waits to be written
DOMAIN, ADDRESS, SENDER, CHANGE = b"domain", b"address", b"sender", b"change"
ODD, AWAY, DONE = b"odd", b"away", b"done"
WIDTHS = {DOMAIN: 1, ADDRESS: 4, SENDER: 2, CHANGE: 1, ODD: 1, AWAY: 1, DONE: 0}
Fields = Sequence[bytes]
Fetch = Callable[[AccountSource], Iterator[tuple[bytes, Fields]]]


def fetch_all(source: AccountSource) -> Iterator[tuple[bytes, Fields]]:
    """Every row of every table. Raises AccountsTrouble."""
    for table, rows in ((DOMAIN, source.domains), (ADDRESS, source.addresses), (SENDER, source.senders)):
        for row in rows():
            yield table, row


def write_rows(settings: AccountSettings, accounts: Accounts, fetch: Fetch, writer: int) -> int:
    """Become qmailp and write what ``fetch`` finds to ``writer``: the process's whole life.

    The library is imported before: whoever qmailp is, he need not be able to read it.
    """
    with os.fdopen(writer, "wb", MEMORY) as file:
        try:
            open_source = load_source(settings)
            if not accounts.single_user and os.geteuid() == 0:
                become(accounts.uid_passwd, accounts.gid_nofiles, [accounts.gid_nofiles])
            for table, row in fetch(open_source(settings)):
                file.write(format_row(table, row))
                if table == CHANGE:
                    file.flush()
        except AccountsTrouble as trouble:
            file.write(format_row(AWAY, [str(trouble).encode()[: LINE_MAX // 2].replace(b"\n", b" ")]))
            return 111
        file.write(DONE + b"\n")
    return 0


class Feed:
    """One fetch, as a context: of everything, or of what ``fetch`` says. ``rows`` may be taken once."""

    def __init__(self, settings: AccountSettings, accounts: Accounts, fetch: Fetch = fetch_all) -> None:
        """Raises OSError."""
        reader, writer = os.pipe2(os.O_CLOEXEC)

        def prepare() -> None:
            reset_signals()
            close_all_but((2, writer))
            plug_standard_descriptors()

        self.pid = fork_child(prepare, lambda: write_rows(settings, accounts, fetch, writer))
        os.close(writer)
        self._file = os.fdopen(reader, "rb", MEMORY)

    def __enter__(self) -> "Feed":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def fileno(self) -> int:
        """The descriptor on which rows come."""
        return self._file.fileno()

    def close(self) -> None:
        """End it, whatever it waits for: it only reads."""
        self._file.close()
        os.kill(self.pid, signal.SIGKILL)  # not collected yet, so the number is still its own
        os.waitpid(self.pid, 0)

    def rows(self) -> Iterator[tuple[bytes, Fields]]:
        """Table and fields of each row. Raises AccountsTrouble where the source went away before the end."""
        while True:
            line = self._file.readline(LINE_MAX)
            table, *fields = line.removesuffix(b"\n").split(b"\0")
            if not line.endswith(b"\n") or len(fields) != WIDTHS.get(table):
                raise AccountsTrouble("the process that asks for accounts has ended")
            if table == AWAY:
                raise AccountsTrouble(printable(fields[0]).decode())
            if table == DONE:
                return
            yield table, fields


def format_row(table: bytes, fields: Fields) -> bytes:
    """One line; a row that cannot be one becomes an ODD line that names its first field."""
    line = b"\0".join((table, *fields))
    if line.count(b"\0") != len(fields) or b"\n" in line or len(line) >= LINE_MAX:
        return b"%b\0%b\n" % (ODD, printable(fields[0][:200]))
    return line + b"\n"
