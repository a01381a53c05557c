"""Lines that splogger cut into several entries, put together again (splogger(8), qmail-log(5)).

    1795440902.123456 starting delivery ...      the first entry of a line, 799 bytes of it
    1795440902.123456+...                        each further one, with the same time

Before them may stand what syslog adds. Entries of other programs may come between.
"""

import re
from collections.abc import Iterable, Iterator

ENTRY = 799  # bytes of a line that goes on: splogger's
HELD_MAX = 16  # lines that wait for their rest, of several sploggers
_ENTRY = re.compile(r"(?:^|[^{]*?: )(\d{9,11}\.\d{6})([ +])(.*)", re.DOTALL)


def whole_lines(lines: Iterable[str]) -> Iterator[str]:
    """``lines`` with the parts of each in one. Only a line that may go on waits for the next ones."""
    held: dict[str, str] = {}
    for line in lines:
        match = _ENTRY.match(line) if held or len(line) > ENTRY else None
        if match is None:
            yield line
            continue
        stamp, mark, text = match.groups()
        text = text.rstrip("\r\n")
        if mark == "+" and stamp in held:
            line = held.pop(stamp) + text + "\n"
        elif stamp in held:
            yield held.pop(stamp) + "\n"
        if len(text) < ENTRY:
            yield line
            continue
        held[stamp] = line.rstrip("\r\n")
        if len(held) > HELD_MAX:
            yield held.pop(next(iter(held))) + "\n"
    yield from (line + "\n" for line in held.values())
