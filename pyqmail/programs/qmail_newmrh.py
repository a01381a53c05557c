"""qmail-newmrh: makes control/morercpthosts.cdb from control/morercpthosts (qmail-newmrh(8)).

The old database stays until the new one is whole. Nothing is printed unless it fails.
"""

import os
from collections.abc import Mapping, Sequence

from pyqmail.admin.databases import NotMade, make
from pyqmail.control import home_of
from pyqmail.formats.cdb import replace_cdb, write_cdb
from pyqmail.system.files import read_file

SOURCE = "control/morercpthosts"
TEMPORARY = "control/morercpthosts.tmp"
DATABASE = "control/morercpthosts.cdb"


def parse_hosts(data: bytes) -> list[bytes]:
    """The lines of ``data`` in lower case and without trailing blanks, less empty ones and comments."""
    lines = (line.rstrip(b" \t\n").lower() for line in data.split(b"\n"))
    return [line for line in lines if line and not line.startswith(b"#")]


def _make_hosts(home: str) -> None:
    try:
        os.chdir(home)
    except OSError as error:
        raise NotMade(f"unable to chdir to {home}: {_reason(error)}") from None
    try:
        hosts = parse_hosts(read_file(SOURCE))
    except OSError as error:
        raise NotMade(f"unable to read {SOURCE}: {_reason(error)}") from None
    try:
        os.close(os.open(TEMPORARY, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644))
        write_cdb(TEMPORARY, [(host, b"") for host in hosts])
    except OSError as error:
        raise NotMade(f"unable to write to {TEMPORARY}: {_reason(error)}") from None
    try:
        replace_cdb(TEMPORARY, DATABASE)
    except OSError as error:
        raise NotMade(f"unable to move {TEMPORARY} to {DATABASE}: {_reason(error)}") from None


def _reason(error: OSError) -> str:
    return (error.strerror or "error").lower()


def main(argv: Sequence[bytes], environ: Mapping[bytes, bytes]) -> int:
    """0, or 111 with a line on descriptor 2."""
    return make("qmail-newmrh", lambda: _make_hosts(home_of(environ)))
