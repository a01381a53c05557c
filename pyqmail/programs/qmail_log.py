"""qmail-log: reads the logs of qmail-send and qmail-smtpd for people (qmail-log(8)).

    qmail-log [-f] [-d | -s] [filters] [LOG | --unit NAME]
    qmail-log trace ADDRESS|NUMBER [LOG ...]

LOG is a directory of multilog or svlogd, or a file; ``-`` is standard input. One line per message, with -d one per
delivery, with -s the statistics; ``trace`` prints every line of all logs that belongs to a message.
"""

import argparse
import os
import sys
import time
from collections.abc import Iterable, Mapping, Sequence

from pyqmail.log.command_line import NO_FILTERS, filters_of, parse_options
from pyqmail.log.counts import add_item
from pyqmail.log.joiner import Delivery, Joiner, Message
from pyqmail.log.long_log import is_of_multilog, sum_up
from pyqmail.log.printer import Printer, clean
from pyqmail.log.rehearsal import Rehearsal
from pyqmail.log.sources import default_log, open_source, usual_logs
from pyqmail.log.statistics import Statistics
from pyqmail.log.trace import Trace
from pyqmail.log.twins import Twins

NOTHING_UNDERSTOOD = 1


def rehearse(options: argparse.Namespace) -> int:
    """Print whom enforcing would have refused; the exit code. Raises OSError."""
    found = Rehearsal()
    found.feed(open_source(options.log, options.unit, follow=False), options.since)
    print_table(found.lines())
    return 0


def read(options: argparse.Namespace) -> int:
    """Read to the end, or until interrupted; the exit code. Raises OSError."""
    if options.rehearsal:
        return rehearse(options)
    filters = filters_of(options)
    if options.statistics and not (options.follow or options.unit or options.log == "-") and filters == NO_FILTERS:
        log = options.log or default_log()
        if is_of_multilog(log):
            return count_all(log)
    color = options.color == "always" or (options.color == "auto" and sys.stdout.isatty())
    printer, statistics, joiner = Printer(color=color, utc=options.utc, at_once=options.follow), Statistics(), Joiner()
    unwanted, twins = Message if options.deliveries else Delivery, Twins()
    seen = understood = 0
    try:
        for line in open_source(options.log, options.unit, follow=options.follow):
            parsed = twins.parse(line)
            if parsed is None:
                continue
            when, event = parsed
            seen += 1
            understood += event is not None
            for item in joiner.take(when, event):
                if not filters.wants(when, item):
                    continue
                add_item(statistics, when, item)
                if not options.statistics and not isinstance(item, unwanted):
                    printer.show(when, item)
    except KeyboardInterrupt:
        pass
    if options.statistics:
        print_table(statistics.lines())
    sys.stdout.flush()
    return complain_of_nothing(options.log or options.unit or "the log") if seen and not understood else 0


def count_all(log: str) -> int:
    """Print the statistics of ``log``; the exit code. Raises OSError."""
    found = sum_up(log, Statistics)
    print_table(found.counts.lines())
    return complain_of_nothing(log) if found.seen and not found.understood else 0


def print_table(lines: Iterable[str]) -> None:
    """Write lines that hold strangers' names."""
    sys.stdout.write("".join(f"{clean(line)}\n" for line in lines))
    sys.stdout.flush()


def complain_of_nothing(name: str) -> int:
    """What was read was no log of qmail's."""
    sys.stderr.write(f"qmail-log: {name}: no line was understood: is this a log of qmail-send or qmail-smtpd?\n")
    sys.stderr.flush()
    return NOTHING_UNDERSTOOD


def trace(words: list[str]) -> int:
    """Print the life of the messages of an address or a number; the exit code. Raises OSError."""
    parser = argparse.ArgumentParser("qmail-log trace", description="every line that belongs to a message, by time")
    parser.add_argument("wanted", metavar="ADDRESS|NUMBER", help="part of a sender or recipient, or a msg or qp number")
    parser.add_argument("logs", metavar="LOG", nargs="*", help="directories or files (default: all in /var/log)")
    parser.add_argument("--utc", action="store_true", help="times in UTC")
    options = parser.parse_args(words)
    found, understood = Trace(options.wanted), 0
    logs = options.logs or usual_logs()
    for log in logs:
        understood += found.feed(log, open_source(log, None, follow=False))
    clock = time.gmtime if options.utc else time.localtime
    for line in found.found():
        moment = time.strftime("%Y-%m-%d %H:%M:%S", clock(line.when)) + f".{int(line.when % 1 * 1e6):06}"
        sys.stdout.write(f"{moment} {os.path.basename(line.log.rstrip('/'))} {clean(line.text)}\n")
    sys.stdout.flush()
    if found.missing:
        sys.stderr.write(f"qmail-log: {found.missing} older messages are left out\n")
    return 0 if understood else complain_of_nothing(" ".join(logs))


def main(argv: Sequence[bytes], environ: Mapping[bytes, bytes]) -> int:
    """0; 1 where no line was understood; 111 when the log cannot be read, with a line on descriptor 2."""
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    words = [os.fsdecode(word) for word in argv[1:]]
    try:
        return trace(words[1:]) if words[:1] == ["trace"] else read(parse_options(words))
    except BrokenPipeError:
        return 0  # whoever read our output has gone
    except OSError as error:
        sys.stderr.write(f"qmail-log: {error.filename}: {error.strerror}\n")
        sys.stderr.flush()
        return 111
    except SystemExit as end:
        sys.stderr.flush()
        sys.stdout.flush()
        return 100 if end.code else 0
