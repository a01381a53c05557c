"""qmail-showctl: says what the control files mean, or what is wrong with them (qmail-showctl(8)).

    qmail-showctl              every file, its value or default, as the original prints it
    qmail-showctl --readers    the same, and below each file which program reads it and when
    qmail-showctl --check      one line for each thing that would bite; exit 1 if there is one
    qmail-showctl --check dns [ --json ] [ domain ... ]    our domains as others see them; exit 1 if something bites
    qmail-showctl --check swap what a C qmail in this tree would bounce or send in clear; exit 1 if there is anything
    qmail-showctl --check --from DIR    what of another qmail's tree works here; exit 1 if something does not

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

USAGE = b"""\
qmail-showctl: usage: qmail-showctl [ --check [ --from DIR | swap | dns [ --json ] [ domain ... ] ] | --readers ]
"""


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


def check_from(directory: str) -> int:
    """Print what becomes of each thing in another qmail's tree; 1 when something does not work, 111 without one."""
    from pyqmail.admin import moving_in, other_run_files
    from pyqmail.admin.other_trees import Fate

    try:
        found = list(other_run_files.everything(moving_in.find_tree(directory)))
    except moving_in.NoTree as trouble:
        write_all(1, b"Oops! %s.\n" % os.fsencode(str(trouble)))
        return 111
    write_all(1, b"".join(printable(os.fsencode(each.line())) + b"\n" for each in found))
    return 1 if any(each.fate is Fate.NOT_SUPPORTED for each in found) else 0


def check_swap(home: str) -> int:
    """Print what a C qmail would bounce or send in clear; 1 when there is anything, 111 when that cannot be read."""
    from pyqmail.admin.swap import lost_lines

    try:
        lines = list(lost_lines(home))
    except ControlUnreadable as trouble:
        write_all(1, b"Oops! %s.\n" % os.fsencode(str(trouble)))
        return 111
    write_all(1, b"".join(b"qmail-showctl: swap: " + printable(os.fsencode(line)) + b"\n" for line in lines))
    return 1 if lines else 0


def check_dns(home: str, words: Sequence[bytes]) -> int:
    """Print what DNS has of our domains, or of ``words``, as it is found; 1 when something would bite, 111 without."""
    from pyqmail.admin.dnscheck.look import look

    as_json, good = words[:1] == [b"--json"], True
    try:
        for found in look(home, tuple(words[as_json:])):
            good &= found.good
            write_all(1, (found.as_json() if as_json else f"qmail-showctl: {found.line()}").encode() + b"\n")
    except (ControlUnreadable, AccountMissing, OSError) as trouble:
        write_all(1, b"Oops! %s.\n" % os.fsencode(str(trouble)))
        return 111
    return 0 if good else 1


def printable(line: bytes) -> bytes:
    """``line`` with question marks for what a terminal might obey."""
    return bytes(byte if 0x20 <= byte < 0x7F else 0x3F for byte in line)


def main(argv: Sequence[bytes], environ: Mapping[bytes, bytes]) -> int:
    """Show or check; 100 for words that are no option."""
    words = list(argv[1:])
    home = home_of(environ)
    if words in ([], [b"--readers"]):
        return show(home, readers=bool(words))
    if words == [b"--check"]:
        return check(home)
    if words == [b"--check", b"swap"]:
        return check_swap(home)
    if len(words) == 3 and words[:2] == [b"--check", b"--from"]:
        return check_from(os.fsdecode(words[2]))
    if words[:2] == [b"--check", b"dns"] and not any(word.startswith(b"-") for word in words[3:]):
        return check_dns(home, words[2:])
    write_all(2, USAGE)
    return 100
