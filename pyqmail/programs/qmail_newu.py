"""qmail-newu: makes users/cdb from users/assign (qmail-newu(8)). The old users/cdb stays until the new one is whole."""

import os
from collections.abc import Mapping, Sequence

from pyqmail.control import home_of
from pyqmail.formats.assign import AssignFormat, parse_assign
from pyqmail.formats.cdb import replace_cdb, write_cdb
from pyqmail.system.files import open_read, write_all


class _Fatal(Exception):
    """Why nothing was changed, for people."""


def _say(text: str) -> None:
    try:
        write_all(2, f"qmail-newu: fatal: {text}\n".encode())
    except OSError:
        return


def _read_assign(path: str) -> bytes:
    try:
        fd = open_read(path)
    except OSError:
        raise _Fatal("unable to open users/assign") from None
    try:
        with os.fdopen(fd, "rb") as source:
            return source.read()
    except OSError:
        raise _Fatal("unable to read users/assign") from None


def _make(home: str) -> None:
    try:
        os.chdir(home)
    except OSError:
        raise _Fatal("unable to chdir") from None
    data = _read_assign("users/assign")
    try:
        os.close(os.open("users/cdb.tmp", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644))
    except OSError:
        raise _Fatal("unable to open users/cdb.tmp") from None
    try:
        write_cdb("users/cdb.tmp", parse_assign(data))
    except AssignFormat:
        raise _Fatal("bad format in users/assign") from None
    except OSError:
        raise _Fatal("unable to write users/cdb.tmp") from None
    try:
        replace_cdb("users/cdb.tmp", "users/cdb")
    except OSError:
        raise _Fatal("unable to move users/cdb.tmp to users/cdb") from None


def main(argv: Sequence[bytes], environ: Mapping[bytes, bytes]) -> int:
    """0, or 111 with a line on descriptor 2."""
    os.umask(0o033)
    try:
        _make(home_of(environ))
    except _Fatal as fatal:
        _say(str(fatal))
        return 111
    except MemoryError:
        _say("out of memory")
        return 111
    return 0
