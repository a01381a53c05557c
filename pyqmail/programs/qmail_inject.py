"""qmail-inject: complete a message's header, find out who gets it, and queue it (qmail-inject(8), qmail-header(5)).

The header is kept in memory, the body streams. Generated fields go first, then all others in the order they came.
"""

import os
import time

from pyqmail.address import quote, quote_box
from pyqmail.control import Control, ControlUnreadable, home_of, parse_lines
from pyqmail.formats import rfc822
from pyqmail.formats.date822 import format_date, format_stamp
from pyqmail.formats.header import Header, body_text, header_line, whole_lines
from pyqmail.intake.client import Injection
from pyqmail.intake.resend import LIST_MARKS, complain
from pyqmail.options import UsageError, parse_options
from pyqmail.system.files import USERS_FILE_MAX, read_file, write_all

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

CHUNK = 65536
PLAIN_RECIPIENTS = (b"to", b"cc", b"bcc", b"apparently-to")
RESENT_RECIPIENTS = (b"resent-to", b"resent-cc", b"resent-bcc")
SENDERS = (
    *(b"sender", b"from", b"reply-to", b"return-receipt-to", b"errors-to"),
    *(b"resent-sender", b"resent-from", b"resent-reply-to"),
)
RESENT = (*RESENT_RECIPIENTS, *SENDERS[5:], b"resent-date", b"resent-message-id")
DELETED = (b"bcc", b"resent-bcc", b"return-path", b"content-length")
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
NOBODY_SHOWN = b"Cc: recipient list not shown: ;\n"


class Fatal(Exception):
    """The message is not queued: exit ``code``, and ``text`` for the caller."""

    def __init__(self, code: int, text: bytes) -> None:
        super().__init__(code, text)
        self.code = code
        self.text = text


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
        self.rules = rfc822.Rules(host, domain, plus)

    def flag(self, letter: bytes) -> bool:
        """Whether QMAILINJECT has ``letter``."""
        return letter in self.letters

    def first(self, *names: bytes) -> bytes | None:
        """The first of the variables that is set, even if empty."""
        return next((self.environ[name] for name in names if name in self.environ), None)

    def complete(self, address: bytes) -> "rfc822.Tokens":
        """The tokens of a raw address, its host made whole. Raises Fatal."""
        try:
            return rfc822.complete(rfc822.tokenize(quote(address)), self.rules)
        except rfc822.LexicalError:
            raise Fatal(100, b"unable to parse address: " + address) from None

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
        self.rewrite(b"Return-Path: " + _join(user, host), found, [])
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
        return self.rewrite(b"From: " + body + b"\n", [], [])

    def rewrite(self, text: bytes, found: list[bytes], unread: list[bytes], *, author: bool = False) -> bytes:
        """The field formatted anew; its addresses are added to ``found``, last one first, what is none to ``unread``.

        What is not clean stays as it was written, but for hosts that its addresses lack; so does an ``author`` who is
        words without any address.
        """
        name, _colon, body = text.removesuffix(b"\n").partition(b":")
        if rfc822.is_plain_list(body):
            return self._format(name, body, found)
        from pyqmail.formats.address_list import complete_list, read_list  # most fields are plain

        reading = read_list(body)
        addresses = [self._envelope(address.tokens) for address in reversed(reading.addresses)]
        if author and any(item.words for item in reading.items):
            return text
        found += addresses
        unread += [body[item.start : item.end] for item in reading.items if item.left_out and not item.addresses]
        clean = reading.clean
        del reading  # a field of many megabytes is held once
        named: list[bytes] = []
        try:
            formatted = self._format(name, body, named) if clean else b""
        except (rfc822.LexicalError, rfc822.StructureError):
            formatted = b""
        return formatted if formatted and named == addresses else name + b":" + complete_list(body, self.rules) + b"\n"

    def _envelope(self, address: "rfc822.Tokens") -> bytes:
        """The address as the envelope has it; after a NUL would come a forged record."""
        return rfc822.plain_address(rfc822.complete(address, self.rules)).partition(b"\0")[0]

    def _format(self, name: bytes, body: bytes, named: list[bytes]) -> bytes:
        """The field as the original writes it; its addresses are added to ``named``, last one first.

        Raises LexicalError, StructureError.
        """

        def rewrite(address: "rfc822.Tokens") -> "rfc822.Tokens":
            named.append(self._envelope(address))
            return rfc822.complete(address, self.rules)

        start = [(rfc822.ATOM, name.rstrip(b" \t")), (rfc822.COLON, b":")]
        return rfc822.format_tokens(start + rfc822.rewrite_list(rfc822.tokenize(body), rewrite)) + b"\n"


def _join(user: bytes, host: bytes | None) -> bytes:
    return quote_box(user) + (b"" if host is None else b"@" + host)


def read_word(word: bytes) -> list[bytes]:
    """The addresses that a word of the command line names."""
    if LIST_MARKS.isdisjoint(word):
        return [word] if word else []
    from pyqmail.formats.address_list import parse_addresses

    return parse_addresses(word)


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
    try:
        return frozenset(line.lower() for line in parse_lines(read_file(path, USERS_FILE_MAX)))
    except FileNotFoundError:
        return frozenset()
    except OSError:
        raise Fatal(111, b"read error") from None


