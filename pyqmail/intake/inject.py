"""qmail-inject's work: read a message, have its header completed, and queue it (qmail-inject(8)).

The header is kept in memory, the body streams.
"""

import os
import time

from pyqmail.address import quote, quote_box
from pyqmail.control import Control, ControlUnreadable, home_of, parse_lines
from pyqmail.formats import rfc822
from pyqmail.formats.header import Header, body_text, header_line, whole_lines
from pyqmail.intake.client import FACTS, Injection
from pyqmail.intake.compose import Message, Rewriter, read_word
from pyqmail.intake.resend import Fatal, complain
from pyqmail.options import UsageError, parse_options

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pyqmail.intake.dsn_options import DsnOptions

CHUNK = 65536
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class Settings:
    """What options, environment and control files say."""

    def __init__(self, argv: "Sequence[bytes]", environ: "Mapping[bytes, bytes]") -> None:
        """Raises UsageError, Fatal."""
        options, self.arguments = parse_options(argv[1:], b"aAhHnNf:")
        self.environ = environ
        self.choice = b"A"
        self.queue = True
        self.sender: bytes | None = None
        for letter, argument in options:
            if letter == b"f":
                self.sender = next(iter(read_word(argument)), b"")
            elif letter in b"nN":
                self.queue = letter == b"N"
            else:
                self.choice = letter
        self.letters = environ.get(b"QMAILINJECT", b"")
        self.home = home_of(environ)
        self.list = _mail_followup_list(environ)  # relative to the caller's directory
        try:
            os.chdir(self.home)
        except OSError:
            raise Fatal(111, b"internal bug") from None
        self._read_controls()
        self.now = int(time.time())

    def _read_controls(self) -> None:
        control, environ = Control(self.home), self.environ
        try:
            host = control.setting(environ, b"QMAILDEFAULTHOST", "defaulthost")
            domain = control.setting(environ, b"QMAILDEFAULTDOMAIN", "defaultdomain")
            plus = control.setting(environ, b"QMAILPLUSDOMAIN", "plusdomain")
            self.id_host = control.setting(environ, b"QMAILIDHOST", "idhost")
        except ControlUnreadable:
            raise Fatal(111, b"read error") from None
        for text in (b"@" + host, b"." + domain, b"." + plus):
            try:
                rfc822.tokenize(text)
            except rfc822.LexicalError:
                raise Fatal(100, b"unable to parse this line:\n" + text) from None
        self.rewriter = Rewriter(rfc822.Rules(host, domain, plus))

    def flag(self, letter: bytes) -> bool:
        """Whether QMAILINJECT has ``letter``."""
        return letter in self.letters

    def first(self, *names: bytes) -> bytes | None:
        """The first of the variables that is set, even if empty."""
        return next((self.environ[name] for name in names if name in self.environ), None)

    def user_host(self) -> tuple[bytes, bytes | None]:
        """Who the caller is."""
        user = self.first(b"QMAILUSER", b"MAILUSER", b"USER", b"LOGNAME")
        return (account() if user is None else user), self.first(b"QMAILHOST", b"MAILHOST")

    def default_sender(self) -> bytes:
        """The envelope sender when nobody named one."""
        user = self.environ.get(b"QMAILSUSER", self.user_host()[0])
        host = self.first(b"QMAILSHOST", b"QMAILHOST", b"MAILHOST")
        if self.flag(b"m"):
            user += b"-%d.%d" % (self.now, os.getpid())
        if self.flag(b"r"):
            user += b"-"
        found: list[bytes] = []
        self.rewriter.rewrite(b"Return-Path: " + _join(user, host), found, [])
        return self.verp(found[0] if found else b"")

    def verp(self, sender: bytes) -> bytes:
        """``sender`` in the form that makes qmail-send write one sender per recipient, if that is wanted."""
        return sender + b"-@[]" if self.flag(b"r") else sender

    def from_field(self) -> bytes:
        """A generated From field. Raises Fatal."""
        body = _join(*self.user_host())
        name = self.first(b"QMAILNAME", b"MAILNAME", b"NAME")
        if name is not None:
            name = name.replace(b"\r", b" ").replace(b"\n", b" ")  # they would begin another field
            quoted = b"".join(b"\\%c" % byte if byte in b'"()[]\\' else b"%c" % byte for byte in name)
            body = body + b" (" + quoted + b")" if self.flag(b"c") else b'"' + quoted + b'" <' + body + b">"
        return self.rewriter.rewrite(b"From: " + body + b"\n", [], [])


def _join(user: bytes, host: bytes | None) -> bytes:
    return quote_box(user) + (b"" if host is None else b"@" + host)


