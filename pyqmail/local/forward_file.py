"""What a .forward file of sendmail's says, and doing it (dot-forward(1))."""

import os

from pyqmail.control import Control, home_of
from pyqmail.formats.aliases import (
    ADDRESS,
    FILE,
    INCLUDE,
    LOCAL,
    NULL_DEVICE,
    PROGRAM,
    Completion,
    ListError,
    parse_lines,
)  # fmt: skip
from pyqmail.intake.resend import Fatal, complain, queue_again
from pyqmail.system.files import USERS_FILE_MAX, read_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pyqmail.formats.aliases import Entry

HANDED_ON = 99  # qmail-local skips the lines that follow
PERMANENT_EXITS = (100, 64, 65, 70, 76, 77, 78, 112)  # of a program; any other trouble is temporary


class Forwarding:
    """One message and what is to be done with it."""

    def __init__(self, environ: "Mapping[bytes, bytes]", *, describe: bool) -> None:
        """Raises ControlUnreadable."""
        self.environ = environ
        self.describe = describe
        control = Control(home_of(environ))
        names = ("defaulthost", "defaultdomain", "plusdomain")
        self.completion = Completion(*(control.setting({}, b"", name) for name in names))
        self.user = environ.get(b"USER", b"").lower()
        self.host = environ.get(b"HOST", b"").lower()
        self.recipients: list[bytes] = []
        self.direct = False
        self.done = 0  # programs, files and what was thrown away
        self.moved = False  # whether somebody has read from descriptor 0

    def run(self, names: "Sequence[bytes]") -> int:
        """The exit code. Raises Fatal."""
        for name in names:
            text = self._read(name)
            if text is None:
                continue
            entries = self._entries(name, text, set())  # all are read before anything is done
            for kind, entry in entries:
                self._obey(kind, entry)
            if self.direct or self.recipients or self.done:
                self._forward()
                return 0 if self.direct else HANDED_ON
            self._say(b"skipping empty file " + name)
        self._say(b"direct delivery")
        return 0

    def addresses(self, name: bytes) -> "list[bytes] | None":
        """To whom the file forwards; None if it is not there, or says nothing. Raises Fatal."""
        text = self._read(name)
        entries = [] if text is None else self._entries(name, text, set())
        if not any(entry for _kind, entry in entries):
            return None
        return [
            self._address(kind, entry)
            for kind, entry in entries
            if entry and kind in (ADDRESS, LOCAL) and not self._is_me(kind, entry)
        ]

    def _address(self, kind: int, text: bytes) -> bytes:
        return self.completion.complete(kind, text).partition(b"\0")[0]  # a NUL would forge a recipient

    def _entries(self, name: bytes, text: bytes, seen: set[bytes]) -> "list[Entry]":
        """What the file says, in the order of doing, with the lists that it includes. Raises Fatal."""
        found: list[Entry] = []
        try:
            for number, entries in parse_lines(text):
                where = name + b": line %d" % number
                for kind, entry in entries:
                    found += self._included(where, entry, seen) if kind == INCLUDE else [(kind, entry)]
        except ListError as error:
            raise Fatal(111, b"%b: line %d: %b" % (name, error.line, error.text)) from None
        if seen and any(kind in (PROGRAM, FILE) and entry != NULL_DEVICE for kind, entry in found):
            raise Fatal(111, name + b": a list has only addresses")
        return found

    def _included(self, where: bytes, name: bytes, seen: set[bytes]) -> "list[Entry]":
        """What a list says; nothing the second time. Raises Fatal."""
        if name in seen:
            return []
        text = self._read(_in_home(name)) if name else None
        if text is None:
            raise Fatal(111, where + b": :include:" + name + b" is not there")
        return self._entries(name, text, seen | {name})

    @staticmethod
    def _read(name: bytes) -> bytes | None:
        """What the file holds; None if it does not exist. Raises Fatal."""
        try:
            return read_file(name, USERS_FILE_MAX)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise Fatal(111, b"unable to read " + name + b": " + (error.strerror or "").encode()) from error

    def _say(self, text: bytes) -> None:
        if self.describe:
            complain(text)

    def _obey(self, kind: int, text: bytes) -> None:
        """Do what one entry says. Raises Fatal."""
        if text == NULL_DEVICE:
            self.done += 1
            complain(b"dot-forward: info: thrown away: " + text)
        elif kind == PROGRAM:
            self.done += 1
            self.moved = True
            self._program(text[1:].partition(b"\0")[0])
        elif kind == FILE:
            self.done += 1
            self.moved = True
            self._file(_in_home(text.partition(b"\0")[0]))
        elif self._is_me(kind, text):
            self.direct = True
            self._say(b"direct delivery")
        elif text:
            address = self._address(kind, text)
            self.recipients.append(address)
            self._say(b"forward " + address)

    def _file(self, path: bytes) -> None:
        """Deliver to a Maildir or an mbox, as qmail-local does. Raises Fatal."""
        if self.describe:
            complain(b"deliver to " + path)
            return
        from pyqmail.failure import TemporaryFailure  # few .forward files have one
        from pyqmail.local.filing import store
        from pyqmail.mailbox.message import Message

        try:
            store(path, self.environ, Message(0), self.done)
        except TemporaryFailure as error:
            raise Fatal(111, error.text) from error

    def _is_me(self, kind: int, text: bytes) -> bool:
        text = text.lower()
        return bool(text) and (
            (kind == LOCAL and text == self.user) or (kind == ADDRESS and text == self.user + b"@" + self.host)
        )

    def _program(self, text: bytes) -> None:
        """Feed the message, below the lines of a mailbox, to a shell command. Raises Fatal."""
        if self.describe:
            complain(b"pipe through " + text)
            return
        from pyqmail.system import command  # most .forward files are addresses

        try:
            os.lseek(0, 0, os.SEEK_SET)
        except OSError as error:
            raise Fatal(111, b"unable to rewind input: " + (error.strerror or "").encode()) from error
        head = b"".join([self.environ.get(name, b"") for name in (b"UFLINE", b"RPLINE", b"DTLINE")])
        try:
            code = command.feed([b"/bin/sh", b"-c", text], self.environ, head)
        except command.InputTrouble as error:
            raise Fatal(111, b"unable to read message") from error
        except OSError as error:
            raise Fatal(111, b"unable to run /bin/sh: " + (error.strerror or "").encode()) from error
        if code < 0:
            raise Fatal(111, b"child crashed")
        if code:
            raise Fatal(100 if code in PERMANENT_EXITS else 111, b"")

    def _forward(self) -> None:
        """One message for all addresses. Raises Fatal."""
        if self.describe or not self.recipients:
            return
        environ = self.environ
        if self.moved:
            os.lseek(0, 0, os.SEEK_SET)
        sender = environ.get(b"NEWSENDER", b"")
        letter, text, number = queue_again(environ, environ.get(b"DTLINE", b""), sender, self.recipients)
        if letter != b"K":
            raise Fatal(100 if letter == b"D" else 111, b"unable to forward message: " + text)
        complain(b"dot-forward: info: qp %d" % number)


def _in_home(path: bytes) -> bytes:
    """``path`` with the current directory, the home, in the place of ``~``."""
    return b"." + path[1:] if path.startswith(b"~/") else path
