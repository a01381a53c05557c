"""The message of a delivery: nothing that came through the pipe is trusted (qmail-lspawn(8))."""

import os
import stat

from pyqmail.protocol.spawn import DEFERRAL, FAILURE
from pyqmail.system.files import open_itself

MESSAGE_NAME_MAX = 99  # the reference's buffer is 100, NUL included


class Refused(Exception):
    """A command that does not become a delivery: letter and text of its report."""

    def __init__(self, letter: bytes, text: bytes) -> None:
        super().__init__(letter, text)
        self.letter = letter
        self.text = text


def check_message_name(name: bytes) -> None:
    """Digits and slashes only, so that nothing outside queue/mess can be named. Raises Refused."""
    if name.startswith(b"/") or name.translate(None, b"0123456789/"):
        raise Refused(FAILURE, b"Internal error: message name has invalid characters. (#5.3.5)\n")
    if len(name) > MESSAGE_NAME_MAX:
        raise Refused(FAILURE, b"Internal error: message name is too long. (#5.3.5)\n")
    if not name:
        raise Refused(FAILURE, b"Internal error: message name is empty. (#5.3.5)\n")


def open_message(name: bytes, owner: int) -> tuple[int, os.stat_result]:
    """The message file ``name`` below the current directory, if qmail-queue wrote it, and its status.

    Raises Refused.
    """
    try:
        fd = open_itself(name)
    except OSError:
        raise Refused(DEFERRAL, b"Unable to open message. (#4.3.0)\n") from None
    try:
        try:
            status = os.fstat(fd)
        except OSError:
            raise Refused(DEFERRAL, b"Unable to stat message. (#4.3.0)\n") from None
        if not stat.S_ISREG(status.st_mode):
            raise Refused(DEFERRAL, b"Message is no regular file. (#4.3.5)\n")
        if status.st_uid != owner:
            raise Refused(DEFERRAL, b"Message file has a wrong owner. (#4.3.5)\n")
    except Refused:
        os.close(fd)
        raise
    return fd, status
