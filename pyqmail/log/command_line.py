"""The command line of qmail-log (qmail-log(8))."""

import argparse
import time

from pyqmail.log.filters import Filters

NO_FILTERS = Filters("", "", "", "", "", None, None)


def parse_options(words: list[str]) -> argparse.Namespace:
    """The command line; --help and mistakes end the program by themselves."""
    parser = argparse.ArgumentParser("qmail-log", description="read qmail's logs: a line for each message or delivery")
    parser.add_argument(
        "log", nargs="?", help="a directory of multilog or svlogd, a file, or - (default: /var/log/...)"
    )
    parser.add_argument("--unit", help="read the journal of this systemd unit")
    parser.add_argument("-f", "--follow", action="store_true", help="go on with what is added")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("-d", "--deliveries", action="store_true", help="a line for each delivery")
    what.add_argument("--rehearsal", action="store_true", help="whom checks that only say would refuse, by domain")
    what.add_argument("-s", "--statistics", action="store_true", help="only the statistics")
    parser.add_argument("--sender", default="", help="messages whose sender holds this")
    parser.add_argument("--recipient", default="", help="messages and deliveries whose recipient holds this")
    parser.add_argument("--address", default="", help="either of the two")
    parser.add_argument("--host", default="", help="a recipient's domain, a server's answer, or a client's address")
    parser.add_argument("--id", type=int, dest="number", help="the message number, or the qp number")
    results = ("success", "failure", "deferral", "accepted", "refused")
    parser.add_argument("--result", default="", choices=results)
    parser.add_argument(
        "--since", type=moment, help="YYYY-MM-DD or YYYY-MM-DDTHH:MM:SS, or seconds as 3600s, 60m, 2h, 1d"
    )
    parser.add_argument("--utc", action="store_true", help="times in UTC")
    parser.add_argument("--color", choices=("auto", "always", "never"), default="auto")
    return parser.parse_args(words)


def moment(text: str) -> float:
    """A time on the clock, or so long ago. Raises ValueError."""
    units = {"s": 1, "m": 60, "h": 3600, "d": 86400}
    if text[-1:] in units:
        return time.time() - float(text[:-1]) * units[text[-1]]
    form = "%Y-%m-%dT%H:%M:%S" if "T" in text else "%Y-%m-%d"
    return time.mktime(time.strptime(text, form))


def filters_of(options: argparse.Namespace) -> Filters:
    """What is wanted."""
    return Filters(
        options.sender, options.recipient, options.address, options.host, options.result, options.number, options.since
    )
