"""The processes beside qmail-metrics that see what it may not: the queue as qmails, logs as qmaill, keys as qmaild.

Each reads for itself and answers with figures. None of them has a socket of the network, and qmail-metrics, which has,
can read none of it (look/apart.py).
"""

import os
import time
from collections.abc import Sequence
from dataclasses import astuple

from pyqmail.admin.certificates import installed
from pyqmail.admin.queue_session import SAYS, QueueSession
from pyqmail.log.following import FollowedLog, GrowingFile, GrowingJournal
from pyqmail.log.sources import usual_logs
from pyqmail.look.families import gauge
from pyqmail.look.log_figures import LogFigures
from pyqmail.look.overview import look
from pyqmail.protocol.control import ORDERS, Request
from pyqmail.send.control_client import QueueError, Running
from pyqmail.send.control_socket import connect
from pyqmail.send.order_states import UNKNOWN
from pyqmail.spool.layout import read_layout
from pyqmail.tcp.pem import PemError

IDLE_S = 3600.0
SEND_S = 5.0  # for qmail-send to answer
RESCAN_S = 60.0  # between two looks for logs that are new
PAUSE_S = 0.5  # between two looks at logs that did not grow
RUNS, STOPPED, SILENT = STATES = ("runs", "does not run", "does not answer")


class QueueWatcher:
    """Asks the running qmail-send, and reads the queue's files when asked to."""

    def __init__(self, home: str, *, orders: bool) -> None:
        """``orders``: whether any are carried out. Raises OSError and ControlUnreadable."""
        self._home = home
        self._layout = read_layout(home)
        self._orders = orders

    def turn(self) -> float:
        """Nothing is to do."""
        return IDLE_S

    def answer(self, question: object) -> object:
        """``metrics``: the state of qmail-send and its counters; ``queue``: the messages; [order, number]: an order."""
        match question:
            case "queue":
                return self._queue()
            case [str(order), int(number)] if self._orders and order in ORDERS:
                return self._order(order, number)
            case _:
                return self._metrics()

    def _metrics(self) -> list[str]:
        try:
            running = Running(connect(self._layout.send_socket), SEND_S)
        except OSError:
            return [STOPPED, ""]
        try:
            return [RUNS, running.metrics()]
        except QueueError:
            return [SILENT, ""]
        finally:
            running.close()

    def _queue(self) -> object:
        if self._metrics()[0] == SILENT:
            return {"error": f"qmail-send {SILENT}"}
        try:
            seen = look(QueueSession(self._home, as_json=False), [])
        except (QueueError, OSError) as error:
            return {"error": str(error)}
        rows = [astuple(row) for row in seen.rows]
        return {"whole": seen.whole, "rows": rows, "held": seen.held_domains}

    def _order(self, order: str, number: int) -> str:
        """What came of it."""
        try:
            states, trouble = QueueSession(self._home, as_json=False).act(Request(order, (number,)))
        except (QueueError, OSError) as error:
            return str(error)
        return trouble or SAYS.get(states.get(number, ""), states.get(number, UNKNOWN))


class LogWatcher:
    """Follows the logs. ``named``: which; none: those in the usual places. ``unit``: the journal's instead."""

    def __init__(self, named: Sequence[str], unit: str) -> None:
        self._named = named
        self._unit = unit
        self._logs: dict[str, FollowedLog] = {}
        self._figures = LogFigures()
        self._started = time.time()
        self._scan_at = 0.0

    def turn(self) -> float:
        """Read a piece of each log."""
        now = time.monotonic()
        if now >= self._scan_at:
            self._scan_at = now + RESCAN_S
            self._scan()
        self._figures.age(now)
        grown = [self._read(log) for log in list(self._logs.values())]
        return 0.0 if any(grown) else PAUSE_S

    def _scan(self) -> None:
        if self._unit and not self._logs:
            self._add_journal()
        try:
            found = [] if self._unit else self._named or usual_logs()
        except FileNotFoundError:
            found = []
        for log in found:
            path = f"{log}/current" if os.path.isdir(log) else log
            if path not in self._logs and os.path.exists(path):
                self._logs[path] = FollowedLog(GrowingFile(path))

    def _add_journal(self) -> None:
        try:
            self._logs[self._unit] = FollowedLog(GrowingJournal(self._unit))
        except OSError:
            return  # no journal here, by now

    def _read(self, log: FollowedLog) -> bool:
        """Whether there was something."""
        found = False
        try:
            for when, event in log.events():
                found = True
                self._figures.take(log.source.name, when, event, counted=when is None or when >= self._started)
        except OSError:  # it went, and comes back with another look
            log.source.close()
            del self._logs[log.source.name]
        return found

    def answer(self, question: object) -> object:
        """The counters, and what the page shows."""
        families = [family.as_json() for family in self._figures.families()]
        return {"families": families, "page": self._figures.page(), "logs": sorted(self._logs)}


class CertificateWatcher:
    """Reads when certificates end."""

    def __init__(self, home: str) -> None:
        self._home = home

    def turn(self) -> float:
        """Nothing is to do."""
        return IDLE_S

    def answer(self, question: object) -> object:
        """A family of their ends by name, 0 for one that no client is shown."""
        ends: dict[tuple[str, ...], float] = {}
        try:
            for file in installed(self._home):
                try:
                    ends[file.name or "(default)",] = min(shown.ends.timestamp() for shown in file.read())
                except (PemError, OSError):
                    ends[file.name or "(default)",] = 0
        except OSError:
            pass
        text = "When the certificate ends; 0 for one that cannot be used."
        return gauge("pyqmail_certificate_end_timestamp_seconds", text, ("name",), ends).as_json()
