"""qmail-report: a day's or a week's mail in figures, from the logs alone (qmail-report(8)).

    qmail-report [day|week] [--until YYYY-MM-DD] [--html FILE] [--mail ADDRESS] [LOG ...]

Without --html and --mail the text goes to standard output.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from pyqmail.control import Control, ControlUnreadable, home_of
from pyqmail.log.counts import add_item
from pyqmail.log.joiner import Joiner
from pyqmail.log.long_log import is_of_multilog, lines_told, sum_up
from pyqmail.log.sources import usual_logs
from pyqmail.log.twins import Twins
from pyqmail.look.report import Report
from pyqmail.look.summary import DAY_S, HOUR_S, Summary
from pyqmail.system.files import replace_file

NOTHING_UNDERSTOOD = 1
SPANS = {"day": (1, HOUR_S), "week": (7, DAY_S)}


def parse_options(words: list[str]) -> argparse.Namespace:
    """The command line; --help and mistakes end the program by themselves."""
    parser = argparse.ArgumentParser("qmail-report", description="a day's or a week's mail in figures")
    parser.add_argument("span", nargs="?", choices=tuple(SPANS), default="day")
    parser.add_argument("logs", nargs="*", metavar="LOG", help="directories or files (default: all in /var/log)")
    parser.add_argument("--until", metavar="YYYY-MM-DD", help="up to the end of that day (default: yesterday)")
    parser.add_argument("--html", metavar="FILE", help="write a page")
    parser.add_argument("--mail", metavar="ADDRESS", help="send it as text and HTML")
    parser.add_argument("--utc", action="store_true", help="days and times in UTC")
    return parser.parse_intermixed_args(words)


def bounds(span: str, until: str | None, *, utc: bool) -> tuple[float, float]:
    """The begin and the end in seconds. Raises ValueError."""
    clock = time.gmtime if utc else time.localtime
    year, month, day = clock(time.time() - DAY_S)[:3] if until is None else time.strptime(until, "%Y-%m-%d")[:3]
    days = SPANS[span][0]
    return moment(year, month, day + 1 - days, utc=utc), moment(year, month, day + 1, utc=utc)


def moment(year: int, month: int, day: int, *, utc: bool) -> float:
    """Midnight of a day, which may be none of its month."""
    fields = (year, month, day, 0, 0, 0, 0, 0, -1 if not utc else 0)
    return time.mktime(fields) - (time.timezone if utc else 0)


def read_log(log: str, make: Callable[[], Summary]) -> tuple[Summary, bool]:
    """What it says, and whether a line of it was understood. Raises OSError."""
    if is_of_multilog(log):
        found = sum_up(log, make)
        return found.counts, found.understood
    summary, joiner, twins = make(), Joiner(), Twins()
    understood = False
    for line in lines_told(log):
        parsed = twins.parse(line)
        if parsed is None:
            continue
        when, event = parsed
        understood = understood or event is not None
        for item in joiner.take(when, event):
            add_item(summary, when, item)
    return summary, understood


def main(argv: Sequence[bytes], environ: Mapping[bytes, bytes]) -> int:
    """0; 1 where no line was understood; 100 for wrong arguments; 111 when something cannot be read or sent."""
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        return _report(parse_options([os.fsdecode(word) for word in argv[1:]]), home_of(environ))
    except ValueError as error:
        return _complain(f"{error}", 100)
    except OSError as error:
        return _complain(f"{error.filename}: {error.strerror}", 111)
    except ControlUnreadable as error:
        return _complain(f"{error}", 111)
    except SystemExit as end:
        return 100 if end.code else 0
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def _report(options: argparse.Namespace, home: str) -> int:
    begin, end = bounds(options.span, options.until, utc=options.utc)
    make = partial(Summary, begin, end, SPANS[options.span][1])
    summary, understood = make(), False
    logs = options.logs or usual_logs()
    for log in logs:
        one, known = read_log(log, make)
        summary.merge(one)
        understood |= known
    if not understood:
        return _complain(f"{' '.join(logs)}: no line was understood", NOTHING_UNDERSTOOD)
    clock: Callable[[float], time.struct_time] = time.gmtime if options.utc else time.localtime
    report = Report((Control(home).me() or b"this host").decode("utf-8", "replace"), summary, clock)
    if options.html:
        replace_file(f"{options.html}.{os.getpid()}", options.html, report.html().encode("utf-8"))
    if options.mail:
        done = subprocess.run([f"{home}/bin/qmail-inject"], input=report.mail(options.mail), check=False)
        if done.returncode:
            return _complain("qmail-inject did not take the mail", 111)
    if not (options.html or options.mail):
        sys.stdout.write(report.text())
    return 0


def _complain(text: str, code: int) -> int:
    sys.stderr.write(f"qmail-report: {text}\n")
    return code
