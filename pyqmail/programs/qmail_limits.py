"""qmail-limits: shows what users and relay clients have sent of what they may, and forgets it (qmail-limits(8)).

qmail-limits [NAME]           the counters of a user, an address or a network; of all
qmail-limits --reset NAME     start from nothing
"""

import os
from collections.abc import Mapping, Sequence

from pyqmail.admin.counters import NoAnswer, read_counters, read_limits, reset, rows
from pyqmail.control import ControlUnreadable, home_of
from pyqmail.system import files

DONE, NOTHING, USAGE, TROUBLE = 0, 1, 100, 111


def main(argv: Sequence[bytes], environ: Mapping[bytes, bytes]) -> int:
    """Do what the arguments say: 0; 1 where there is no such counter, 100 for a usage, 111 for any trouble."""
    words, home = list(argv[1:]), home_of(environ)
    try:
        if len(words) == 2 and words[0] == b"--reset":
            return DONE if reset(home, words[1].lower()) else NOTHING
        if len(words) > 1 or words[:1] == [b""] or words[0:1] and words[0].startswith(b"-"):
            return complain("usage: qmail-limits [NAME], or qmail-limits --reset NAME", USAGE)
        counters = [counter for counter in read_counters(home) if not words or counter.key == words[0].lower()]
        files.write_all(1, b"".join(row + b"\n" for row in rows(counters, read_limits(home))))
        return DONE if counters or not words else NOTHING
    except NoAnswer:
        return complain("fatal: qmail-stated does not answer: it runs where there is control/relaylimits", TROUBLE)
    except (OSError, ControlUnreadable) as error:
        return complain(f"fatal: {error}", TROUBLE)


def complain(text: str, code: int) -> int:
    """Say it on descriptor 2; ``code``."""
    os.write(2, f"qmail-limits: {text}\n".encode("utf-8", "replace"))
    return code
