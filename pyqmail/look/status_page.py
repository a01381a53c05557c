"""The status page of qmail-metrics: HTML that needs no script and nothing from elsewhere (qmail-metrics(8)).

Its charts are drawn here, as SVG: so the page works under a policy that allows no script at all, in a browser without
any, and has no library to be kept up to date. What strangers wrote is escaped and without control characters.
"""

import time
from collections.abc import Iterator

from pyqmail.log.printer import duration
from pyqmail.log.tables import RESULTS
from pyqmail.look.charts import bars
from pyqmail.look.dns_part import dns_part
from pyqmail.look.overview import Row
from pyqmail.look.queue_look import QueueState
from pyqmail.look.report import part, size
from pyqmail.look.status_figures import HOUR_S, StatusFigures
from pyqmail.look.watchers import RUNS
from pyqmail.look.web_page import REFRESH_S, document, hidden, key, short, table, text

ROWS, DOMAINS, FAILURES = 200, 15, 15
DAY_S = 86400
SOON_DAYS = 14  # a certificate that ends so soon is marked
ORDERS = ("retry", "hold", "release", "bounce", "delete")


class StatusPage:
    """The page of one moment. ``full``: senders and answers are shown; ``secret``: orders may be given."""

    def __init__(self, host: str, figures: StatusFigures, queue: QueueState, now: float, *, full: bool) -> None:
        self._host = host
        self._figures = figures
        self._queue = queue
        self._now = now
        self._full = full

    def html(self, wanted: str, secret: str, *, live: bool, login: bool) -> bytes:
        """With the messages that ``wanted`` is found in. ``login``: there is a token that could be shown."""
        parts = [f"<h1>Mail of {text(self._host)}</h1>", *self._banner(), *_navigation(secret, live=live, login=login)]
        parts += ['<div class="figures">', *(_figure(*figure) for figure in self.figures()), "</div>"]
        parts += ['<div class="charts">', *self._charts(), "</div>"]
        parts += [*self._certificates(), *dns_part(self._figures.dns)]
        parts += [*self._domains(), *self._failures(), *self._messages(wanted, secret)]
        return document(f"Mail of {self._host}", parts, refresh=live)

    def _banner(self) -> Iterator[str]:
        moment = time.strftime("%Y-%m-%d %H:%M:%S %Z", time.localtime(self._now))
        if self._figures.state != RUNS:
            yield f'<p class="down">qmail-send {text(self._figures.state)}: nothing is delivered.</p>'
        yield f'<p class="note">{text(moment)}; qmail-send {text(self._figures.state)}.</p>'

    def figures(self) -> Iterator[tuple[str, str]]:
        """Value and name of the numbers at its head."""
        found = self._figures
        if found.state == RUNS:
            yield f"{found.value('pyqmail_queue_messages'):.0f}", "messages in the queue"
            yield duration(found.value("pyqmail_queue_oldest_age_seconds")), "age of the oldest"
            yield f"{found.value('pyqmail_queue_held'):.0f}", "held"
            for channel in ("local", "remote"):
                limit = found.value("pyqmail_delivery_limit", channel)
                yield f"{found.value('pyqmail_deliveries_running', channel):.0f} / {limit:.0f}", f"{channel} deliveries"
        for name in (*RESULTS, "accepted", "refused"):
            yield f"{found.total(name, HOUR_S)}", f"{name}, last hour"
        accepted = found.total("accepted")
        yield part(found.total("encrypted"), accepted), "with TLS, last day"
        yield part(found.total("authenticated"), accepted), "authenticated, last day"

    def _charts(self) -> Iterator[str]:
        labels = [time.strftime("%H:%M", time.localtime(begin)) for begin, _ in self._figures.steps]
        for title, names in (("Deliveries in ten minutes", RESULTS), ("At the doors in ten minutes", _DOORS)):
            series = [(name, [counts[name] for _, counts in self._figures.steps]) for name in names]
            yield f"<div><h2>{title}</h2>{key(names)}{bars(title, labels, series)}</div>"
        classes = self._figures.delays
        if any(count for _, count in classes):
            title = "Recipients by delay, since qmail-send started"
            drawn = bars(title, [name for name, _ in classes], [("success", [count for _, count in classes])])
            yield f"<div><h2>{title}</h2>{drawn}</div>"

    def _certificates(self) -> Iterator[str]:
        if not self._figures.certificates:
            return
        yield "<h2>Certificates</h2><p>"
        for name, ends in self._figures.certificates:
            days = int((ends - self._now) // DAY_S)
            mark = ' class="bad"' if days < SOON_DAYS else ""
            said = f"{days} days left" if days >= 0 else "has ended" if ends else "cannot be used"
            yield f"{text(name)}: <b{mark}>{said}</b><br>"
        yield "</p>"

    def _domains(self) -> Iterator[str]:
        rows = [
            (*(f"{counts[result]}" for result in RESULTS), name) for name, counts in self._figures.domains[:DOMAINS]
        ]
        yield from table("Domains", (*RESULTS, "domain"), rows)

    def _failures(self) -> Iterator[str]:
        rows = [
            (time.strftime("%m-%d %H:%M:%S", time.localtime(when)), result, domain, *((answer,) if self._full else ()))
            for when, result, domain, answer in self._figures.failures[:FAILURES]
        ]
        heads = ("when", "result", "domain", *(("answer",) if self._full else ()))
        yield from table("Last failures and deferrals", heads, rows, numbers=0)

    def _messages(self, wanted: str, secret: str) -> Iterator[str]:
        queue = self._queue
        yield "<h2>Queue</h2>"
        if queue.error:
            yield f"<p>{text(queue.error)}</p>"
            return
        if queue.held_domains:
            yield f"<p>Held domains: {text(', '.join(queue.held_domains))}</p>"
        rows = sorted((row for row in queue.rows if found_in(row, wanted, full=self._full)), key=lambda row: -row.age_s)
        yield '<form action="/" method="get" role="search"><input type="search" name="q" aria-label="search"'
        yield f' value="{text(wanted)}"> <button>Search</button></form>'
        read = "" if len(queue.rows) == queue.whole else f" of the {len(queue.rows)} that were read"
        yield f"<p>{len(rows)} messages{read}; {queue.whole} in the queue, {self._now - queue.at:.0f} s ago."
        yield f" The oldest {ROWS} are shown.</p>" if len(rows) > ROWS else "</p>"
        if not self._full:
            yield '<p class="note">Senders and answers are shown by TLS, and on a Unix socket.</p>'
        heads = "".join(f"<th>{name}</th>" for name in (*_HEADS, *(_FULL_HEADS if self._full else ())))
        yield f'<div class="wide"><table class="queue"><thead><tr>{heads}<th></th></tr></thead><tbody>'
        for row in rows[:ROWS]:
            cells = zip((*_HEADS, *_FULL_HEADS), row_cells(row, full=self._full), strict=False)
            yield "<tr>" + "".join(f'<td data-name="{name}"{short(cell)}>{text(cell)}</td>' for name, cell in cells)
            yield f"<td>{order_form(row.number, secret)}</td></tr>" if secret else "<td></td></tr>"
        yield "</tbody></table></div>"


_DOORS = ("accepted", "refused")
_HEADS = ("message", "state", "age", "size", "left", "tries", "next", "domains")
_FULL_HEADS = ("sender", "last answer")


def found_in(row: Row, wanted: str, *, full: bool) -> bool:
    """Whether ``wanted`` stands in what is shown of ``row``, whatever the case."""
    return any(wanted.lower() in cell.lower() for cell in row_cells(row, full=full))


def row_cells(row: Row, *, full: bool) -> tuple[str, ...]:
    """What is shown of a message."""
    due = "-" if row.next_s is None else "now" if row.next_s <= 0 else duration(row.next_s)
    domains = ", ".join(row.domains[:5]) + (" ..." if len(row.domains) > 5 else "")
    cells = (f"{row.number}", row.state, duration(row.age_s), size(row.size), f"{row.left}", f"{row.attempts}", due)
    return (*cells, domains, *((row.sender or "<>", row.reply) if full else ()))


def order_form(number: int, secret: str) -> str:
    """A choice of orders for a message, each of which is asked for once more."""
    buttons = "".join(f'<button name="order" value="{order}">{order}</button>' for order in ORDERS)
    return f'<form action="/confirm" method="post">{hidden(secret=secret, id=str(number))}{buttons}</form>'


def _navigation(secret: str, *, live: bool, login: bool) -> Iterator[str]:
    links = '<a href="/">stop</a>' if live else f'<a href="/?live=1">again every {REFRESH_S} s</a>'
    if secret:
        links += f' <form action="/logout" method="post">{hidden(secret=secret)}<button>log out</button></form>'
    elif login:
        links += ' <a href="/login">log in to give orders</a>'
    yield f'<nav>{links} <a href="/metrics">metrics</a></nav>'


def _figure(value: str, name: str) -> str:
    return f"<div><b>{text(value)}</b>{text(name)}</div>"
