"""Control files: one reader per form (qmail-control(5)), and the knobs that qmail fixed when it was compiled.

"Missing" is exactly ENOENT and gives the default; any other trouble raises ControlUnreadable, because an unreadable
file taken for a missing one would change policy silently.
"""

import os
import time

from pyqmail.build import HOME

NAMES_S = 0.1  # how long the files that a directory had are taken for those that it has: a session's start is shorter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import TypeVar

    from pyqmail.system.file_cache import FileCache

    Made = TypeVar("Made")


class ControlUnreadable(Exception):
    """A control file exists but cannot be read; the text names the file and the reason."""


def home_of(environ: "Mapping[bytes, bytes]") -> str:
    """The qmail home: ``$QMAIL_HOME``, else the one this copy was installed for."""
    home = environ.get(b"QMAIL_HOME")
    return os.fsdecode(home) if home else HOME


def parse_line(data: bytes) -> bytes:
    """The value of a one-line file: its first line less trailing blanks and tabs."""
    return data.split(b"\n", 1)[0].rstrip(b" \t\n")


def parse_integer(data: bytes) -> int | None:
    """The decimal digits at the very start of the first line; None when there are none."""
    line = parse_line(data)
    digits = line[: len(line) - len(line.lstrip(b"0123456789"))]
    return int(digits[:18]) if digits else None


def parse_lines(data: bytes) -> tuple[bytes, ...]:
    """The values of a list file: its lines, less empty ones and ``#`` comments; a NUL splits an entry."""
    lines = [line.rstrip(b" \t\n") for line in data.split(b"\n")]
    kept = [line for line in lines if line and not line.startswith(b"#")]
    if b"\0" in data:
        kept = [part for line in kept for part in line.split(b"\0")]
    return tuple(kept)


def parse_mapping(data: bytes) -> dict[bytes, bytes]:
    """``key:value`` lines as a dict with ASCII-lower-cased keys; of equal keys the last line wins."""
    entries = (line.partition(b":") for line in parse_lines(data))
    return {key.lower(): value for key, colon, value in entries if colon}


