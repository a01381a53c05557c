"""What delivery would trip over in the lines of a .qmail file, told without delivering (dot-qmail(5)).

qmail-explain, qmail-showctl --check and qmail-setup --check share this list. The current directory is the home, and the
caller acts as its owner. Only what certainly defers or bounces is suspicious: what cannot be known is not.
"""

import os
import shlex
import stat
from collections.abc import Iterator
from dataclasses import dataclass

from pyqmail.formats import dotqmail
from pyqmail.local.filing import is_hidden

BOUNCES, DEFERS = 100, 111
LOOPS = "loops:"  # so a suspicion of a circle begins
STANDARD_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
COMPOUND = frozenset(("if", "for", "while", "until", "case", "{", "!", "[[", "function", "(", "select"))
CHANGES = frozenset((".", "cd", "eval", "export", "set", "alias", "source", "trap"))  # what a later command may mean
BUILT_IN = frozenset(
    (":", "[", "break", "command", "continue", "echo", "exit", "false", "getopts", "hash", "kill", "local", "printf")
    + ("pwd", "read", "readonly", "return", "shift", "test", "times", "true", "type", "ulimit", "umask", "unalias")
    + ("unset", "wait", *CHANGES, *COMPOUND)
)
UNKNOWABLE = frozenset("$`*?[")
RUNNERS = {"exec": 0, "preline": 0, "env": 0, "nice": 0, "condredirect": 1, "bouncesaying": 1, "except": 0}
OURS = frozenset(("preline", "condredirect", "bouncesaying", "except"))  # they bounce for what is not there


@dataclass(frozen=True, slots=True)
class Suspicion:
    """What will go wrong: ``code`` is what qmail-local then exits with.

    ``sure``: whatever the programs on the way may say.
    """

    code: int
    text: str
    sure: bool = True


def judge(kind: bytes, argument: bytes, *, forward_only: bool, home: str) -> Suspicion | None:
    """What is wrong with one line in the tree ``home``; None where nothing is, or nobody can know."""
    if kind == dotqmail.BLANK_START:
        return Suspicion(DEFERS, "the first line is blank: qmail-local defers everything")
    if kind == dotqmail.UNREADABLE:
        return Suspicion(DEFERS, "says nothing that can be done")
    if forward_only and kind not in (dotqmail.FORWARD, dotqmail.DISCARD, dotqmail.FORWARD_ONLY):
        return Suspicion(DEFERS, "forbidden: the file may only forward")
    argument = argument.partition(b"\0")[0]
    if kind == dotqmail.MAILDIR:
        return _maildir(argument)
    if kind == dotqmail.MBOX:
        return _mbox(argument)
    return judge_command(os.fsdecode(argument), home) if kind == dotqmail.PROGRAM else None


def _maildir(path: bytes) -> Suspicion | None:
    for directory in (path, path + b"tmp", path + b"new"):
        found = _directory(directory)
        if found is not None:
            return found
    return None


def _directory(path: bytes) -> Suspicion | None:
    """What is wrong with a directory that files are made in."""
    try:
        if not stat.S_ISDIR(os.stat(path).st_mode):
            return Suspicion(DEFERS, "is no directory")
    except OSError as error:
        return Suspicion(DEFERS, "is not there" if isinstance(error, FileNotFoundError) else error.strerror or "error")
    return None if _may(path, os.W_OK | os.X_OK) else Suspicion(DEFERS, "may not be written")


def _may(path: bytes | str, mode: int) -> bool:
    return os.access(path, mode, effective_ids=True)


def _mbox(path: bytes) -> Suspicion | None:
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        if is_hidden(path):
            return Suspicion(DEFERS, "would be a file within a maildir")
        return _directory(os.path.dirname(path) or b".")
    except OSError as error:
        return Suspicion(DEFERS, error.strerror or "error")
    if stat.S_ISDIR(mode):
        return Suspicion(DEFERS, "is a directory: a maildir has a / at its end")
    if not stat.S_ISREG(mode):
        return Suspicion(DEFERS, "is no file")
    return None if _may(path, os.W_OK) else Suspicion(DEFERS, "may not be written")


