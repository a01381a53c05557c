"""Where the programs of a .qmail line send mail on to, told without running them (qmail-command(8)).

forward, condredirect, dot-forward and fastforward are known, wherever sh would find them in the line. The current
directory is the recipient's home, and the caller acts as its owner.
"""

import os
import re
import shlex
from collections.abc import Iterator, Mapping
from contextlib import closing
from itertools import islice
from typing import NamedTuple

from pyqmail.control import ControlUnreadable
from pyqmail.formats import dotqmail
from pyqmail.formats.aliases import FILE, INCLUDE, NULL_DEVICE, PROGRAM, ListError, parse_lines
from pyqmail.formats.cdb import Cdb, CdbCorrupt
from pyqmail.intake.resend import Fatal, read_recipients
from pyqmail.local.alias_database import Circle, Expansion
from pyqmail.local.forward_file import Forwarding
from pyqmail.local.suspicions import (
    BOUNCES,
    COMPOUND,
    DEFERS,
    LOOPS,
    UNKNOWABLE,
    Suspicion,
    first_program,
    judge,
    judge_command,
    without_redirections,
    without_settings,
)
from pyqmail.options import UsageError, parse_options
from pyqmail.system.files import USERS_FILE_MAX, open_read, read_file

VARIABLE = re.compile(r"\$(?:\{([A-Z]+[234]?)\}|([A-Z]+[234]?))", re.ASCII)
WRAPPERS = ("exec", "env", "nice", "preline")  # they run what follows
BETWEEN = frozenset(";|&()")
WORDS = COMPOUND | {"then", "do", "else", "elif", "fi", "done", "esac", "}"}
ALWAYS = ("true", "/bin/true", "/usr/bin/true")
TARGETS_MAX = 10_000  # of a database that is looked at as a whole

Environment = Mapping[bytes, bytes]


class Forward(NamedTuple):
    """An address that gets the message next. ``sure``: it does not depend on what another program says."""

    address: bytes
    sure: bool = True


class Told(NamedTuple):
    """What is wrong with a program's files, and where it forwards to."""

    wrong: Suspicion | None = None
    addresses: tuple[bytes, ...] = ()
    sure: bool = True


def read_command(command: bytes, environ: Environment, home: str) -> tuple[Suspicion | None, tuple[Forward, ...]]:
    """What is wrong with the files of the forwarders in a command of sh(1), and all that they forward to.

    ``environ`` is that of qmail-command(8); what it lacks is not known now, and a word that needs it says nothing.
    """
    text = os.fsdecode(command.partition(b"\0")[0])
    wrong: Suspicion | None = None
    forwards: list[Forward] = []
    try:
        certain = _unwrapped(first_program(text))
        commands = [_unwrapped(words) for words in _simple_commands(text)]
    except ValueError:
        return None, ()  # sh cannot read it
    for words in commands:
        tell = PROGRAMS.get(os.path.basename(words[0])) if words else None
        arguments = _substituted(words[1:], environ)
        if tell is not None and arguments is not None:
            told = tell(arguments, environ, home)
            wrong = wrong or (told.wrong if words == certain else None)
            forwards += [Forward(address, told.sure and words == certain) for address in told.addresses]
    return wrong, tuple(forwards)


