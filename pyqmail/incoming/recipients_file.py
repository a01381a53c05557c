"""control/recipients of s/qmail: by domain, where the recipients that exist are listed (qmail-control(5)).

    !domain               all of the domain's are taken       domain:FILE       listed in FILE, subdomains' too
    !*                    and those of all other domains      @domain:FILE      the same without subdomains
    FILE                  a database for all domains          *:FILE            for all domains
    domain|program arg    asked as a password checker is, with the address for a name and no password

FILE is below the home: a database in fastforward's form, whose keys are ``:address``, or a text with an address a line
if its name does not end with .cdb. Lines are asked in their order until one has the recipient; if none has it, or no
line is for its domain, it does not exist. ``user-anything@domain`` is also there where ``user-@domain`` is.
"""

import os

from pyqmail.control import ControlUnreadable, parse_lines, read_knobs
from pyqmail.formats.cdb import Cdb, CdbCorrupt
from pyqmail.incoming.check import Check, Rules, Verdict
from pyqmail.incoming.client import Client
from pyqmail.incoming.letter import Letter
from pyqmail.incoming.refusals import NO_ANSWER, NOBODY
from pyqmail.system.files import read_file
from pyqmail.system.filtering import Output, Overrun, run_filter
from pyqmail.system.process import WorkingIn

CHECK_S = 10.0  # for one program
LATER = 111  # its exit code where it cannot say
DATABASE, PROGRAM = b":", b"|"


class NobodyKnows(Exception):
    """A program cannot say whether the recipient exists."""


class ListedRecipient(Check):
    """Who is not listed there does not exist; relay clients are not asked about."""

    name = "recipients"

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._lines = parse_lines(rules.control.read("recipients") or b"")
        self._break = read_knobs(rules.home).break_char
        self.active = bool(self._lines)

    def recipient(self, client: Client, letter: Letter, address: bytes) -> Verdict | None:
        if client.relay is not None or b"\0" in address:
            return None
        try:
            return None if self.has(address.lower()) else Verdict(NOBODY)
        except NobodyKnows:
            return Verdict(NO_ANSWER)

    def has(self, address: bytes) -> bool:
        """Whether the file says that ``address`` exists. Raises ControlUnreadable and NobodyKnows."""
        local, at, domain = address.rpartition(b"@")
        if not at:
            local, domain = domain, b"localhost"
        names = [local + b"@" + domain]
        extension = local.find(self._break)
        if extension >= 0:
            names.append(local[: extension + 1] + b"@" + domain)
        for line in self._lines:
            if line in (b"!*", b"!" + domain):
                return True
            kind, value = source_for(line, domain)
            if kind and any(self._listed(kind, value, name) for name in names):
                return True
        return False

    def _listed(self, kind: bytes, value: bytes, address: bytes) -> bool:
        if kind == PROGRAM:
            return asked(value.split(), address, self._rules)
        path = os.path.join(self._rules.home, os.fsdecode(value))
        try:
            if not value.endswith(b".cdb"):
                return address in (line.lower() for line in parse_lines(read_file(path)))
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            try:
                return Cdb(fd).get(b":" + address) is not None
            finally:
                os.close(fd)
        except (CdbCorrupt, OSError) as error:
            why = "damaged" if isinstance(error, CdbCorrupt) else error.strerror
            raise ControlUnreadable(f"{os.fsdecode(value)}: {why}") from error


def source_for(line: bytes, domain: bytes) -> tuple[bytes, bytes]:
    """What ``line`` says about ``domain``: DATABASE or PROGRAM and which one; two empty strings for nothing."""
    if line.startswith(b"!"):
        return b"", b""
    kind = next((bytes((byte,)) for byte in line if byte in DATABASE + PROGRAM), b"")
    if not kind:
        return DATABASE, line
    pattern, _, value = line.partition(kind)
    pattern = pattern.lower()
    below = pattern in (b"*", domain) or domain.endswith(b"." + pattern)
    fits = domain == pattern[1:] if pattern.startswith(b"@") else below
    return (kind, value) if fits and value else (b"", b"")


def asked(words: list[bytes], address: bytes, rules: Rules) -> bool:
    """Whether a program says yes. Raises NobodyKnows where it cannot say, dies or takes too long."""
    question = os.memfd_create("question")
    try:
        os.write(question, address + b"\0\0\0")
        # descriptors 0 and 1 of a session are its client
        with WorkingIn(rules.home):
            code = run_filter(words, rules.environ, {0: question, 3: question}, [Output(1, -1, 0, cut=True)], CHECK_S)
    except (Overrun, OSError) as error:
        raise NobodyKnows from error
    finally:
        os.close(question)
    if code < 0 or code == LATER:
        raise NobodyKnows
    return code == 0
