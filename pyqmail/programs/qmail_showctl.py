"""qmail-showctl: says what the control files mean, or what is wrong with them (qmail-showctl(8)).

    qmail-showctl              every file, its value or default, as the original prints it
    qmail-showctl --readers    the same, and below each file which program reads it and when
    qmail-showctl --check      one line for each thing that would bite; exit 1 if there is one

Without options the output is the original's, byte for byte, except that a missing rcpthosts does not open the relay
here, and that files of our own are listed (where they exist) before the unknown ones.
"""

import os
from collections.abc import Mapping, Sequence

from pyqmail.admin.check import find_trouble
from pyqmail.admin.control_display import Display, DisplayEnded, facts
from pyqmail.admin.going_back import needs_of_queue
from pyqmail.control import ControlUnreadable, home_of
from pyqmail.policy.accounts import AccountMissing
from pyqmail.system.files import write_all

USAGE = b"qmail-showctl: usage: qmail-showctl [ --check | --readers ]\n"


def show(home: str, *, readers: bool) -> int:
    """Print everything; 111 when the home or its control directory cannot be entered."""
    try:
        os.stat(home + "/.")
    except OSError:
        write_all(1, b"Oops! Unable to chdir to %s.\n" % os.fsencode(home))
        return 111
    text = b""
    try:
        text = b"".join(facts(home))
        text += b"".join(Display(home, readers=readers).paragraphs())
    except DisplayEnded as end:
        write_all(1, text + end.text)
        return 111
    except (ControlUnreadable, AccountMissing) as trouble:
        write_all(1, text + b"Oops! %s.\n" % os.fsencode(str(trouble)))
        return 111
    write_all(1, text)
    return 0


def check(home: str) -> int:
    """Print what would bite, one line each; 1 when there is anything."""
    lines = find_trouble(home)
    write_all(1, b"".join(b"qmail-showctl: warning: " + os.fsencode(line) + b"\n" for line in lines))
    write_all(1, b"".join(b"qmail-showctl: note: " + os.fsencode(line) + b"\n" for line in needs_of_queue(home)))
    return 1 if lines else 0


def main(argv: Sequence[bytes], environ: Mapping[bytes, bytes]) -> int:
    """Show or check; 100 for words that are no option."""
    words = list(argv[1:])
    home = home_of(environ)
    if words in ([], [b"--readers"]):
        return show(home, readers=bool(words))
    if words == [b"--check"]:
        return check(home)
    write_all(2, USAGE)
    return 100
