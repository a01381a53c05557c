"""qmail-rspamd: in the place of qmail-queue, asks rspamd about a message and queues it, or does not (qmail-rspamd(8)).

Message on descriptor 0, envelope on 1, the answer is the exit code, as with qmail-queue. The message is kept in an
unnamed file until rspamd has answered; if we die meanwhile nothing is queued.
"""

import os
import sys
from collections.abc import Mapping, Sequence

from pyqmail.control import Control, ControlUnreadable, home_of
from pyqmail.exits import QueueExit
from pyqmail.intake.client import Injection
from pyqmail.intake.rspamd import Action, NoAnswer, ask, without
from pyqmail.protocol.qmqp_client import EnvelopeBroken, parse_envelope
from pyqmail.system.files import read_all
from pyqmail.system.unnamed import pieces, rest_of, store

SIZE_MAX = 50 << 20  # bytes that are looked at: rspamd's own limit; what is larger passes
ENVELOPE_MAX = 64 << 20
RCPTS_MAX = 1000  # recipients that rspamd hears of
TEXT_FD = 6
DEFAULT = "127.0.0.1:11333"


def main(argv: Sequence[bytes], environ: Mapping[bytes, bytes]) -> int:
    """The exit codes are qmail-queue's; 82 with a text on descriptor 6 for what rspamd refuses."""
    home = home_of(environ)
    try:
        lines = Control(home).lines("rspamd") or ()
    except ControlUnreadable:
        return QueueExit.CONFIGURATION
    try:
        message = store(rest_of(0))
        sender, recipients = parse_envelope(read_all(1, ENVELOPE_MAX))
    except EnvelopeBroken:
        return QueueExit.ENVELOPE_FORMAT
    except OSError:
        return QueueExit.READ_ERROR
    where = os.fsdecode(lines[0]) if lines else DEFAULT
    action = judge(where, message, request(environ, sender, recipients), passes=b"pass" in lines[1:])
    if action.refusal:
        try:
            os.write(TEXT_FD, action.refusal)
        except OSError:
            pass
        return QueueExit.CUSTOM
    return queue(home, environ, message, action, sender, recipients)


def request(environ: Mapping[bytes, bytes], sender: bytes, recipients: Sequence[bytes]) -> list[tuple[bytes, bytes]]:
    """What rspamd is told besides the message."""
    fields = [(b"From", sender), *((b"Rcpt", each) for each in recipients[:RCPTS_MAX])]
    named = ((b"Ip", b"TCPREMOTEIP"), (b"Hostname", b"TCPREMOTEHOST"), (b"User", b"SMTPAUTHUSER"))
    return fields + [(name, environ[variable]) for name, variable in named if environ.get(variable)]


def judge(where: str, message: int, fields: Sequence[tuple[bytes, bytes]], *, passes: bool) -> Action:
    """What rspamd wants, or what is done without it."""
    size = os.fstat(message).st_size
    if size > SIZE_MAX:
        return Action(b"")
    try:
        return ask(where, fields, pieces(message), size)
    except NoAnswer as error:
        done = "passes unchecked" if passes else "is deferred"
        print(f"qmail-rspamd: alert: {where}: {error}: the message {done}", file=sys.stderr, flush=True)
        return Action(b"" if passes else b"Zspam check is not available at the moment (#4.3.0)")


def queue(
    home: str, environ: Mapping[bytes, bytes], message: int, action: Action, sender: bytes, recipients: Sequence[bytes]
) -> int:
    """Hand it on to $RSPAMDQUEUE, else to qmail-queue; its exit code."""
    further = {name: value for name, value in environ.items() if name not in (b"QMAILQUEUE", b"RSPAMDQUEUE")}
    if environ.get(b"RSPAMDQUEUE"):
        further[b"QMAILQUEUE"] = environ[b"RSPAMDQUEUE"]
    try:
        injection = Injection.open(home, further, direct=True)
    except OSError:
        return QueueExit.NO_MEMORY
    injection.write(action.added)
    try:
        for piece in without(pieces(message), action.removed):
            injection.write(piece)
    except OSError:
        injection.fail()
    answer = injection.close(sender, recipients)
    if answer.text is not None:
        try:
            os.write(TEXT_FD, answer.text)
        except OSError:
            pass
    return answer.status if answer.status >= 0 else QueueExit.BUG
