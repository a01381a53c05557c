"""One POP3 session in the Maildir that is the current directory (qmail-pop3d(8), RFC 1939).

The list is made once, at the start. Nothing is locked: what another session removes or moves meanwhile is an error
reply of one command. Messages are removed, and new ones moved to cur/, at QUIT and only then.
"""

import itertools
import os
import time

from pyqmail.mailbox.scan import clean_tmp, scan
from pyqmail.protocol import pop3
from pyqmail.stream.lines import LineReader
from pyqmail.stream.stream import CHUNK

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from pyqmail.stream.stream import Stream

UID_BYTES = bytes(range(0x21, 0x7F))  # what a unique-id may have (RFC 1939 section 7)
LINES = 10_000  # of a listing, made at once
CANNOT_OPEN = b"-ERR unable to open that message\r\n"
UNIMPLEMENTED = b"-ERR unimplemented\r\n"


class SessionOver(Exception):
    """Nothing more is said."""


class Message:
    """One file of the Maildir, as it was when the session began."""

    __slots__ = ("deleted", "modified", "path", "size")

    def __init__(self, modified: int, path: bytes, size: int) -> None:
        self.modified = modified  # in seconds of the epoch
        self.path = path  # new/NAME or cur/NAME
        self.size = size  # bytes in the file, which is what LIST says
        self.deleted = False

    @property
    def uid(self) -> bytes:
        """The name that no move and no flag changes: up to the first colon; a digest of one that POP3 cannot carry."""
        name = self.path[4:].partition(b":")[0]
        return name if name and not name.translate(None, UID_BYTES) else _digest(name)


def _digest(text: bytes) -> bytes:
    from hashlib import sha256  # seldom needed

    return sha256(text).hexdigest()[:32].encode("ascii")


def unique_ids(messages: "list[Message]") -> list[bytes]:
    """The unique-ids. Where a copy has the name of another, as after a restore, the oldest keeps it (RFC 1939)."""
    found = [message.uid for message in messages]
    if len(set(found)) < len(found):
        seen: set[bytes] = set()
        copies: dict[bytes, int] = {}
        for place, message in enumerate(messages):
            alike = b"%b %d %d" % (found[place], message.modified, message.size)
            while found[place] in seen:
                found[place] = _digest(b"%b %d" % (alike, copies.get(alike, 0)))
                copies[alike] = copies.get(alike, 0) + 1
            seen.add(found[place])
    return found


