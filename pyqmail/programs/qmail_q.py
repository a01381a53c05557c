"""qmail-q: look at the queue and act on it, whether qmail-send runs or not (qmail-q(8)).

    qmail-q [--json] list [DOMAIN]
    qmail-q [--json] show ID...
    qmail-q [--json] retry ID...|DOMAIN...|all
    qmail-q [--json] hold|release ID...|DOMAIN...
    qmail-q [--json] delete|bounce ID...
    qmail-q [--json] xfer [NODE]

What is shown is read from the queue's files, and from the running qmail-send what only it knows: when each message is
due, and which one is being delivered. What is ordered is qmail-send's to do; only on a stopped queue it is done here.
"""

import os
from collections.abc import Mapping, Sequence

from pyqmail.admin.queue_session import TROUBLE, USAGE, QueueSession, say
from pyqmail.control import ControlUnreadable, home_of
from pyqmail.policy.accounts import AccountMissing
from pyqmail.protocol import control
from pyqmail.send.control_client import QueueError

USAGE_TEXT = (
    "usage: qmail-q [--json] list [DOMAIN] | show ID... | retry ID...|DOMAIN...|all |"
    " hold|release ID...|DOMAIN... | delete|bounce ID... | xfer [NODE]\n"
)


class Misuse(Exception):
    """The command line is none."""


def _targets(words: list[str]) -> tuple[tuple[int, ...], list[bytes]]:
    """Message numbers and domains among ``words``. Raises Misuse."""
    numbers, domains = [], []
    for word in words:
        digits = word.removeprefix("#")
        if digits.isascii() and digits.isdigit() and len(digits) <= 19 and 0 < int(digits) < control.NUMBER_MAX:
            numbers.append(int(digits))
        elif word and "@" not in word and not word.isdigit() and word.isprintable() and not set(word) & set(" #/"):
            domains.append(os.fsencode(word).lower())
        else:
            raise Misuse
    return tuple(numbers), domains


def run(words: list[str], home: str) -> int:
    """Do what the words after the program's name say. Raises Misuse, QueueError, OSError."""
    as_json = bool(words) and words[0] == "--json"
    do, *rest = words[as_json:] or [""]
    if do == "xfer":
        if len(rest) > 1:
            raise Misuse
        session = QueueSession(home, as_json=as_json)
        with session.as_send:
            return session.drain(home, rest[0] if rest else None)
    everything = do == "retry" and rest == ["all"]
    numbers, domains = _targets([] if everything else rest)
    if do == "list":
        understood = not numbers and len(domains) <= 1
    elif do in ("show", "delete", "bounce"):
        understood = bool(numbers) and not domains
    else:
        understood = do in control.ORDERS and bool(everything or numbers or domains)
    if not understood:
        raise Misuse
    session = QueueSession(home, as_json=as_json)
    with session.as_send:
        if do == "list":
            return session.list_all(domains[0] if domains else None)
        if do == "show":
            return session.show(numbers)
        return session.order(do, numbers, domains, everything=everything)


def main(argv: Sequence[bytes], environ: Mapping[bytes, bytes]) -> int:
    """0 when all is done, 1 if a message is unknown or in the wrong state, 100 for misuse, 111 for trouble."""
    try:
        return run([os.fsdecode(word) for word in argv[1:]], home_of(environ))
    except Misuse:
        say(2, USAGE_TEXT)
        return USAGE
    except BrokenPipeError:
        return TROUBLE
    except (QueueError, AccountMissing, ControlUnreadable) as trouble:
        say(2, f"qmail-q: {trouble}\n")
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        say(2, f"qmail-q: {place}{error.strerror or error}\n")
    return TROUBLE