class Message:
    """The header as it will be sent, and the addresses that it names."""

    def __init__(self, settings: Settings, header: Header) -> None:
        """Raises Fatal."""
        self.settings = settings
        self.kept: list[bytes] = []
        self.return_path: bytes | None = None
        self.plain: list[bytes] = []  # recipients
        self.resent: list[bytes] = []
        self.shown: list[bytes] = []  # recipients in To and Cc
        self.names: set[bytes] = set()
        self.unread: list[bytes] = []  # what names nobody in fields of recipients
        dropped = [(b"f", b"from"), (b"i", b"message-id"), (b"s", b"return-path")]
        unseen = {name for letter, name in dropped if settings.flag(letter)}
        for name, text in header.fields:
            if name not in unseen:
                self._take(name, text)
        self.is_resent = not self.names.isdisjoint(RESENT)

    def _take(self, name: bytes, text: bytes) -> None:
        self.names.add(name)
        found: list[bytes] = []
        if name in PLAIN_RECIPIENTS or name in RESENT_RECIPIENTS:
            text = self.settings.rewrite(text, found, self.unread)
            (self.plain if name in PLAIN_RECIPIENTS else self.resent).extend(found)
            if name in (b"to", b"cc"):
                self.shown.extend(found)
        elif name in SENDERS or name == b"return-path":
            text = self.settings.rewrite(text, found, [], author=True)
            if name == b"return-path" and found and self.return_path is None:
                self.return_path = found[0]
        if name not in DELETED:
            self.kept.append(text)

    def recipients(self) -> list[bytes]:
        """The envelope's recipients, by the options. Raises Fatal."""
        settings = self.settings
        named = [address for argument in settings.arguments for address in read_word(argument)]
        listed = [rfc822.plain_address(settings.complete(address)) for address in named]
        header = [address for address in (self.resent if self.is_resent else self.plain) if address]
        if settings.choice == b"a" or (settings.choice == b"A" and settings.arguments):
            return listed
        return listed + header if settings.choice == b"H" else header

    def warn(self) -> None:
        """Say what names nobody among the recipients of the header; ``undisclosed-recipients:`` is meant to."""
        settings = self.settings
        if settings.choice == b"a" or (settings.choice == b"A" and settings.arguments):
            return
        for text in self.unread:
            if not text.endswith(b":"):
                complain(b"qmail-inject: warning: no address in: " + b" ".join(text.split()))

    def sender(self) -> bytes:
        """The envelope's sender."""
        if self.settings.sender is not None:
            return rfc822.plain_address(self.settings.complete(self.settings.sender))
        if self.return_path is not None:
            return self.settings.verp(self.return_path)
        return self.settings.default_sender()

    def generated(self) -> bytes:
        """The fields that the header lacks."""
        settings = self.settings
        prefix, lower = (b"Resent-", b"resent-") if self.is_resent else (b"", b"")
        out = []
        if lower + b"date" not in self.names:
            out.append(prefix + b"Date: " + format_date(settings.now) + b"\n")
        if lower + b"message-id" not in self.names:
            unique = b"%s.%d.qmail@%s" % (format_stamp(settings.now), os.getpid(), settings.id_host)
            out.append(prefix + b"Message-ID: <" + unique + b">\n")
        if lower + b"from" not in self.names:
            out.append(prefix + settings.from_field())
        if self.names.isdisjoint((lower + b"to", lower + b"cc")):
            out.append(prefix + NOBODY_SHOWN)
        if not self.is_resent and b"mail-followup-to" not in self.names:
            out.append(self._followup())
        return b"".join(out)

    def _followup(self) -> bytes:
        """Mail-Followup-To for a message to one of the caller's lists, else nothing."""
        if all(address.lower() not in self.settings.list for address in self.shown):
            return b""
        backwards = reversed(self.shown)  # of the whole header: the original's order
        return b"Mail-Followup-To: " + b",\n  ".join(quote(address) for address in backwards) + b"\n"


def main(argv: "Sequence[bytes]", environ: "Mapping[bytes, bytes]") -> int:
    """Queue the message on descriptor 0."""
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
            _queue(settings, text, chunks, sender, recipients)
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
    settings: Settings, text: bytes, chunks: "Iterator[bytes]", sender: bytes, recipients: "Sequence[bytes]"
) -> None:
    """Hand the message to the queue. Raises Fatal."""
    try:
        injection = Injection.open(settings.home, settings.environ, direct=True)
    except OSError:
        raise Fatal(111, b"unable to run qmail-queue") from None
    try:
        injection.write(text)
        for chunk in chunks:
            injection.write(chunk)
        answer = injection.close(sender, recipients)
    finally:
        injection.abort()
    letter, reason = injection.answer_text(answer)
    if letter != b"K":
        raise Fatal(100 if letter == b"D" else 111, reason)


def _print(text: bytes, chunks: "Iterator[bytes]") -> None:
    """Write the message on descriptor 1. Raises Fatal."""
    try:
        write_all(1, text)
        for chunk in chunks:
            write_all(1, chunk)
    except OSError:
        raise Fatal(111, b"unable to write message") from None