class Control:
    """The control directory of one home. Every method raises ControlUnreadable and reads the file anew.

    ``Control.cache`` is set by processes that serve many jobs: an unchanged file is not read again then, and which
    files there are is looked at once for all that is read within a tenth of a second.
    """

    cache: "FileCache | None" = None

    def __init__(self, home: str, names: "frozenset[str] | None" = None) -> None:
        """``names`` are those that the directory has, where they have just been looked at."""
        self.directory = home + "/control"
        self._me: bytes | None = None
        self._me_read = False
        self._names = names  # that the directory had a moment ago
        self._names_until = 0.0 if names is None else time.monotonic() + NAMES_S

    def read(self, name: str) -> bytes | None:
        """The bytes of control file ``name``; None when there is no such file."""
        if self.surely_missing(name):
            return None
        path = f"{self.directory}/{name}"
        cache = self.cache
        try:
            if cache is not None:
                known = cache.get(path)
                if known is not None:
                    return known
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ControlUnreadable(f"control/{name}: {error.strerror}") from error
        try:
            chunks = []  # joined once: a million lines of rcpthosts are hundreds
            while chunk := os.read(fd, 65536):
                chunks.append(chunk)
            data = b"".join(chunks)
            if cache is not None:
                cache.put(path, fd, data)
            return data
        except OSError as error:
            raise ControlUnreadable(f"control/{name}: {error.strerror}") from error
        finally:
            os.close(fd)

    def made(self, name: str, make: "Callable[[bytes], Made]") -> "Made | None":
        """What ``make``, a function of a module, makes of the bytes of ``name``; None when there is no such file.

        Where files are kept it is made once of each, so that it must never be changed.
        """
        data = self.read(name)
        if data is None:
            return None
        cache = self.cache
        return make(data) if cache is None else cache.made(f"{self.directory}/{name}", data, make)

    def names(self) -> "frozenset[str] | None":
        """The names of all files, in one look for the many that are seldom there; None where nobody may look."""
        if self.cache is not None:
            if time.monotonic() >= self._names_until:
                self._look(self.cache)
            return self._names
        try:
            return frozenset(os.listdir(self.directory))
        except OSError:
            return None

    def _look(self, cache: "FileCache") -> None:
        self._names_until = time.monotonic() + NAMES_S
        self._names = cache.names(self.directory)

    def surely_missing(self, name: str) -> bool:
        """Whether ``name`` is known to be missing without a look at it; never where nothing is kept."""
        if self.cache is None:
            return False
        if time.monotonic() >= self._names_until:
            self._look(self.cache)
        names = self._names
        return names is not None and name not in names and "/" not in name

    def exists(self, name: str) -> bool:
        """Whether there is something under that name, of whatever kind. Raises ControlUnreadable."""
        if self.surely_missing(name):
            return False
        try:
            os.stat(f"{self.directory}/{name}")
        except FileNotFoundError:
            return False
        except OSError as error:
            raise ControlUnreadable(f"control/{name}: {error.strerror}") from error
        return True

    def line(self, name: str) -> bytes | None:
        """The value of a one-line file; an empty file is the empty value, not a missing one."""
        data = self.read(name)
        return None if data is None else parse_line(data)

    def me(self) -> bytes | None:
        """control/me, read once for the life of this object."""
        if not self._me_read:
            self._me = self.line("me")
            self._me_read = True
        return self._me

    def line_or_me(self, name: str, default: bytes | None = None) -> bytes | None:
        """The value of ``name``, else of ``me``, else ``default``."""
        value = self.line(name)
        if value is None:
            value = self.me()
        return default if value is None else value

    def setting(self, environ: "Mapping[bytes, bytes]", variable: bytes, name: str) -> bytes:
        """What completes addresses (qmail-header(5)): ``variable`` if set, else ``name``, else me, else the name."""
        value = environ.get(variable)
        if value is None:
            value = self.line_or_me(name)
        return name.encode() if value is None else value

    def integer(self, name: str, default: int) -> int:
        """The number in ``name``; ``default`` when the file is missing or starts with no digit."""
        data = self.read(name)
        value = None if data is None else parse_integer(data)
        return default if value is None else value

    def lines(self, name: str) -> tuple[bytes, ...] | None:
        """The values in list file ``name``; None when there is no such file."""
        return self.made(name, parse_lines)

    def mapping(self, name: str) -> dict[bytes, bytes] | None:
        """The ``key:value`` lines of ``name``; None when there is no such file."""
        data = self.read(name)
        return None if data is None else parse_mapping(data)


class Knobs:
    """What conf-* files set when qmail was compiled; here optional one-line control files."""

    __slots__ = ("break_char", "patrn", "spawn", "split")

    def __init__(self, *, split: int, spawn: int, break_char: bytes, patrn: int) -> None:
        self.split = split  # subdirectories of mess, info, local, remote
        self.spawn = spawn  # deliveries at once per spawner
        self.break_char = break_char  # user-extension delimiter
        self.patrn = patrn  # mode bits that a home or .qmail may not have


def read_patrn(control: Control) -> int:
    """The mode bits that a home or a .qmail file may not have (control/conf-patrn). Raises ControlUnreadable."""
    patrn = control.line("conf-patrn")
    try:
        return int(patrn, 8) if patrn else 0o002
    except ValueError:
        return 0o002


def read_knobs(home: str) -> Knobs:
    """The knobs of ``home`` (control/conf-split, -spawn, -break, -patrn). Raises ControlUnreadable."""
    control = Control(home)
    return Knobs(
        split=max(1, control.integer("conf-split", 23)),
        spawn=max(1, control.integer("conf-spawn", 120)),
        break_char=(control.line("conf-break") or b"-")[:1],
        patrn=read_patrn(control),
    )
