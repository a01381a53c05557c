"""The control files of one home, in words (qmail-showctl(8)).

The output is the original's, byte for byte, except that a missing rcpthosts does not open the relay here, and that
files of our own are listed (where they exist) before the unknown ones.
"""

import os
from collections.abc import Iterator

from pyqmail.admin.check_one_file import HIDING, shown_lines
from pyqmail.admin.control_files import BY_NAME, ORIGINAL, OURS, TLS_SERVERS, ControlFile, Form
from pyqmail.control import Control, ControlUnreadable, parse_integer, parse_line, read_knobs
from pyqmail.formats.printable import printable
from pyqmail.policy.accounts import Accounts, read_accounts
from pyqmail.spool.layout import split_of

OOPS = b"Oops! Trouble reading this file.\n"
DEFAULT = b"(Default.) "


class DisplayEnded(Exception):
    """Nothing more can be shown; ``text`` is the last line."""

    def __init__(self, text: bytes) -> None:
        super().__init__(text)
        self.text = text


def facts(home: str) -> Iterator[bytes]:
    """What was fixed when the original was compiled. Raises ControlUnreadable and AccountMissing."""
    knobs, accounts = read_knobs(home), read_accounts(home)
    yield b"qmail home directory: %s.\n" % os.fsencode(home)
    yield b"user-ext delimiter: %s.\n" % knobs.break_char
    yield b"paternalism (in decimal): %d.\n" % knobs.patrn
    yield b"silent concurrency limit: %d.\n" % knobs.spawn
    yield b"subdirectory split: %d.\n" % split_of(home + "/queue", knobs.split)
    yield b"user ids: %s.\n" % b", ".join(b"%d" % uid for uid in role_uids(accounts))
    yield b"group ids: %d, %d.\n" % (accounts.gid_nofiles, accounts.gid_qmail)


def role_uids(accounts: Accounts) -> tuple[int, ...]:
    """The uids in the order of roles."""
    return (
        accounts.uid_alias,
        accounts.uid_daemon,
        accounts.uid_log,
        accounts.uid_root,
        accounts.uid_passwd,
        accounts.uid_queue,
        accounts.uid_remote,
        accounts.uid_send,
    )


class Display:
    """The control directory of one home, in words."""

    def __init__(self, home: str, *, readers: bool = False) -> None:
        self._control = Control(home)
        self._readers = readers
        try:
            self._names = os.listdir(self._control.directory)
        except OSError:
            raise DisplayEnded(b"Oops! Unable to chdir to control.\n") from None
        try:
            self._me = self._control.me()
        except ControlUnreadable:
            raise DisplayEnded(b"Oops! Trouble reading control/me.\n") from None

    def paragraphs(self) -> Iterator[bytes]:
        """One paragraph for each file."""
        for entry in ORIGINAL:
            yield self._paragraph(entry)
        for entry in OURS:
            if entry.name in self._names:
                yield self._paragraph(entry)
        for name in self._names:
            if name not in BY_NAME:
                yield b"\n%s: I have no idea what this file does.\n" % os.fsencode(name)

    def _paragraph(self, entry: ControlFile) -> bytes:
        text = b"\n%s: " % entry.name.encode()
        try:
            if entry.form in (Form.PEM, Form.DIRECTORY, Form.SECRET):
                of_server = entry.readers == TLS_SERVERS
                text += entry.before.encode() + (b"; see qmail-cert show.\n" if of_server else b".\n")
            else:
                text += self._databases() if entry.form is Form.CDB else self._value(entry)
        except ControlUnreadable:
            text += OOPS
        if self._readers:
            text += f"  Read by {', '.join(entry.readers)}, {entry.when}.\n".encode()
        return text

    def _value(self, entry: ControlFile) -> bytes:
        data = self._control.read(entry.name)
        before, after = entry.before.encode(), entry.after.encode()
        if entry.form in (Form.LIST, Form.MAP):
            if data is None:
                return DEFAULT + self._absent(entry) + b"\n"
            if self._irrelevant(entry):
                before = b"No rcpthosts; doesn't matter that morercpthosts has "
            return b"\n" + b"".join(before + printable(value) + after + b"\n" for value in shown_lines(entry, data))
        if entry.form is Form.INTEGER:
            number = None if data is None else parse_integer(data)
            value, given = (entry.default.encode(), False) if number is None else (b"%d" % number, True)
        else:
            value, given = (self._stand_in(entry), False) if data is None else (parse_line(data), True)
            value = HIDING[entry.name](value) if entry.name in HIDING else value
        return (b"" if given else DEFAULT) + before + printable(value) + after + b"\n"

    def _stand_in(self, entry: ControlFile) -> bytes:
        return self._me if entry.or_me and self._me is not None else entry.default.encode()

    def _irrelevant(self, entry: ControlFile) -> bool:
        """morercpthosts without rcpthosts."""
        return entry.name == "morercpthosts" and "rcpthosts" not in self._names

    def _absent(self, entry: ControlFile) -> bytes:
        return b"No rcpthosts; morercpthosts is irrelevant." if self._irrelevant(entry) else entry.absent.encode()

    def _databases(self) -> bytes:
        """Whether morercpthosts.cdb is newer than its source; its contents are not compared."""
        times = []
        for name in ("morercpthosts", "morercpthosts.cdb"):
            try:
                times.append(int(os.stat(f"{self._control.directory}/{name}").st_mtime))
            except OSError:
                times.append(-1)
        source, made = times
        if source < 0:
            words = (
                b"(Default.) No effect." if made < 0 else b"Oops! morercpthosts.cdb exists but morercpthosts doesn't."
            )
        elif made < 0:
            words = b"Oops! morercpthosts exists but morercpthosts.cdb doesn't."
        elif source > made:
            words = b"Oops! morercpthosts.cdb is older than morercpthosts."
        else:
            words = b"Modified recently enough; hopefully up to date."
        return words + b"\n"