class Session:
    """The commands of one session; each returns its reply."""

    def __init__(self, messages: "list[Message]") -> None:
        self._messages = messages
        self._last = 0
        self._uids: list[bytes] = []  # made when they are asked for
        self.commands: dict[bytes, Callable[[bytes], Iterator[bytes]]] = {
            b"stat": self._stat,
            b"list": lambda argument: self._listing(argument, lambda place: b"%d" % messages[place].size),
            b"uidl": lambda argument: self._listing(argument, self._uid),
            b"retr": self._retrieve,
            b"top": self._retrieve,
            b"dele": self._delete,
            b"last": lambda argument: iter([b"+OK %d\r\n" % self._last]),
            b"rset": self._reset,
            b"noop": lambda argument: iter([pop3.OK]),
            b"capa": lambda argument: iter([pop3.CAPABILITIES]),
        }

    def answer(self, line: bytes) -> "Iterator[bytes]":
        """The reply to ``line``, in pieces. Raises SessionOver when a message cannot be read to its end."""
        verb, argument = pop3.parse_command(line)
        if verb not in self.commands:
            return iter([UNIMPLEMENTED])
        return self.commands[verb](argument)

    def _stat(self, argument: bytes) -> "Iterator[bytes]":
        sizes = [message.size for message in self._messages if not message.deleted]
        yield b"+OK %d %d\r\n" % (len(sizes), sum(sizes))

    def _find(self, argument: bytes) -> "tuple[int, bytes] | bytes":
        """The message that ``argument`` names, by number from 1, and the rest of it; or the error reply."""
        number, rest = pop3.leading_number(argument)
        if number is None:
            return pop3.SYNTAX
        if number == 0:
            return b"-ERR messages are counted from 1\r\n"
        if number > len(self._messages):
            return b"-ERR not that many messages\r\n"
        if self._messages[number - 1].deleted:
            return b"-ERR already deleted\r\n"
        return number, rest

    def _uid(self, place: int) -> bytes:
        self._uids = self._uids or unique_ids(self._messages)
        return self._uids[place]

    def _listing(self, argument: bytes, show: "Callable[[int], bytes]") -> "Iterator[bytes]":
        if argument:
            found = self._find(argument)
            if isinstance(found, bytes):
                yield found
            else:
                yield b"+OK %d %b\r\n" % (found[0], show(found[0] - 1))
            return
        left = [place for place, message in enumerate(self._messages) if not message.deleted]
        pieces = (
            b"".join([b"%d %b\r\n" % (place + 1, show(place)) for place in left[at : at + LINES]])
            for at in range(0, len(left), LINES)
        )
        first = next(pieces, b"")  # where memory ends, it ends before +OK
        yield pop3.OK
        yield first
        yield from pieces
        yield b".\r\n"

    def _retrieve(self, argument: bytes) -> "Iterator[bytes]":
        """RETR and TOP alike: with a second number only so many lines of the body."""
        found = self._find(argument)
        if isinstance(found, bytes):
            yield found
            return
        number, rest = found
        lines, _ = pop3.leading_number(rest.lstrip(b" "))
        try:
            fd = os.open(self._messages[number - 1].path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError:
            yield CANNOT_OPEN
            return
        try:
            try:
                first = os.read(fd, CHUNK)
            except OSError:  # something else stands there now: before +OK that is an answer, later it ends the session
                yield CANNOT_OPEN
                return
            yield pop3.OK
            chunks = itertools.chain((first,), _chunks(fd)) if first else iter(())
            yield from pop3.encode_message(chunks) if lines is None else pop3.encode_top(chunks, lines)
        except OSError:
            raise SessionOver from None
        finally:
            os.close(fd)

    def _delete(self, argument: bytes) -> "Iterator[bytes]":
        found = self._find(argument)
        if isinstance(found, bytes):
            yield found
            return
        number = found[0]
        self._messages[number - 1].deleted = True
        self._last = max(self._last, number)
        yield pop3.OK

    def _reset(self, argument: bytes) -> "Iterator[bytes]":
        for message in self._messages:
            message.deleted = False
        self._last = 0
        yield pop3.OK

    def quit(self) -> bytes:
        """Remove what is marked, move what is new to cur/; the reply. A move that fails changes nothing for anybody.

        What has a namesake in cur/ stays new: a move would take the other's place.
        """
        troubles = 0
        for message in self._messages:
            try:
                if message.deleted:
                    os.unlink(message.path)
                elif message.path.startswith(b"new/"):
                    moved = b"cur/" + message.path[4:] + b":2,"
                    if not os.path.lexists(moved):
                        os.rename(message.path, moved)
            except OSError:
                troubles += message.deleted
        return b"-ERR unable to unlink all deleted messages\r\n" * troubles + pop3.OK


def _chunks(fd: int) -> "Iterator[bytes]":
    while chunk := os.read(fd, CHUNK):
        yield chunk


def serve(session: Session, stream: "Stream") -> None:
    """Answer until QUIT. Raises SessionOver, LineTooLong, and StreamEnded after the time limit too."""
    lines = LineReader(stream, pop3.LINE_MAX)
    while True:
        line = lines.line()
        if pop3.parse_command(line)[0] == b"quit":
            stream.write(session.quit())
            return
        for piece in session.answer(line):
            stream.write(piece)


def open_session(words: "Sequence[bytes]") -> "Session | bytes":
    """The session in the Maildir ``words[0]``; or the error reply."""
    try:
        os.chdir(words[0])
    except (IndexError, OSError, ValueError):
        return b"-ERR this user has no $HOME/Maildir\r\n"
    now = int(time.time())
    clean_tmp(now)
    try:
        return Session([Message(*entry) for entry in scan(now)])
    except OSError:
        return b"-ERR unable to scan $HOME/Maildir\r\n"


def answer(stream: "Stream", words: "Sequence[bytes]") -> None:
    """The whole conversation. Raises as ``serve`` does."""
    session = open_session(words)
    if isinstance(session, bytes):
        stream.write(session)
        return
    stream.write(pop3.OK)
    serve(session, stream)
