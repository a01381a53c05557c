"""control/shadow and what belongs to it (qmail-control(5)).

control/shadow has the URL of the database and then, if anything, one of the words ``require`` and ``prefer``. The
password stands in control/shadowpassword, which others may not read.
"""

import os
import stat
from dataclasses import dataclass
from urllib.parse import parse_qsl, urlsplit

from pyqmail.control import Control, parse_line

SCHEMES = ("postgresql", "postgres")
REQUIRE, PREFER = b"require", b"prefer"
LEASE_S = 300  # without control/shadowlease
LEASE_MIN_S = 30
BYTES_MAX = 8 << 30  # of all copies of this queue, without control/shadowmax
PASSWORD_FILE = "shadowpassword"
SECRET = ("password", "passfile", "sslpassword")  # of a URL: the file is everybody's to read


@dataclass(frozen=True, slots=True)
class Settings:
    """What control/shadow says. ``password`` is None where no file has one; it is shown to nobody."""

    url: str
    required: bool
    password: str | None
    lease_s: int
    bytes_max: int
    name: str  # of this machine


def is_required(control: Control) -> bool | None:
    """Whether a message without a copy is refused; None where no copies are made.

    Raises ControlUnreadable, and ValueError.
    """
    lines = control.lines("shadow")
    if not lines:
        return None
    return parse_policy(lines)


def parse_policy(lines: tuple[bytes, ...]) -> bool:
    """What stands behind the URL. Raises ValueError."""
    words = lines[0].split()[1:] + [word for line in lines[1:] for word in line.split()]
    if words not in ([], [REQUIRE], [PREFER]):
        raise ValueError("only one of the words require and prefer may follow the URL")
    return words != [PREFER]


def parse_url(text: str) -> str:
    """The URL of a database. Raises ValueError for what is none, and for one with a password."""
    parts = urlsplit(text)
    if parts.scheme not in SCHEMES:
        raise ValueError("postgresql://USER@HOST/DATABASE is wanted")
    if parts.password is not None or any(key in SECRET for key, _ in parse_qsl(parts.query)):
        raise ValueError("a password is not taken: it stands in control/shadowpassword")
    return text


def read_settings(home: str) -> Settings:
    """The settings of ``home``. Raises ControlUnreadable, OSError, and ValueError for what cannot be used."""
    control = Control(home)
    lines = control.lines("shadow")
    if not lines:
        raise ValueError("there is no URL")
    url = parse_url(lines[0].split()[0].decode("ascii"))
    lease_s = max(LEASE_MIN_S, control.integer("shadowlease", LEASE_S))
    bytes_max = control.integer("shadowmax", BYTES_MAX)
    name = (control.me() or b"").decode("ascii")
    return Settings(url, parse_policy(lines), read_password(home), lease_s, bytes_max, name)


def read_password(home: str) -> str | None:
    """The first line of control/shadowpassword; None without the file. Raises OSError, and ValueError.

    A file that others may read is not used.
    """
    try:
        fd = os.open(f"{home}/control/{PASSWORD_FILE}", os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    with os.fdopen(fd, "rb") as file:
        if stat.S_IMODE(os.fstat(fd).st_mode) & 0o007:
            raise ValueError("control/shadowpassword may be read by others: chmod 640")
        return parse_line(file.read(4096)).decode()
