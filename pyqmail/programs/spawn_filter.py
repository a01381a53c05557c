"""spawn-filter: in the place of qmail-local or qmail-remote, filters a message and then becomes that (spawn-filter(8)).

$QMAILLOCAL and $QMAILREMOTE of qmail-start name it. The message is held in a file without a name until its filters have
ended; if we or one of them die before that, nothing is delivered and qmail-send tries again.
"""

import os
import shlex
from collections.abc import Mapping, Sequence
from typing import NoReturn

from pyqmail.control import Control, ControlUnreadable, home_of
from pyqmail.exits import LocalExit, QueueExit
from pyqmail.formats.printable import printable
from pyqmail.policy import delivery_filters
from pyqmail.policy.delivery_filters import LOCAL, Delivery, with_variables
from pyqmail.system.filtering import Output, Overrun, run_filter
from pyqmail.system.unnamed import open_unnamed

FILTER_S = 300.0  # for each of two
GROWTH_MAX = 64 << 20  # bytes that a filter may write beyond twice the message
TEXT_MAX = 1000  # bytes of what a filter says
TEXT_FD = 6
DROP, REJECT = 2, 100  # a filter's exit codes
OWN = (b"FILTERARGS", b"SPAMFILTER", b"QMAILLOCAL", b"QMAILREMOTE")  # or what is run next would filter again
SUCCESS, FAILURE, DEFERRAL = b"K", b"D", b"Z"


class Ended(Exception):
    """The delivery is over before qmail-local or qmail-remote has run."""

    def __init__(self, letter: bytes, text: bytes) -> None:
        super().__init__(text)
        self.letter = letter
        self.text = text


def main(argv: Sequence[bytes], environ: Mapping[bytes, bytes]) -> int:
    """The exit codes and reports of qmail-local or of qmail-remote."""
    delivery = delivery_filters.parse_delivery(argv, environ)
    if delivery is None:
        return LocalExit.TEMPORARY
    home = home_of(environ)
    try:
        os.chdir(home)
        delivery.domain = delivery.domain or Control(home).line("defaultdomain") or b""
        spam_filter, variables = setting(home, "spamfilter", delivery, environ)
        if spam_filter:
            judge_spam(home, spam_filter, delivery, with_variables(environ, variables))
        command, variables = setting(home, "filterargs", delivery, environ)
        if command:
            pass_through(command, delivery, with_variables(environ, variables))
        deliver(delivery, environ)
    except ControlUnreadable as error:
        return report(delivery, DEFERRAL, f"unable to read {error} (#4.3.0)".encode("ascii", "replace"))
    except OSError as error:
        return report(delivery, DEFERRAL, (error.strerror or "system trouble").encode() + b" (#4.3.0)")
    except Ended as ended:
        return report(delivery, ended.letter, ended.text)


def setting(
    home: str, name: str, delivery: Delivery, environ: Mapping[bytes, bytes]
) -> tuple[bytes, dict[bytes, bytes]]:
    """What the variable ``name`` says, else a line for this delivery, and what that sets. Raises ControlUnreadable."""
    variable = name.upper().encode()
    if variable in environ:
        return environ[variable], {}
    value = delivery_filters.find_value(Control(home).lines(name) or (), delivery, regular=b"QREGEX" in environ)
    return delivery_filters.split_variables(value)


def judge_spam(home: str, command: bytes, delivery: Delivery, environ: Mapping[bytes, bytes]) -> None:
    """Let a program say whether the message is spam; what it writes is delivered. Raises Ended."""
    spam, ham, unsure = (
        number(environ.get(name, b"")) for name in (b"SPAMEXITCODE", b"HAMEXITCODE", b"UNSUREEXITCODE")
    )
    if spam is None:
        raise Ended(DEFERRAL, b"SPAMEXITCODE is not set (#4.3.5)")
    words = [os.fsencode(word) for word in shlex.split(os.fsdecode(command))]
    code, _ = run(words, delivery, environ)
    if code not in (spam, 1 if ham is None else ham, 2 if unsure is None else unsure):
        raise Ended(DEFERRAL, command + b": exit code %d (#4.3.0)" % code)
    rejects = setting(home, "rejectspam", delivery, environ)[0] if code == spam else b""
    if rejects[:1] == b"1":
        raise Ended(FAILURE, b"SPAM or junk mail threshold exceeded (#5.7.1)")
    if rejects[:1] > b"0":
        raise Ended(SUCCESS, b"blackholed by " + command)


