"""dot-forward: do what a .forward file of sendmail's says (dot-forward(1))."""

import os

from pyqmail.control import Control, ControlUnreadable, home_of
from pyqmail.formats.aliases import ADDRESS, FILE, INCLUDE, LOCAL, PROGRAM, Completion, Unparsable, lines_of, parse_list
from pyqmail.intake.resend import Fatal, complain, queue_again
from pyqmail.options import UsageError, parse_options
from pyqmail.system import command
from pyqmail.system.files import read_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

USAGE = b"dot-forward: usage: dot-forward [ -nN ] file ..."
HANDED_ON = 99  # qmail-local skips the lines that follow
PERMANENT_EXITS = (100, 64, 65, 70, 76, 77, 78, 112)  # of a program; any other trouble is temporary


def main(argv: "Sequence[bytes]", environ: "Mapping[bytes, bytes]") -> int:
    """Obey the first of the files that exists and says anything; 0 when there is none."""
    try:
        letters, names = parse_options(argv[1:], b"nN")
    except UsageError as error:
        complain(b"dot-forward: " + error.text)
        complain(USAGE)
        return 100
    describe = bool(letters) and letters[-1][0] == b"n"
    if not names:
        return 0
    try:
        job = Job(environ, describe=describe)
        return job.run(names)
    except ControlUnreadable as error:
        complain(b"dot-forward: fatal: unable to read controls: " + str(error).encode())
        return 111
    except Fatal as error:
        if error.text:
            complain(b"dot-forward: fatal: " + error.text)
        return error.code


class Job:
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
        self.programs = False

    def run(self, names: "Sequence[bytes]") -> int:
        """The exit code for the first file that says anything. Raises Fatal."""
        for name in names:
            text = self._read(name)
            if text is None:
                continue
            for line in lines_of(text):
                if not line.startswith(b"#"):
                    self._obey(line)
            if self.direct or self.recipients or self.programs:
                self._forward()
                return 0 if self.direct else HANDED_ON
            self._say(b"skipping empty file " + name)
        self._say(b"direct delivery")
        return 0

    @staticmethod
    def _read(name: bytes) -> bytes | None:
        """What the file holds; None if it does not exist. Raises Fatal."""
        try:
            return read_file(name)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise Fatal(111, b"unable to read " + name + b": " + (error.strerror or "").encode()) from error

    def _say(self, text: bytes) -> None:
        if self.describe:
            complain(text)

    def _obey(self, line: bytes) -> None:
        """Do what one line says, from right to left. Raises Fatal."""
        try:
            entries = parse_list(line)
        except Unparsable:
            raise Fatal(111, b"unable to parse this line: " + line.rstrip(b"\n")) from None
        for kind, text in entries:
            if kind in (FILE, INCLUDE):
                raise Fatal(111, b"file delivery " + text + b" not supported")
            if kind == PROGRAM:
                self.programs = True
                self._program(text[1:].partition(b"\0")[0])
            elif self._is_me(kind, text):
                self.direct = True
                self._say(b"direct delivery")
            elif text:
                address = self.completion.complete(kind, text).partition(b"\0")[0]  # a NUL would forge a recipient
                self.recipients.append(address)
                self._say(b"forward " + address)

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
        if self.programs:
            os.lseek(0, 0, os.SEEK_SET)
        sender = environ.get(b"NEWSENDER", b"")
        letter, text, number = queue_again(environ, environ.get(b"DTLINE", b""), sender, self.recipients)
        if letter != b"K":
            raise Fatal(100 if letter == b"D" else 111, b"unable to forward message: " + text)
        complain(b"dot-forward: info: qp %d" % number)
