"""Expanding an address by a forwarding database (fastforward(1); the formats are in formats/forwarding).

Expansion is a stack. While the commands of a target or list are read, programs run on the spot and all else is pushed;
then the command pushed last is taken. The recipients are those met, in reverse: so plain lists keep their order.
"""

import os

from pyqmail.formats.cdb import Cdb, CdbCorrupt
from pyqmail.formats.forwarding import LIST_TYPES, TYPES, BadFormat, parse_commands
from pyqmail.intake.resend import Fatal, complain
from pyqmail.system import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

PERMANENT_EXITS = (100, 64, 65, 70, 76, 77, 78, 112)  # of a program; any other trouble is temporary
LOOPING = b"Sorry, these aliases lead to each other and to nobody else: "
NO_OWNER = (b"", b"#@[]")  # bounces keep their sender
NULL_DEVICE = b"/dev/null"  # a list of nobody


class Circle(Fatal):
    """Addresses of a database lead to each other, and to nobody else; ``trail`` names them."""

    def __init__(self, items: "Sequence[bytes]") -> None:
        self.trail = b" to ".join(item.removeprefix(b"&") for item in items)
        super().__init__(100, LOOPING + self.trail + b". (#5.4.6)")


def unreadable(path: bytes, error: Exception) -> Fatal:
    """What to raise for a database that cannot be read."""
    reason = (error.strerror or "") if isinstance(error, OSError) else "bad format"
    return Fatal(111, b"unable to read " + path + b": " + reason.encode())


def candidates(address: bytes) -> tuple[bytes, ...]:
    """The targets that an incoming address may have: itself, all of its host, its user at any host."""
    local, at, host = address.lower().rpartition(b"@")
    return (local + at + host, at + host, local + at) if at else ()


class Expansion:
    """An open database, and what has been handled so far."""

    def __init__(
        self,
        path: bytes,
        environ: "Mapping[bytes, bytes]",
        *,
        describe: bool,
        say: "Callable[[bytes], None]" = complain,
    ) -> None:
        """Raises Fatal. With ``describe`` programs are named to ``say`` and not run."""
        self._path = path
        self._describe = describe
        self._say = say
        self._environ = environ
        self._origins: dict[bytes, bytes] = {}  # what has been handled, and where each item stands
        self._stack: list[tuple[bytes, bytes]] = []  # the same of what has not
        self._acted = False  # a program was run, or the message was thrown away
        self._moved = False  # whether a program may have read from descriptor 0
        try:
            self._fd = files.open_read(path)
        except OSError as error:
            raise unreadable(path, error) from error
        try:
            self._database = Cdb(self._fd)
        except (OSError, CdbCorrupt) as error:
            self.close()
            raise unreadable(path, error) from error

    def close(self) -> None:
        """Close the database."""
        os.close(self._fd)

    def _get(self, key: bytes) -> bytes | None:
        try:
            return self._database.get(key)
        except (OSError, CdbCorrupt) as error:
            raise unreadable(self._path, error) from error

    def target(self, address: bytes) -> bytes | None:
        """The target for an incoming address; None if there is none."""
        return next((target for target in candidates(address) if self._get(b":" + target) is not None), None)

    def sender(self, address: bytes, sender: bytes | None) -> bytes:
        """Who gets the bounces: the owner, looked for as the target is, unless the message is a bounce."""
        if sender not in NO_OWNER:
            for target in candidates(address):
                owner = self._get(b"?" + target)
                if owner is not None:
                    return owner
        return b"original envelope sender" if sender is None else sender

    def run(self, target: bytes) -> list[bytes]:
        """Run the programs of ``target`` and everything it leads to; the recipients.

        Raises Fatal; Circle where the message would be gone without anybody having had it.
        """
        recipients: list[bytes] = []
        circle: list[bytes] = []
        self._read(self._get(b":" + target) or b"", TYPES, self._path, b"")
        while self._stack:
            item, origin = self._stack.pop()
            if item in self._origins:
                circle = circle or self._circle(item, origin)
                continue
            self._origins[item] = origin
            if item == NULL_DEVICE:
                self._acted = True
                self._say(b"fastforward: info: thrown away: " + item)
                continue
            if not item.startswith(b"&"):
                from pyqmail.local.alias_list import read_list  # a database of addresses needs none

                self._read(read_list(item, self._environ), LIST_TYPES, item, item)
                continue
            key = item[1:].lower()
            found = self._get(b":" + key)
            if found is None or self._get(b"?" + key) is not None:  # a list with an owner is mailed to
                recipients.append(item[1:])
            else:
                self._read(found, TYPES, self._path, item)
        if circle and not recipients and not self._acted:
            raise Circle(circle)
        recipients.reverse()
        return recipients

    def _circle(self, item: bytes, origin: bytes) -> list[bytes]:
        """The way from ``item`` back to itself by ``origin``; empty if there is none."""
        trail = [item]
        while origin and origin != item:
            trail.append(origin)
            origin = self._origins[origin]
        return [item, *reversed(trail)] if origin else []

    def _read(self, data: bytes, types: tuple[bytes, ...], path: bytes, origin: bytes) -> None:
        """Run the programs in ``data``, which stands at ``origin``, and push all else."""
        try:
            commands = parse_commands(data, types)
        except BadFormat as error:
            raise unreadable(path, error) from error
        for item in [command.rstrip(b"\r") for command in commands]:  # of sources that another qmail read
            if item[:1] in (b"|", b"!"):
                self._program(item)
            else:
                self._stack.append((item, origin))

    def rewind(self) -> None:
        """Put descriptor 0 back to its start if a program has read from it."""
        if self._moved:
            try:
                os.lseek(0, 0, os.SEEK_SET)
            except OSError as error:
                raise Fatal(111, b"unable to rewind input: " + (error.strerror or "").encode()) from error

    def _program(self, item: bytes) -> None:
        self._acted = True
        if self._describe:
            self._say(b"run " + item)
            return
        from pyqmail.system import command  # a database of addresses needs none

        self._moved = True
        self.rewind()
        words = [b"sh", b"-c", item[1:]]
        if item.startswith(b"!"):
            words.insert(0, b"preline")
        try:
            process = command.start(words, self._environ)
        except OSError as error:
            raise Fatal(111, b"unable to run " + item + b": " + (error.strerror or "").encode()) from error
        check_exit(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), item)


def check_exit(code: int, program: bytes) -> None:
    """Go on after 0. Raises Fatal: permanent for what the program says is, else temporary, 99 included."""
    if code < 0:
        raise Fatal(111, b"child crashed in " + program)
    if code:
        raise Fatal(100 if code in PERMANENT_EXITS else 111, b"")