def pass_through(command: bytes, delivery: Delivery, environ: Mapping[bytes, bytes]) -> None:
    """Let a command of a shell write the message that is delivered. Raises Ended."""
    code, text = run([b"/bin/sh", b"-c", command], delivery, environ)
    if code == DROP:
        raise Ended(SUCCESS, b"blackholed by " + command)
    if code == REJECT:
        raise Ended(FAILURE, b"Mail Rejected (#5.7.1)")
    if code in (QueueExit.CUSTOM, QueueExit.CUSTOM_ERROR) and text[:1] in (FAILURE, DEFERRAL):
        raise Ended(text[:1], text[1:])
    if code:
        raise Ended(DEFERRAL, command + b": exit code %d" % code + (b": " + text if text else b"") + b" (#4.3.0)")


def run(words: Sequence[bytes], delivery: Delivery, environ: Mapping[bytes, bytes]) -> tuple[int, bytes]:
    """A filter's exit code and what it said; descriptor 0 is then what it wrote, if that is anything.

    Raises Ended and OSError.
    """
    message, text = open_unnamed(), open_unnamed()
    outputs = (
        Output(1, message, 2 * os.fstat(0).st_size + GROWTH_MAX),
        Output(TEXT_FD, text, TEXT_MAX, cut=True),
    )
    further = {name: value for name, value in environ.items() if name not in OWN[:2]}
    further |= delivery.variables | {b"ERROR_FD": b"%d" % TEXT_FD}
    try:
        code = run_filter(words, further, {0: 0}, outputs, FILTER_S)
    except Overrun as error:
        raise Ended(DEFERRAL, words[-1] + b": " + str(error).encode() + b" (#4.3.0)") from error
    if code < 0:
        raise Ended(DEFERRAL, words[-1] + b": killed by signal %d (#4.3.0)" % -code)
    if os.fstat(message).st_size:
        os.dup2(message, 0)
    said = os.pread(text, TEXT_MAX, 0)
    for fd in (message, text):
        os.close(fd)
    return code, said


def deliver(delivery: Delivery, environ: Mapping[bytes, bytes]) -> NoReturn:
    """Become qmail-local or qmail-remote, or what stands in their place. Raises OSError."""
    name, variable = (b"qmail-local", b"QLOCAL") if delivery.place == LOCAL else (b"qmail-remote", b"QREMOTE")
    program = environ.get(variable) or b"bin/" + name
    os.lseek(0, 0, os.SEEK_SET)
    further = {key: value for key, value in environ.items() if key not in OWN}
    os.execve(program, [name, *delivery.arguments], further)


def report(delivery: Delivery, letter: bytes, text: bytes) -> int:
    """Say how the delivery has ended as the program in whose place we are would; the exit code."""
    line = printable(text[:TEXT_MAX])
    if delivery.place == LOCAL:
        os.write(1, line + b"\n")
        return {SUCCESS: LocalExit.DONE, FAILURE: LocalExit.PERMANENT}.get(letter, LocalExit.TEMPORARY)
    accepted = b"r\0" * len(delivery.arguments[2:]) if letter == SUCCESS else b""
    os.write(1, accepted + letter + line + b"\n\0")
    return 0


def number(text: bytes) -> int | None:
    """An exit code; None where there is none."""
    return int(text) if text.isdigit() and len(text) < 4 else None
