"""$RCPTCHECK: a program that is asked about each recipient (qmail-smtpd(8)).

It finds SENDER, RECIPIENT and HELO in its environment, RCPTHOSTS=1 where the domain is ours, and USE_FD4=1: a reply of
its own, 4xx or 5xx and a text, may be written to descriptor 4. Exit codes: 100 refuses, 111 and every trouble is for
now, 112 has no opinion, 113 is a sender over a limit; any other accepts.
"""

import os
import select
import signal
import time
from collections.abc import Mapping, Sequence

from pyqmail.formats.printable import printable
from pyqmail.incoming.check import Check, Rules, Verdict
from pyqmail.incoming.client import Client
from pyqmail.incoming.letter import Letter
from pyqmail.incoming.patience import number
from pyqmail.incoming.refusals import NO_ANSWER, NOBODY, OVER_LIMIT
from pyqmail.protocol.reply import Reply
from pyqmail.system.process import WorkingIn

CHECK_S = 30.0  # from its start to its end
TEXT_MAX = 500  # bytes of its reply that count
REFUSES = 100
LATER = 111
OVER = 113
NOT_RUN = 120  # what a shell, or a launcher, ends with that could not run something


class RecipientProgram(Check):
    """Asked last, of what all other checks accept; about relay clients only if $RCPTCHECKRELAYCLIENT says so."""

    name = "RCPTCHECK"

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._program = rules.environ.get(b"RCPTCHECK", b"")
        self._all = number(rules.environ.get(b"RCPTCHECKRELAYCLIENT", b"")) > 0
        self.active = bool(self._program)

    def recipient(self, client: Client, letter: Letter, address: bytes) -> Verdict | None:
        if (client.relay is not None and not self._all) or b"\0" in address + letter.sender:
            return None
        found = {b"SENDER": letter.sender, b"RECIPIENT": address, b"HELO": (client.helo or b"").replace(b"\0", b"")}
        if self._rules.relaying.accepts(address):
            found[b"RCPTHOSTS"] = b"1"
        if client.user is not None:
            found |= {b"TCPREMOTEINFO": client.user, b"SMTPAUTHUSER": client.user, b"RELAYCLIENT": client.relay or b""}
        told = {**self._rules.environ, **found, b"USE_FD4": b"1"}
        code, text = run_program([self._program], told, self._rules.home)
        return (
            None if code is not None and code not in (REFUSES, LATER, OVER, NOT_RUN) else Verdict(reply_of(code, text))
        )


def reply_of(code: int | None, text: bytes) -> Reply:
    """What the client hears; None for ``code`` is every end but an exit."""
    line = printable(text.partition(b"\n")[0].rstrip(b"\r")[:TEXT_MAX])
    if code in (REFUSES, OVER) and line[:1] in (b"4", b"5") and line[:3].isdigit() and line[3:4] == b" ":
        return Reply(int(line[:3]), line[4:])
    return {REFUSES: NOBODY, OVER: OVER_LIMIT}.get(code or 0, NO_ANSWER)


def run_program(
    words: Sequence[bytes],
    environ: Mapping[bytes, bytes],
    directory: str = ".",
    *,
    text_fd: int = 4,
    within_s: float = CHECK_S,
) -> tuple[int | None, bytes]:
    """The exit code of a program and what it wrote to descriptor ``text_fd``, 64 KiB at most.

    The code is None if it could not be started, was killed, or has not ended in time; then its group is killed. It is
    run in ``directory``, with /dev/null on 0 and the log on 1 and 2.
    """
    until = time.monotonic() + within_s
    reading, writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    actions = (
        (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
        (os.POSIX_SPAWN_DUP2, 2, 1),
        (os.POSIX_SPAWN_DUP2, writing, text_fd),
    )
    try:
        if writing == text_fd:  # dup2 onto itself would leave it to be closed by the exec
            os.set_inheritable(writing, True)
        with WorkingIn(directory):
            child = os.posix_spawn(
                words[0], list(words), dict(environ), file_actions=actions, setpgroup=0,
                setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],
            )  # fmt: skip
    except (OSError, ValueError):
        os.close(reading)
        return None, b""
    finally:
        os.close(writing)
    try:
        return _end_of(child, reading, until)
    finally:
        os.close(reading)


def _end_of(child: int, reading: int, until: float) -> tuple[int | None, bytes]:
    """Wait for the end of ``child`` and not for that of its output, which its own children may keep open."""
    watch = os.pidfd_open(child)
    try:
        ended = bool(select.select([watch], [], [], max(0.0, until - time.monotonic()))[0])
    finally:
        os.close(watch)
    if not ended:
        os.killpg(child, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    try:
        text = os.read(reading, 65536)
    except BlockingIOError:
        text = b""
    return (code if ended and code >= 0 else None), text
