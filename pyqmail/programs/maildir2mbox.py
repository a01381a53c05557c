"""maildir2mbox: move the messages of a Maildir to the end of an mbox (maildir2mbox(1)).

    copy MAIL to MAILTMP, append, sync | rename over MAIL, sync the directory | unlink the messages

Whichever line the machine dies on, each message is in the Maildir, in the mbox or in both. One difference from the
original, which drops it: a last line without a newline is kept, and gets one.
"""

import fcntl
import os
import time

from pyqmail.formats.mailline import format_mbox_date, mbox_body
from pyqmail.intake.resend import complain
from pyqmail.mailbox.scan import clean_tmp, scan
from pyqmail.system import files
from pyqmail.system.errors import reason
from pyqmail.system.progress import told

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

CHUNK = 65536
RETURN_PATH = b"Return-Path: <"


class Fatal(Exception):
    """Why nothing was moved, for people."""

    def __init__(self, text: bytes) -> None:
        super().__init__(text)
        self.text = text


def from_line(first: bytes, seconds: int) -> bytes:
    """The From_ line of a message whose first line is ``first``, newline included if it has one."""
    who = b"XXX"  # the original's word for a sender that the message does not tell
    if first.startswith(RETURN_PATH) and first.endswith(b"\n"):
        who = first[len(RETURN_PATH) : -2].replace(b" ", b"-").replace(b"\t", b"-") or b"MAILER-DAEMON"
    return b"From " + who + b" " + format_mbox_date(seconds)


def read_chunks(fd: int) -> "Iterator[bytes]":
    """The bytes of ``fd``, at least one piece. Raises OSError."""
    chunk = os.read(fd, CHUNK)
    yield chunk
    while chunk := os.read(fd, CHUNK):
        yield chunk


def copy_message(path: bytes, seconds: int, target: int, where: bytes) -> None:
    """Append the message at ``path`` to ``target``, whose name is ``where``. Raises Fatal."""
    trouble = b"unable to read $MAILDIR/" + path
    try:
        source = files.open_read(path)
        try:
            chunks = read_chunks(source)
            first = next(chunks)  # more than any Return-Path
            end = first.find(b"\n") + 1
            trouble = b"unable to write to " + where
            files.write_all(target, from_line(first[:end], seconds))
            trouble = b"unable to copy $MAILDIR/" + path + b" to " + where
            for piece in mbox_body(_with(first, chunks)):
                files.write_all(target, piece)
        finally:
            os.close(source)
    except OSError as error:
        raise Fatal(trouble + b": " + reason(error)) from error


def _with(first: bytes, rest: "Iterator[bytes]") -> "Iterator[bytes]":
    yield first
    yield from rest


def copy_mbox(mbox: bytes, target: int, where: bytes) -> None:
    """Copy the mbox as it is to ``target``. Raises Fatal."""
    trouble = b"unable to read " + mbox
    try:
        source = files.open_read(mbox)
        try:
            for chunk in read_chunks(source):
                trouble = b"unable to write to " + where
                files.write_all(target, chunk)
                trouble = b"unable to read " + mbox
        finally:
            os.close(source)
    except OSError as error:
        raise Fatal(trouble + b": " + reason(error)) from error


def move(mbox: bytes, temporary: bytes) -> None:
    """Move what the Maildir in the current directory holds. Raises Fatal."""
    now = int(time.time())
    clean_tmp(now)
    try:
        entries = scan(now)
    except OSError as error:
        raise Fatal(b"unable to scan $MAILDIR/" + os.fsencode(error.filename) + b": " + reason(error)) from error
    if not entries:
        return
    trouble = b"unable to lock " + mbox
    try:
        lock = files.open_append(mbox)  # held until the process ends
        fcntl.flock(lock, fcntl.LOCK_EX)
        trouble = b"unable to create " + temporary
        target = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NONBLOCK | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise Fatal(trouble + b": " + reason(error)) from error
    copy_mbox(mbox, target, temporary)
    for seconds, path, _size in told(entries, "maildir2mbox"):
        copy_message(path, seconds, target, temporary)
    put_in_place(target, mbox, temporary)
    for _seconds, path, _size in entries:
        try:
            files.unlink(path)
        except OSError as error:
            complain(b"maildir2mbox: warning: $MAILDIR/%b stays and will come again: %b" % (path, reason(error)))


def put_in_place(target: int, mbox: bytes, temporary: bytes) -> None:
    """Make the finished file ``target`` the mbox, durably. Raises Fatal."""
    trouble = b"unable to write to " + temporary
    try:
        files.sync(target)
        os.close(target)
        trouble = b"unable to move " + temporary + b" to " + mbox
        files.rename(temporary, mbox)
        files.sync_directory(os.path.dirname(mbox) or b".")
    except OSError as error:
        raise Fatal(trouble + b": " + reason(error)) from error


def main(argv: "Sequence[bytes]", environ: "Mapping[bytes, bytes]") -> int:
    """Move $MAILDIR to $MAIL through $MAILTMP: 0 or 111."""
    os.umask(0o077)
    try:
        for name in (b"MAIL", b"MAILTMP", b"MAILDIR"):
            if name not in environ:
                raise Fatal(name + b" not set")
        try:
            os.chdir(environ[b"MAILDIR"])
        except OSError as error:
            raise Fatal(b"unable to chdir to " + environ[b"MAILDIR"] + b": " + reason(error)) from error
        move(environ[b"MAIL"], environ[b"MAILTMP"])
    except Fatal as fatal:
        complain(b"maildir2mbox: fatal: " + fatal.text)
        return 111
    return 0
