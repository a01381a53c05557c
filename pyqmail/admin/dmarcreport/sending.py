"""Which reports are due, and sending them: a report a day and domain, once (qmail-dmarcreport(8)).

    run/dmarc/YYYYMMDD        what was seen on a day
    run/dmarc/YYYYMMDD.sent   the domains whose report is in the queue, a line each, synced

A report whose domain cannot be looked up now stays due, for RETRY_DAYS days. A crash between the queue and the line
sends one report twice, with the same name and Report-ID, by which receivers know it.
"""

import calendar
import fcntl
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from pyqmail.admin.dmarcreport.letter import compress, format_letter
from pyqmail.intake.client import Injection
from pyqmail.mailauth import report_events
from pyqmail.mailauth.aggregate_report import Period, Reporter, by_domain, format_report
from pyqmail.mailauth.dmarc import look_up_record
from pyqmail.mailauth.lookups import CachedLookups, Lookups, TemporaryFailure, look_up_within
from pyqmail.mailauth.report_destinations import destinations
from pyqmail.mailauth.report_events import DAY_S, Event

RETRY_DAYS = 3  # after that what could not be sent is given up
LOOK_UPS_S = 20.0  # for one domain
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Report:
    """One that is to go out: the domain, the day, what was seen, and the addresses that take it."""

    domain: str
    period: Period
    data: bytes  # compressed XML
    recipients: tuple[bytes, ...]


class Sending:
    """The reports that are due in ``directory``. ``say`` hears what could not be done."""

    def __init__(self, home: str, environ: Mapping[bytes, bytes], reporter: Reporter, directory: str, say: Say) -> None:
        self._home = home
        self._environ = environ
        self._reporter = reporter
        self._directory = directory
        self._say = say
        self.unsent = 0  # reports that stay due

    def run(self, now_s: float) -> None:
        """Send what is due of all days before this one. Raises OSError and ControlUnreadable."""
        for day in report_events.days(self._directory):
            period = period_of(day)
            if period.end >= now_s:
                continue
            before = self.unsent
            self._day(day, period, now_s)
            if self.unsent == before or now_s - period.end > RETRY_DAYS * DAY_S:
                for name in (day, day + ".sent"):
                    try:
                        os.unlink(f"{self._directory}/{name}")
                    except FileNotFoundError:
                        continue

    def reports(self, day: str, sent: frozenset[str] = frozenset()) -> Iterator[Report]:
        """Those of a day whose domains want them, but for ``sent``. Raises OSError and ControlUnreadable."""
        period = period_of(day)
        for domain, counts in by_domain(report_events.read(f"{self._directory}/{day}")).items():
            if domain in sent:
                continue
            try:
                report = self._report(domain, counts, period, CachedLookups(look_up_within(self._home, LOOK_UPS_S)))
            except TemporaryFailure:
                self.unsent += 1
                self._say(f"{domain}: no answer about its record or addresses")
                continue
            if report is not None:
                yield report

    def _report(self, domain: str, counts: Counter[Event], period: Period, lookups: Lookups) -> Report | None:
        """Raises TemporaryFailure."""
        record = look_up_record(lookups, domain.encode("ascii", "replace"))
        if record is None:
            return None  # it asks for none any more
        data = compress(format_report(record, counts, period, self._reporter))
        found = destinations(record, lookups)
        if not found:
            return None
        return Report(domain, period, data, tuple(each.address for each in found))

    def _day(self, day: str, period: Period, now_s: float) -> None:
        fd = os.open(f"{self._directory}/{day}.sent", os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)  # two at once would send each report twice
            sent = frozenset(os.pread(fd, os.fstat(fd).st_size, 0).decode("ascii", "replace").split())
            for report in self.reports(day, sent):
                if self._queue(report, now_s):
                    os.write(fd, report.domain.encode("ascii", "replace") + b"\n")
                    os.fsync(fd)
        finally:
            os.close(fd)

    def _queue(self, report: Report, now_s: float) -> bool:
        """Whether the queue has it."""
        letter = format_letter(report.domain, report.data, report.period, self._reporter, report.recipients, now_s)
        injection = Injection.open(self._home, self._environ)
        injection.write(letter)
        letter_of, text = injection.close(self._reporter.email.encode(), report.recipients).letter_text()
        if letter_of != b"K":
            self.unsent += 1
            self._say(f"{report.domain}: {text.decode('ascii', 'replace')}")
        return letter_of == b"K"


def period_of(day: str) -> Period:
    """A day YYYYMMDD, in UTC; the last day that there is none of is the first of 1970."""
    try:
        begin = calendar.timegm(time.strptime(day, "%Y%m%d"))
    except ValueError:
        begin = 0
    return Period(begin, begin + DAY_S - 1)
