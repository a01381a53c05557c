"""qmail-local: deliver one message as its owner's .qmail file says (qmail-local(8), dot-qmail(5), qmail-command(8)).

Runs cold as bin/qmail-local and inside a warm worker of qmail-lspawn; programs get an explicit environment. What is
done and how it fails is in local/delivery.
"""

import _signal
import os
from collections.abc import Mapping, Sequence

from pyqmail.exits import LocalExit
from pyqmail.failure import MailFailure, PermanentFailure
from pyqmail.local.delivery import BeforeChild, deliver, inherit
from pyqmail.local.instructions import Arguments, Usage
from pyqmail.local.report import say
from pyqmail.options import UsageError, parse_options
from pyqmail.system.process import ignore_signals

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyqmail.warm.served import Served

USAGE = b"qmail-local: usage: qmail-local [ -nN ] user homedir local dash ext domain sender defaultdelivery\n"


def parse_arguments(words: Sequence[bytes]) -> Arguments:
    """The arguments after the program name; of ``-n`` and ``-N`` the last one wins. Raises Usage."""
    try:
        options, rest = parse_options(words, b"nN")
    except UsageError as error:
        raise Usage(b"qmail-local: " + error.text + b"\n") from None
    describe = bool(options) and options[-1][0] == b"n"
    return Arguments(rest, describe=describe)


def main(argv: Sequence[bytes], environ: Mapping[bytes, bytes]) -> int:
    """Deliver one message; 0, 100 or 111 and nothing else."""
    _settle()
    code, text = run(argv, environ)
    if text:
        say(2 if code else 1, text)
    return code


def run(
    argv: Sequence[bytes],
    environ: Mapping[bytes, bytes],
    before_child: BeforeChild = inherit,
    size: int | None = None,
) -> tuple[int, bytes]:
    """Deliver one message: the exit code, and what is to be said on descriptor 1 or, of a failure, 2."""
    try:
        return LocalExit.DONE, deliver(parse_arguments(argv[1:]), environ, before_child, size)
    except Usage as usage:
        return LocalExit.PERMANENT, usage.text + USAGE
    except MailFailure as failure:
        text = failure.text + b"\n" if failure.text else b""
        return LocalExit.PERMANENT if isinstance(failure, PermanentFailure) else LocalExit.TEMPORARY, text
    except Exception as error:  # a bug or want of memory defers mail, and the log says what it was
        what = f"Internal trouble: {type(error).__name__}: {error}. (#4.3.0)\n"
        return LocalExit.TEMPORARY, what.encode("utf-8", "replace")


def _settle() -> None:
    os.umask(0o077)
    ignore_signals(_signal.SIGPIPE, _signal.SIGXFSZ)  # a file too big is an error, so that an mbox is cut back


def prepare(environ: Mapping[bytes, bytes]) -> "Served":
    """What delivers in a warm worker: it has a pipe to report to once a delivery has a child."""
    from pyqmail.system.alarm import LastingAlarm
    from pyqmail.warm.held_report import HeldReport
    from pyqmail.warm.served import Reporting

    def serve(argv: Sequence[bytes], environ: Mapping[bytes, bytes]) -> int:
        code, text = run(argv, environ, report.open, report.message_size)
        report.say(text)
        return code

    def settle() -> None:
        _settle()
        LastingAlarm().install()

    report = HeldReport()
    return Reporting(serve, report, settle)