def _simple_commands(command: str) -> Iterator[list[str]]:
    """The words of each command in ``command``, wherever it stands. Raises ValueError."""
    lexer = shlex.shlex(command, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    lexer.commenters = ""
    words: list[str] = []
    for token in [*without_redirections(list(lexer)), ";"]:
        if token.startswith("#") or (token and set(token) <= BETWEEN):
            yield words
            words = []
            if token.startswith("#"):
                return
        elif words or token not in WORDS:
            words.append(token)


def _unwrapped(words: list[str]) -> list[str]:
    """``words`` from the program on that others before it only run; none where options hide it."""
    words = without_settings(words)
    while words and os.path.basename(words[0]) in WRAPPERS:
        name = os.path.basename(words[0])
        words = words[1:]
        if name == "preline":
            while words and words[0].startswith("-"):
                words = words[1:]
        if words and words[0].startswith("-"):
            return []
        words = without_settings(words) if name == "env" else words
    return words


def _substituted(words: list[str], environ: Environment) -> list[bytes] | None:
    """``words`` with the values of their variables; None where one of them cannot be known."""
    found = []
    for word in words:
        names = [match[1] or match[2] for match in VARIABLE.finditer(word)]
        if any(os.fsencode(name) not in environ for name in names) or UNKNOWABLE & set(VARIABLE.sub("", word)):
            return None
        found.append(VARIABLE.sub(lambda match: os.fsdecode(environ[os.fsencode(match[1] or match[2])]), word))
    return [os.fsencode(word) for word in found]


# The forwarders: their arguments, the environment and the tree


def _forward(words: list[bytes], environ: Environment, _home: str) -> Told:
    return Told(addresses=tuple(read_recipients(words, environ)))


def _condredirect(words: list[bytes], environ: Environment, _home: str) -> Told:
    program = [os.fsdecode(word) for word in words[1:]]
    addresses = tuple(read_recipients(words[:1], environ)) if program else ()
    return Told(addresses=addresses, sure=len(program) == 1 and program[0] in ALWAYS)


def _dot_forward(words: list[bytes], environ: Environment, home: str) -> Told:
    """The first file that is there counts, unless it says nothing."""
    try:
        letters, names = parse_options(words, b"nN")
        if letters and letters[-1][0] == b"n":
            return Told()
        forwarding = Forwarding(environ, describe=False)
        for name in names:
            wrong = _judge_forward_file(name, home)
            if wrong is not None:
                return Told(wrong)
            addresses = forwarding.addresses(name)
            if addresses is not None:
                return Told(addresses=tuple(addresses))
    except (UsageError, ControlUnreadable):
        pass  # qmail-showctl says what cannot be read
    except Fatal as error:
        return Told(Suspicion(error.code, os.fsdecode(error.text)))
    return Told()


def _judge_forward_file(name: bytes, home: str) -> Suspicion | None:
    """The first line of a .forward file that cannot be honoured."""
    shown = os.fsdecode(name)
    try:
        for number, entries in parse_lines(read_file(name, USERS_FILE_MAX)):
            for kind, text in entries:
                wrong = _judge_entry(kind, text, home)
                if wrong is not None:
                    return Suspicion(wrong.code, f"{shown}: line {number}: {os.fsdecode(text)}: {wrong.text}")
    except FileNotFoundError:
        return None
    except ListError as error:
        return Suspicion(DEFERS, f"{shown}: line {error.line}: {os.fsdecode(error.text)}")
    except OSError as error:
        return Suspicion(DEFERS, f"{shown}: {error.strerror}")
    return None


def _judge_entry(kind: int, text: bytes, home: str) -> Suspicion | None:
    path = b"." + text[1:] if text.startswith(b"~/") else text
    if kind == INCLUDE:
        return None if os.path.exists(path) else Suspicion(DEFERS, "the list is not there")
    if kind == PROGRAM:
        return judge(dotqmail.PROGRAM, text[1:], forward_only=False, home=home)
    if kind == FILE and path != NULL_DEVICE:
        where = dotqmail.MAILDIR if path.endswith(b"/") else dotqmail.MBOX
        return judge(where, path, forward_only=False, home=home)
    return None


def _fastforward(words: list[bytes], environ: Environment, home: str) -> Told:
    """The address that came, or all targets of the database where it is not known."""
    try:
        letters, names = parse_options(words, b"nNpPdD")
    except UsageError:
        return Told()
    flags = {letter.lower(): letter.islower() for letter, _argument in letters}
    if not names or flags.get(b"n", False):
        return Told()
    incoming = _incoming(environ, by_default=flags.get(b"d", False))
    shown = os.fsdecode(names[0])
    try:
        if incoming is None:
            return _all_targets(names[0], environ, home)
        with closing(Expansion(names[0], environ, describe=True)) as expansion:
            target = expansion.target(incoming)
        if target is not None:
            return _expand(names[0], target, environ, home)
    except OSError as error:
        return Told(Suspicion(DEFERS, f"{shown}: {error.strerror}"))
    except (CdbCorrupt, Fatal) as error:
        cause = error.__cause__
        reason = f": {cause.strerror}" if isinstance(cause, OSError) else " is damaged"
        return Told(Suspicion(DEFERS, shown + reason))
    return Told(None if flags.get(b"p", False) else Suspicion(BOUNCES, f"{shown} has no such address"))


def _incoming(environ: Environment, *, by_default: bool) -> bytes | None:
    """The address that fastforward looks up; None if it is not known now."""
    if not by_default:
        return environ.get(b"RECIPIENT")
    local = environ.get(b"DEFAULT", environ.get(b"EXT"))
    return None if local is None else local + b"@" + environ[b"HOST"]


def _all_targets(path: bytes, environ: Environment, home: str) -> Told:
    """What the targets of a database lead to, the first ones of a huge one. Raises OSError and CdbCorrupt."""
    fd = open_read(path)
    try:
        keys = [key for key, _data in islice(Cdb(fd).records(), TARGETS_MAX)]
    finally:
        os.close(fd)
    told = [_expand(path, key[1:], environ, home) for key in keys if key.startswith(b":")]
    wrong = next((each.wrong for each in told if each.wrong is not None), None)
    return Told(wrong, tuple(dict.fromkeys(address for each in told for address in each.addresses)))


def _expand(path: bytes, target: bytes, environ: Environment, home: str) -> Told:
    """What ``target`` leads to. Its programs are judged as those of a .qmail file are."""
    programs: list[bytes] = []
    try:
        with closing(Expansion(path, environ, describe=True, say=programs.append)) as expansion:
            addresses = expansion.run(target)
    except Circle as circle:
        return Told(Suspicion(BOUNCES, f"{LOOPS} {os.fsdecode(circle.trail)}"))
    except Fatal as error:
        return Told(Suspicion(error.code, os.fsdecode(b"%b: %b: %b" % (path, target, error.text))))
    for program in programs:
        if program.startswith(b"run "):
            wrong = judge_command(os.fsdecode(program[5:]), home)
            if wrong is not None:
                return Told(Suspicion(wrong.code, f"{os.fsdecode(path)}: {os.fsdecode(target)}: {wrong.text}"))
    return Told(addresses=tuple(addresses))


PROGRAMS = {
    "forward": _forward,
    "condredirect": _condredirect,
    "dot-forward": _dot_forward,
    "fastforward": _fastforward,
}
