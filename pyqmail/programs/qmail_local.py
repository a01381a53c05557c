"""qmail-local: deliver one message as its owner's .qmail file says (qmail-local(8), dot-qmail(5), qmail-command(8)).

Runs cold as bin/qmail-local and inside a warm worker of qmail-lspawn; programs get an explicit environment. What is
done and how it fails is in local/delivery.
"""

import _signal
import os
from collections.abc import Mapping, Sequence

from pyqmail.exits import LocalExit
from pyqmail.failure import MailFailure, PermanentFailure
from pyqmail.local.delivery import deliver
from pyqmail.local.instructions import Arguments, Usage
from pyqmail.local.report import say
from pyqmail.options import UsageError, parse_options
from pyqmail.system.process import ignore_signals

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
    os.umask(0o077)
    ignore_signals(_signal.SIGPIPE, _signal.SIGXFSZ)  # a file too big is an error, so that an mbox is cut back
    try:
        say(1, deliver(parse_arguments(argv[1:]), environ))
        return LocalExit.DONE
    except Usage as usage:
        say(2, usage.text + USAGE)
        return LocalExit.PERMANENT
    except MailFailure as failure:
        if failure.text:
            say(2, failure.text + b"\n")
        return LocalExit.PERMANENT if isinstance(failure, PermanentFailure) else LocalExit.TEMPORARY
    except Exception as error:  # a bug or want of memory defers mail, and the log says what it was
        say(2, f"Internal trouble: {type(error).__name__}: {error}. (#4.3.0)\n".encode("utf-8", "replace"))
        return LocalExit.TEMPORARY
