"""qmail-qfilter: in the place of qmail-queue, lets filters rewrite a message and queues it (qmail-qfilter(1)).

``qmail-qfilter filter [-- filter ...]``, message on descriptor 0, envelope on 1. Both are held in files without a name
until the last filter has ended; if we or one of them die before that, nothing is queued.
"""

import os
import sys
from collections.abc import Mapping, Sequence

from pyqmail.control import home_of
from pyqmail.exits import QueueExit
from pyqmail.intake.queue_programs import hand_on, refuse
from pyqmail.protocol.qmqp_client import EnvelopeBroken, parse_envelope
from pyqmail.system.filtering import Output, Overrun, run_filter
from pyqmail.system.unnamed import open_unnamed, rest_of, store

MESSAGE, ENVELOPE_IN, ENVELOPE_OUT, PROGRAM, TEXT = 0, 3, 4, 5, 6  # descriptors of a filter, besides 1
DROP = 99  # a filter's exit code: the message is thrown away, and that is a success
FILTER_S = 300.0  # for each
GROWTH_MAX = 64 << 20  # bytes that a filter may write beyond twice the message
ENVELOPE_MAX = 64 << 20
PROGRAM_MAX = 4096  # PATH_MAX of Linux
TEXT_MAX = 1000  # bytes of what a filter tells the client
RCPTS_MAX = 98304  # bytes of $QMAILRCPTS; a string of the environment has at most 131072


class Held:
    """The message and its envelope as the last filter has left them."""

    def __init__(self, message: int, envelope: int) -> None:
        self.message = message
        self.envelope = envelope
        self.program = b""  # in place of qmail-queue
        self.text = b""  # for the client
        self.sender, self.recipients = read_envelope(envelope)

    def run(self, words: Sequence[bytes], environ: Mapping[bytes, bytes]) -> int:
        """The exit code of one filter; what it wrote is taken over if that is 0. Raises OSError, Overrun and
        EnvelopeBroken."""
        message, envelope, program, text = (open_unnamed() for _ in range(4))
        size = os.fstat(self.message).st_size
        outputs = (
            Output(1, message, 2 * size + GROWTH_MAX),
            Output(ENVELOPE_OUT, envelope, ENVELOPE_MAX),
            Output(PROGRAM, program, PROGRAM_MAX),
            Output(TEXT, text, TEXT_MAX, cut=True),
        )
        inputs = {MESSAGE: self.message, ENVELOPE_IN: self.envelope}
        code = run_filter(words, {**environ, **self._variables()}, inputs, outputs, FILTER_S)
        self.text = os.pread(text, TEXT_MAX, 0)
        if code == 0:
            if os.fstat(message).st_size:
                message, self.message = self.message, message
            if os.fstat(envelope).st_size:
                envelope, self.envelope = self.envelope, envelope
                self.sender, self.recipients = read_envelope(self.envelope)
            self.program = os.pread(program, PROGRAM_MAX, 0).partition(b"\0")[0] or self.program
        for fd in (message, envelope, program, text):
            os.close(fd)
        return code

    def _variables(self) -> dict[bytes, bytes]:
        user, at, host = self.sender.rpartition(b"@")
        names = b"".join(each + b"\n" for each in self.recipients)
        found = {
            b"QMAILUSER": user if at else host,
            b"QMAILHOST": host if at else b"",
            b"MSGSIZE": b"%d" % os.fstat(self.message).st_size,
            b"ENVSIZE": b"%d" % os.fstat(self.envelope).st_size,
            b"NUMRCPTS": b"%d" % len(self.recipients),
            b"ERROR_FD": b"%d" % TEXT,
        }
        return found | ({b"QMAILRCPTS": names} if len(names) < RCPTS_MAX else {})


def main(argv: Sequence[bytes], environ: Mapping[bytes, bytes]) -> int:
    """The exit codes are those of qmail-queue, and whatever a filter ends with that is not 0 or 99."""
    filters = commands(argv[1:])
    if not filters:
        return QueueExit.BUG
    try:
        held = Held(store(rest_of(0)), store(rest_of(1)))
    except EnvelopeBroken:
        return QueueExit.ENVELOPE_FORMAT
    except OSError:
        return QueueExit.WRITE_ERROR
    told = {name: value for name, value in environ.items() if name not in (b"QMAILNAME", b"QMAILQUEUE", b"QMAILRCPTS")}
    told[b"QMAILPPID"] = b"%d" % os.getppid()
    for words in filters:
        code = run_one(held, words, told)
        if code == DROP:
            return QueueExit.DONE
        if code:
            custom = code in (QueueExit.CUSTOM, QueueExit.CUSTOM_ERROR) and held.text
            return refuse(environ, held.text) if custom else code
    program = held.program or environ.get(b"QQF_QMAILQUEUE", b"")
    return hand_on(home_of(environ), program, environ, {0: held.message, 1: held.envelope}, without=())


def run_one(held: Held, words: Sequence[bytes], environ: Mapping[bytes, bytes]) -> int:
    """Run a filter; its exit code, or ours for one that has not come to an end of its own."""
    try:
        code = held.run(words, environ)
    except EnvelopeBroken:
        return QueueExit.ENVELOPE_FORMAT
    except (OSError, Overrun) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
    else:
        if code >= 0:
            return code
        why = f"was killed by signal {-code}"
    name = os.fsdecode(words[0]).encode("ascii", "replace").decode()
    print(f"qmail-qfilter: alert: {name}: {why}: the message is deferred", file=sys.stderr, flush=True)
    return QueueExit.BUG


def commands(words: Sequence[bytes]) -> list[list[bytes]]:
    """The filters between ``--``; none at all where one is empty."""
    found: list[list[bytes]] = [[]]
    for word in words:
        if word == b"--":
            found.append([])
        else:
            found[-1].append(word)
    return found if all(found) else []


def read_envelope(fd: int) -> tuple[bytes, list[bytes]]:
    """Sender and recipients. Raises EnvelopeBroken and OSError."""
    size = os.fstat(fd).st_size
    if size > ENVELOPE_MAX:
        raise EnvelopeBroken
    return parse_envelope(os.pread(fd, size, 0))
