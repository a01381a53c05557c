"""qmail-pw2u: makes users/assign from a password file on descriptor 0 (qmail-pw2u(8)).

Only a run that exits 0 has written a whole file; the final dot comes last, so qmail-newu refuses anything less.
"""

import os
from collections.abc import Mapping, Sequence

from pyqmail.admin.assign_lines import AssignError, Options, alias_name, format_assign, read_lists, read_options
from pyqmail.control import ControlUnreadable, home_of, read_knobs
from pyqmail.options import UsageError
from pyqmail.system.files import read_all, write_all

PREFIX = b"qmail-pw2u: fatal: "


def _convert(options: Options) -> None:
    lists = read_lists()
    alias = alias_name()
    try:
        passwd = read_all(0)
    except OSError:
        raise AssignError(b"unable to read input") from None
    text = b"".join(format_assign(passwd, alias, options, lists))  # all or, after trouble, nothing
    try:
        write_all(1, text)
    except OSError:
        raise AssignError(b"unable to write output") from None


def main(argv: Sequence[bytes], environ: Mapping[bytes, bytes]) -> int:
    """0; 100 for an unknown option; 111 with a line on descriptor 2."""
    home = home_of(environ)
    try:
        try:
            os.chdir(home)
            options = read_options(argv[1:], read_knobs(home).break_char)
        except OSError:
            raise AssignError(b"unable to chdir") from None
        except ControlUnreadable:
            raise AssignError(b"unable to read controls") from None
        _convert(options)
    except UsageError as usage:
        write_all(2, b"qmail-pw2u: " + usage.text + b"\n")
        return 100
    except AssignError as fatal:
        write_all(2, PREFIX + fatal.text + b"\n")
        return 111
    except MemoryError:
        write_all(2, PREFIX + b"out of memory\n")
        return 111
    return 0
