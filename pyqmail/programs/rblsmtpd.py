"""rblsmtpd: turns away clients that a DNS list names, and runs an SMTP server for all others (rblsmtpd(1), RFC 5782).

What decides, in this order: $RBLSMTPD, then each -r and -a of the command line until one does (tcp/dns_lists). A client
that is blocked talks to a small SMTP server of its own (tcp/refusing_server).
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pyqmail.formats.printable import printable
from pyqmail.options import UsageError, parse_options
from pyqmail.system.process import cannot_run, execute
from pyqmail.tcp.dns_lists import Lists, decide
from pyqmail.tcp.refusing_server import converse

USAGE = 100
FAILED = 111
TIMEOUT_S = 60

Screen = Callable[[Mapping[bytes, bytes]], int | None]


@dataclass(frozen=True, slots=True)
class Options:
    """The command line."""

    lists: Lists
    timeout_s: int
    program: tuple[bytes, ...]


def parse(argv: Sequence[bytes]) -> Options:
    """The options of a command line. Raises UsageError."""
    found, program = parse_options(argv[1:], b"bBcCRt:r:a:")
    flags = {b"b": False, b"c": False}
    timeout_s = TIMEOUT_S
    for letter, value in found:
        if letter.lower() in flags:
            flags[letter.lower()] = letter.islower()
        elif letter == b"t":
            digits = value[: len(value) - len(value.lstrip(b"0123456789"))]
            timeout_s = int(digits[:9] or b"0")
    if not program:
        raise UsageError(b"")
    bases = tuple((letter, base) for letter, base in found if letter in (b"r", b"a"))
    return Options(Lists(bases, flags[b"b"], flags[b"c"]), timeout_s, tuple(program))


def admit(options: Options, environ: Mapping[bytes, bytes]) -> int | None:
    """None if the program may have the client; else the client has been turned away: the exit code."""
    block = decide(options.lists, environ, lambda text: _note(text, environ))
    if block is None:
        return None
    _note(block.reply(), environ)
    if not tls_from_start(environ):
        converse(block.reply(), options.timeout_s)
    return 0


def tls_from_start(environ: Mapping[bytes, bytes]) -> bool:
    """Whether the client expects a handshake, which we do not make: in clear it would understand nothing."""
    from pyqmail.incoming.security import set_and_on  # few are turned away

    return set_and_on(environ, b"SMTPS") and not set_and_on(environ, b"DISABLETLS")


def screen(argv: Sequence[bytes]) -> tuple[Screen, tuple[bytes, ...]] | None:
    """For a server that runs us from memory: what to call for each connection, and the program after us."""
    try:
        options = parse(argv)
    except UsageError:
        return None  # executed, it says what is wrong
    return (lambda environ: admit(options, environ)), options.program


def _note(text: bytes, environ: Mapping[bytes, bytes]) -> None:
    _say(b"rblsmtpd: %b pid %d: %b\n" % (printable(environ.get(b"TCPREMOTEIP", b"")), os.getpid(), text))


def _say(line: bytes) -> None:
    try:
        os.write(2, line)
    except OSError:
        return


def main(argv: Sequence[bytes], environ: Mapping[bytes, bytes]) -> int:
    """0 after a client was turned away; else it becomes the program. 100 for a bad call, 111 if it cannot run."""
    try:
        options = parse(argv)
    except UsageError as error:
        if error.text:
            _say(b"rblsmtpd: " + error.text + b"\n")
        _say(b"rblsmtpd: usage: rblsmtpd [ -bBcCR ] [ -t timeout ] [ -r base ] [ -a base ] smtpd [ arg ... ]\n")
        return USAGE
    code = admit(options, environ)
    if code is not None:
        return code
    try:
        execute(options.program, environ)
    except OSError as error:
        _say(cannot_run(b"rblsmtpd", options.program[0], error))
    return FAILED
