"""qmail-top: the queue, deliveries, flow and failures in a terminal, and qmail-q's orders by keys (qmail-top(8)).

qmail-top [--once] [--interval SECONDS] [LOG ...]
"""

import argparse
import os
import sys
from collections.abc import Mapping, Sequence

from pyqmail.admin.queue_session import QueueSession
from pyqmail.control import ControlUnreadable, home_of
from pyqmail.log.sources import usual_logs
from pyqmail.look.overview import look
from pyqmail.look.overview_text import lines
from pyqmail.policy.accounts import AccountMissing
from pyqmail.send.control_client import QueueError

INTERVAL_S = 2.0


def parse_options(words: list[str]) -> argparse.Namespace:
    """The command line; --help and mistakes end the program by themselves."""
    parser = argparse.ArgumentParser("qmail-top", description="the queue, deliveries, flow and failures, live")
    parser.add_argument("--once", action="store_true", help="print it once, 80 columns wide or as $COLUMNS says")
    parser.add_argument("--interval", type=float, default=INTERVAL_S, metavar="SECONDS", help="between two looks")
    parser.add_argument("logs", nargs="*", metavar="LOG", help="for flow and failures (default: all in /var/log)")
    return parser.parse_args(words)


def logs_of(given: list[str]) -> list[str]:
    """The logs to read; none is no fault."""
    if given:
        return given
    try:
        return usual_logs()
    except FileNotFoundError:
        return []


def run(options: argparse.Namespace, home: str) -> None:
    """Print once, or show until q. Raises QueueError, OSError, ControlUnreadable and AccountMissing."""
    logs = logs_of(options.logs)
    if options.once:
        columns = os.environ.get("COLUMNS", "80")
        width = max(40, min(1000, int(columns))) if columns.isdigit() else 80
        found = look(QueueSession(home, as_json=False), logs)
        sys.stdout.write("".join(f"{line}\n" for line in lines(found, width)))
        return
    from pyqmail.look.top import TopApp  # textual takes its time, and may not be installed

    TopApp(
        lambda: look(QueueSession(home, as_json=False), logs),
        lambda request: QueueSession(home, as_json=False).act(request),
        max(0.2, options.interval),
    ).run()


def main(argv: Sequence[bytes], environ: Mapping[bytes, bytes]) -> int:
    """0; 100 for wrong arguments; 111 when the queue cannot be read, with a line on descriptor 2."""
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        run(parse_options([os.fsdecode(word) for word in argv[1:]]), home_of(environ))
    except (QueueError, AccountMissing, ControlUnreadable) as error:
        return _complain(str(error))
    except BrokenPipeError:
        return 0
    except OSError as error:
        return _complain(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    except SystemExit as end:
        return 100 if end.code else 0
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return 0


def _complain(text: str) -> int:
    sys.stderr.write(f"qmail-top: {text}\n")
    return 111
