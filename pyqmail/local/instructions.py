"""Which .qmail file counts for an address, and what its file says besides its lines (dot-qmail(5)).

The current directory is the recipient's home in all of this.
"""

import os
import stat
from collections.abc import Sequence

from pyqmail.failure import PermanentFailure, TemporaryFailure
from pyqmail.formats import dotqmail
from pyqmail.local.report import say
from pyqmail.system import files
from pyqmail.system.errors import reason, temporary

UNREADABLE = (PermissionError,)  # a .qmail that its owner closed to us is no reason to take the next one


class Usage(Exception):
    """The arguments are not those of qmail-local; the text is what to print before the usage line."""

    def __init__(self, text: bytes = b"") -> None:
        super().__init__(text)
        self.text = text


class Arguments:
    """The command line: who gets the message, from whom, and where it goes without a .qmail file."""

    def __init__(self, words: Sequence[bytes], *, describe: bool) -> None:
        if len(words) != 8 or not words[1].startswith(b"/"):
            raise Usage
        self.describe = describe  # -n: only say what would be done
        self.user, self.homedir, self.local, self.dash, self.ext = words[:5]
        self.domain, self.sender, self.default_delivery = words[5:]
        self.recipient = self.local + b"@" + self.domain


def check_home(describe: bool, forbidden: int) -> None:
    """Refuse the home (the current directory) while others could write it, or its owner is at work in it."""
    try:
        mode = os.stat(".").st_mode
    except OSError as error:
        raise TemporaryFailure(b"Unable to stat home directory: " + reason(error) + b". (#4.3.0)") from error
    if mode & forbidden:
        raise TemporaryFailure(b"Home directory is writable by others. (#4.7.0)")
    if mode & stat.S_ISVTX:
        if not describe:
            raise TemporaryFailure(b"Home directory is sticky: its owner is editing .qmail files. (#4.2.1)")
        say(2, b"Warning: home directory is sticky.\n")


class Instructions:
    """The text that says what to do with the message, and what its file says besides."""

    def __init__(self, data: bytes, *, default: bytes | None, forward_only: bool) -> None:
        self.data = data
        self.default = default
        self.forward_only = forward_only


def read_instructions(arguments: Arguments, forbidden: int, most: int = files.USERS_FILE_MAX) -> Instructions:
    """The .qmail file for the address, or the default delivery where there is none or it has no bytes.

    One of more than ``most`` bytes defers the message.
    """
    for name, default in dotqmail.candidates(arguments.dash, arguments.ext):
        fd = _open_candidate(name)
        if fd is None:
            continue
        try:
            mode = os.fstat(fd).st_mode
            if not stat.S_ISREG(mode):
                continue
            if mode & forbidden:
                raise TemporaryFailure(name + b" is writable by others. (#4.7.0)")
            data = files.read_all(fd, most)
        except OSError as error:
            raise TemporaryFailure(b"Unable to read " + name + b": " + reason(error) + b". (#4.3.0)") from error
        finally:
            os.close(fd)
        if data:
            return Instructions(data, default=default, forward_only=bool(mode & stat.S_IXUSR))
        return Instructions(arguments.default_delivery, default=default, forward_only=False)
    if arguments.dash:
        raise PermanentFailure(b"Sorry, no mailbox here by that name. (#5.1.1)")
    return Instructions(arguments.default_delivery, default=None, forward_only=False)


def _open_candidate(name: bytes) -> int | None:
    """The opened file; None when there is nothing by that name. An unreadable one defers the message."""
    try:
        return files.open_read(name)
    except OSError as error:
        if isinstance(error, UNREADABLE) or temporary(error):
            raise TemporaryFailure(b"Unable to open " + name + b": " + reason(error) + b". (#4.3.0)") from error
        return None


def new_sender(arguments: Arguments) -> bytes:
    """The envelope sender of forwards: the owner's address where an ``-owner`` file asks for it."""
    if arguments.sender in (b"", b"#@[]"):
        return arguments.sender
    owner, owner_default = dotqmail.owner_names(arguments.dash, arguments.ext)
    if not _exists(owner):
        return arguments.sender
    if _exists(owner_default):
        return arguments.local + b"-owner-@" + arguments.domain + b"-@[]"  # VERP: qmail-send fills it in
    return arguments.local + b"-owner@" + arguments.domain


def _exists(name: bytes) -> bool:
    try:
        os.stat(name)
    except OSError as error:
        if temporary(error):
            raise TemporaryFailure(b"Unable to stat " + name + b": " + reason(error) + b". (#4.3.0)") from error
        return False
    return True