def account() -> bytes:
    """The name of the account that we run as: who it is when no variable says so."""
    import pwd  # most callers have a variable

    try:
        return os.fsencode(pwd.getpwuid(os.getuid()).pw_name)
    except KeyError:
        return b"anonymous"


def _mail_followup_list(environ: "Mapping[bytes, bytes]") -> frozenset[bytes]:
    """The lower-cased addresses in the file that QMAILMFTFILE names. Raises Fatal."""
    path = environ.get(b"QMAILMFTFILE")
    if path is None:
        return frozenset()
    from pyqmail.system.files import USERS_FILE_MAX, read_file  # few callers have one

    try:
        return frozenset(line.lower() for line in parse_lines(read_file(path, USERS_FILE_MAX)))
    except FileNotFoundError:
        return frozenset()
    except OSError:
        raise Fatal(111, b"read error") from None


def inject(argv: "Sequence[bytes]", environ: "Mapping[bytes, bytes]", dsn: "DsnOptions | None" = None) -> int:
    """Queue the message on descriptor 0, completed; the exit code, after a line on descriptor 2 if it is not 0.

    ``dsn``: what its sender wants to hear of it.
    """
    try:
        settings = Settings(argv, environ)
        lines = whole_lines(_read_input())
        header, rest = read_header(lines)
        chunks = map(body_text, lines)
        message = Message(settings, header)
        sender = message.sender()
        recipients = message.recipients()
        text = message.generated() + b"".join(message.kept) + header.rest + rest
        if settings.queue:
            message.warn()
            if not recipients:
                raise Fatal(100, b"nobody to send to: no recipients")
            facts = _facts(dsn, sender, recipients)
            _queue(settings, text, chunks, sender, recipients, facts)
        else:
            _print(b"Return-Path: <" + quote(sender) + b">\n" + text, chunks)
    except UsageError as error:
        complain(b"qmail-inject: " + error.text)
        return 100
    except Fatal as error:
        complain(b"qmail-inject: fatal: " + error.text)
        return error.code
    except MemoryError:
        complain(b"qmail-inject: fatal: out of memory")
        return 111
    return 0


def _facts(dsn: "DsnOptions | None", sender: bytes, recipients: "Sequence[bytes]") -> bytes:
    """What is to be known beside the envelope: who has an address in UTF-8 there means SMTPUTF8. Raises Fatal."""
    if dsn is None and sender.isascii() and all(recipient.isascii() for recipient in recipients):
        return b""
    from pyqmail.intake.dsn_options import DsnOptions  # few callers need it

    return (dsn or DsnOptions(())).variable(sender, recipients)


def _read_input() -> "Iterator[bytes]":
    """Descriptor 0 in chunks. Raises Fatal."""
    try:
        while chunk := os.read(0, CHUNK):
            yield chunk
    except OSError:
        raise Fatal(111, b"read error") from None


def read_header(chunks: "Iterator[bytes]") -> tuple[Header, bytes]:
    """The header at the start of ``chunks``, and what was read after it."""
    header = Header()
    first = True
    pending: list[bytes] = []  # of a line that has not ended yet
    for chunk in chunks:
        at = 0
        while (end := chunk.find(b"\n", at) + 1) > 0:
            pending.append(chunk[at:end])
            at = end
            line = b"".join(pending)
            if first:
                line = line.removeprefix(BYTE_ORDER_MARK)
            first = False
            pending = []
            if not header.add(header_line(line)):
                return header, body_text(chunk[at:])
        if at < len(chunk):
            pending.append(chunk[at:])
    header.end()
    return header, b""


def _queue(
    settings: Settings,
    text: bytes,
    chunks: "Iterator[bytes]",
    sender: bytes,
    recipients: "Sequence[bytes]",
    facts: bytes,
) -> None:
    """Hand the message to the queue. Raises Fatal."""
    environ = {**settings.environ, FACTS: facts} if facts else settings.environ
    try:
        injection = Injection.open(settings.home, environ, direct=True)
    except OSError:
        raise Fatal(111, b"unable to run qmail-queue") from None
    try:
        injection.write(text)
        for chunk in chunks:
            injection.write(chunk)
        answer = injection.close(sender, recipients)
    finally:
        injection.abort()
    letter, reason = answer.letter_text()
    if letter != b"K":
        raise Fatal(100 if letter == b"D" else 111, reason)


def _print(text: bytes, chunks: "Iterator[bytes]") -> None:
    """Write the message on descriptor 1. Raises Fatal."""
    from pyqmail.system.files import write_all  # a message is seldom only shown

    try:
        write_all(1, text)
        for chunk in chunks:
            write_all(1, chunk)
    except OSError:
        raise Fatal(111, b"unable to write message") from None