# Programs


def judge_command(command: str, home: str) -> Suspicion | None:
    """What is wrong with a command of sh(1): its program is not there, or it cannot be parsed."""
    try:
        words = first_program(command)
    except ValueError:
        return Suspicion(DEFERS, "sh cannot read it: a quotation mark is missing")
    code = DEFERS
    while words and os.path.basename(words[0]) in RUNNERS:
        found = _program(words[0], code, home)
        if found is not None:
            return found
        name = os.path.basename(words[0])
        code = BOUNCES if name in OURS else code
        rest = words[1 + RUNNERS[name] :]
        if any(word.startswith("-") for word in rest[:1]) and name != "preline":
            return None  # an option may have an argument
        words = [word for at, word in enumerate(rest) if at or not word.startswith("-")]
        words = without_settings(words) if name == "env" else words
    return _program(words[0], code, home) if words else None


def first_program(command: str) -> list[str]:
    """The words of the simple command whose missing program certainly decides; none where that cannot be told.

    Raises ValueError for quotation marks without end.
    """
    lexer = shlex.shlex(command, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    lexer.commenters = ""
    words: list[str] = []
    for token in without_redirections(list(lexer)):
        if token.startswith("#"):
            break
        if token in ("||", "(", ")", "&", ";;") or (not words and token in COMPOUND):
            return []
        if token == "&&":
            break
        if token and set(token) <= set(";|"):
            if not without_settings(words) or words[0] in CHANGES:
                return []
            words = []
        else:
            words.append(token)
    return [] if any(word.startswith("PATH=") for word in words) else without_settings(words)


def without_redirections(tokens: list[str]) -> Iterator[str]:
    """The tokens of sh(1) but for ``2>/dev/null`` and its like."""
    skip = False
    for at, token in enumerate(tokens):
        following = tokens[at + 1] if at + 1 < len(tokens) else ""
        if skip:
            skip = False
        elif token and set(token) <= set("<>&") and set(token) & set("<>"):
            skip = True
        elif not (token.isdigit() and following[:1] in ("<", ">")):
            yield token


def without_settings(words: list[str]) -> list[str]:
    """``words`` without the variables that are set before a program."""
    while words and "=" in words[0] and words[0].partition("=")[0].isidentifier():
        words = words[1:]
    return words


def _program(word: str, code: int, home: str) -> Suspicion | None:
    for start in ("~/", "$HOME/", "${HOME}/"):
        if word.startswith(start):
            word = "./" + word.removeprefix(start)
    if not word or word in BUILT_IN or UNKNOWABLE & set(word):
        return None
    if "/" in word:
        return _file(word, code)
    path = f"{home}/bin:{os.environ.get('PATH', '')}:{STANDARD_PATH}"
    if any(directory and _may(f"{directory}/{word}", os.X_OK) for directory in path.split(":")):
        return None
    return Suspicion(code, f"the program {word} is not there")


def _file(path: str, code: int) -> Suspicion | None:
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return Suspicion(code, f"the program {path} is not there")
    except OSError as error:
        return Suspicion(code, f"the program {path}: {error.strerror}")
    if not stat.S_ISREG(mode) or not _may(path, os.X_OK):
        return Suspicion(code, f"the program {path} may not be executed")
    interpreter = _interpreter(path)
    if interpreter is not None and not os.path.exists(interpreter):
        return Suspicion(code, f"the program {path} wants {interpreter}, which is not there")
    return None


def _interpreter(path: str) -> str | None:
    """What the first line of a script says; None where there is none, or it may not be read."""
    try:
        with open(path, "rb") as source:
            line = source.readline(256)
    except OSError:
        return None
    words = line[2:].split()
    return os.fsdecode(words[0]) if line.startswith(b"#!") and words else None
