"""Plug-ins of qmail-spp: programs of control/smtpplugins that are run at a command and say what becomes of it.

A program prints lines, a letter and a text each:

    A  accept, and no more plug-ins in this session     H  a header field       P  a line for the client
    N  accept the command                               S  NAME=VALUE, set      C  the address is another one
    O  the same, and without our own checks             U  NAME, unset
    E  refuse, with this reply                          LM, LR, LD  refuse the next MAIL, RCPT or DATA
    R  the same, and hang up                            D  hang up

After one of the first six nothing more of this command is run. A program that cannot be run, is killed, ends with 120,
or not within 30 seconds, is a 451.
"""

import os
from collections.abc import Mapping, MutableMapping

from pyqmail.control import parse_lines
from pyqmail.formats.printable import printable
from pyqmail.incoming.check import Rules
from pyqmail.incoming.recipient_program import NOT_RUN, run_program
from pyqmail.protocol.reply import Reply
from pyqmail.protocol.smtp_server import ADDRESS_MAX

CONNECTION, HELO, AUTH, MAIL, RCPT, PASS, DATA = b"c", b"h", b"a", b"m", b"r", b"p", b"d"  # behind a section's bracket
SECTIONS = (CONNECTION, HELO, AUTH, MAIL, RCPT, PASS, DATA)
LINE_MAX = 500  # bytes of a line for the client or the header
HEADERS_MAX = 65536  # bytes of all fields
VARIABLES_MAX = 100  # that a session may have set
FINAL = frozenset(b"ANOERD")
FAILURE = Reply(451, b"a plug-in has failed (#4.3.0)")


class Outcome:
    """What the plug-ins of one command have said."""

    __slots__ = ("address", "hangs_up", "refusal", "said", "unchecked")

    def __init__(self, address: bytes = b"") -> None:
        self.address = address
        self.refusal: Reply | None = None
        self.hangs_up = False
        self.unchecked = False  # our own checks are left out
        self.said = b""  # lines for the client, before the reply


class Plugins:
    """Those of one session. ``variables`` are what it has set, None for what it has unset."""

    def __init__(self, sections: Mapping[bytes, tuple[bytes, ...]], home: str) -> None:
        self._sections = sections
        self._home = home
        self._off = False
        self._later: dict[bytes, Reply] = {}  # refusals by section
        self.variables: dict[bytes, bytes | None] = {}
        self.headers = b""

    def programs(self, section: bytes) -> tuple[bytes, ...]:
        """Those of ``section``, as the file has them."""
        return self._sections.get(section, ())

    def forget(self) -> None:
        """A transaction begins anew."""
        self._later.clear()
        self.headers = b""

    def run(
        self, section: bytes, environ: Mapping[bytes, bytes], address: bytes = b"", variable: bytes = b""
    ) -> Outcome:
        """What the plug-ins of ``section`` say; ``variable`` has the ``address`` of its command."""
        outcome = Outcome(address)
        if section in self._later:
            outcome.refusal = self._later[section]
            return outcome
        for program in () if self._off else self.programs(section):
            found = changed(environ, self.variables) | ({variable: outcome.address} if variable else {})
            words = [b"/bin/sh", b"-c", program[1:]] if program[:1] == b":" else [self._path(program)]
            code, text = run_program(words, without_nul(found), self._home, text_fd=1)
            if code is None or code == NOT_RUN:
                outcome.refusal = FAILURE
                return outcome
            if self._obey(text, outcome, named=bool(variable)):
                return outcome
        return outcome

    def _path(self, program: bytes) -> bytes:
        return os.path.join(os.fsencode(self._home), program)

    def _obey(self, text: bytes, outcome: Outcome, *, named: bool) -> bool:
        """Do what a plug-in says; whether that was the last word. ``named``: the command has an address."""
        for line in text.split(b"\n"):
            letter, rest = line[:1], line[1:].rstrip(b"\r")
            if letter == b"H" and len(self.headers) + len(rest) < HEADERS_MAX:
                self.headers += rest[:LINE_MAX].replace(b"\r", b"") + b"\n"
            elif letter == b"S":
                name, equals, value = rest.partition(b"=")
                self._set(name, value if equals else None)
            elif letter == b"U":
                self._set(rest, None)
            elif letter == b"C" and named:
                if len(rest) > ADDRESS_MAX or b"\0" in rest or not rest.isascii():
                    outcome.refusal = FAILURE
                    return True
                outcome.address = rest
            elif letter == b"P":
                outcome.said += printable(rest[:LINE_MAX]) + b"\r\n"
            elif letter == b"L" and rest[:1].lower() in (MAIL, RCPT, DATA):
                self._later[rest[:1].lower()] = parse_reply(rest[1:])
            elif letter and letter[0] in FINAL:
                outcome.refusal = parse_reply(rest) if letter in (b"E", b"R") else None
                outcome.hangs_up = letter in (b"R", b"D")
                outcome.unchecked = letter == b"O"
                self._off = letter == b"A"
                return True
        return False

    def _set(self, name: bytes, value: bytes | None) -> None:
        if name and (name in self.variables or len(self.variables) < VARIABLES_MAX):
            self.variables[name] = value


def changed(environ: Mapping[bytes, bytes], variables: Mapping[bytes, bytes | None]) -> dict[bytes, bytes]:
    """``environ`` with ``variables`` set, and those unset that are None."""
    found = {name: value for name, value in environ.items() if name not in variables}
    return found | {name: value for name, value in variables.items() if value is not None}


def without_nul(environ: MutableMapping[bytes, bytes]) -> Mapping[bytes, bytes]:
    """What a program may be given: a client may send NUL where it likes."""
    return {name: value.replace(b"\0", b"") for name, value in environ.items()}


def parse_reply(text: bytes) -> Reply:
    """The refusal in a plug-in's words; 550 where they have no code of their own."""
    text = printable(text[:LINE_MAX])
    if text[:1] in (b"4", b"5") and text[:3].isdigit() and text[3:4] in (b" ", b""):
        return Reply(int(text[:3]), text[4:] or b"refused")
    return Reply(550, text or b"refused")


def parse_sections(data: bytes) -> dict[bytes, tuple[bytes, ...]]:
    """The programs by section; what stands before the first one is nobody's."""
    found: dict[bytes, tuple[bytes, ...]] = {}
    section = b""
    for line in parse_lines(data):
        if line.startswith(b"["):
            section = line[1:2].lower()
        elif section in SECTIONS:
            found[section] = (*found.get(section, ()), line)
    return found


def read_plugins(rules: Rules) -> Plugins | None:
    """Those of control/smtpplugins, or of the file in $SPPCONFFILE; None where there are none, or $NOSPP is set.

    Raises ControlUnreadable.
    """
    path = rules.environ.get(b"SPPCONFFILE", b"")
    name = "smtpplugins"
    if path:
        name = os.path.relpath(os.path.join(rules.home, os.fsdecode(path)), rules.control.directory)
    sections = parse_sections(rules.control.read(name) or b"")
    return Plugins(sections, rules.home) if sections and b"NOSPP" not in rules.environ else None
