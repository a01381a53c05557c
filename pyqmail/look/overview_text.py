"""The overview as lines for a terminal of 80 columns, for scripts too (qmail-top(8), --once)."""

import time
from collections.abc import Iterator

from pyqmail.log.printer import duration
from pyqmail.look.overview import FLOW_S, Overview, Row

DOMAINS, FAILURES = 8, 5


def head_lines(overview: Overview, width: int = 80) -> Iterator[str]:
    """The state of qmail-send, the queue in figures, and the flow."""
    moment = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(overview.now))
    yield f"{moment}  qmail-send {'runs' if overview.running else 'DOES NOT RUN'}"
    part = "" if len(overview.rows) == overview.whole else f", figures of the first {len(overview.rows)}"
    states = ", ".join(f"{count} {state}" for state, count in overview.states().items())
    yield cut(f"queue   {overview.whole} messages{part}{': ' if states else ''}{states}", width)
    yield cut("ages    " + ", ".join(f"{name} {count}" for name, count in overview.ages().items()), width)
    running = ", ".join(f"{channel} {number}" for channel, number in overview.delivering[:6])
    more = "" if len(overview.delivering) <= 6 else " ..."
    yield cut(f"running {len(overview.delivering)} deliveries{': ' if running else ''}{running}{more}", width)
    if overview.held_domains:
        yield cut("held    " + ", ".join(overview.held_domains), width)
    flow = overview.flow
    if flow is None:
        yield "flow    no log was found"
        return
    doors = [("in", flow.accepted), ("refused", flow.refused), ("limits hit", flow.limited), ("ended", flow.messages)]
    results = [(name, flow.results[name]) for name in ("success", "deferral", "failure")]
    for name, counts in (("flow", doors), ("results", results)):
        rates = ", ".join(f"{what} {flow.per_minute(count):.1f}" for what, count in counts)
        yield cut(f"{name:<7} a minute, in {duration(FLOW_S)}: {rates}", width)


def lines(overview: Overview, width: int = 80) -> Iterator[str]:
    """All of it."""
    yield from head_lines(overview, width)
    domains = overview.domains(DOMAINS)
    if domains:
        yield ""
        yield "messages  domain"
        for domain, count in domains:
            yield cut(f"{count:>8}  {domain}", width)
    if overview.rows:
        yield ""
        yield f"{'message':>10} {'state':<10} {'age':>8} {'left':>5} {'tries':>5} {'next':>8}  domains, last answer"
        for row in oldest(overview, FAILURES):
            yield cut(row_line(row), width)
    failures = list(overview.flow.failures)[-FAILURES:] if overview.flow is not None else []
    if failures:
        yield ""
        yield "last failures"
        for failure in failures:
            moment = time.strftime("%H:%M:%S", time.localtime(failure.when))
            yield cut(f"{moment} {failure.result:<8} {failure.who} {failure.text}", width)


def oldest(overview: Overview, count: int) -> list[Row]:
    """The messages that have waited longest."""
    return sorted(overview.rows, key=lambda row: (-row.age_s, row.number))[:count]


def row_cells(row: Row) -> tuple[str, ...]:
    """What a table shows of a message."""
    due = "-" if row.next_s is None else "now" if row.next_s <= 0 else duration(row.next_s)
    domains = ", ".join(row.domains[:3]) + (" ..." if len(row.domains) > 3 else "")
    return f"{row.number}", row.state, duration(row.age_s), f"{row.left}", f"{row.attempts}", due, domains, row.reply


def row_line(row: Row) -> str:
    """The same as a line."""
    number, state, age, left, attempts, due, domains, reply = row_cells(row)
    return f"{number:>10} {state:<10} {age:>8} {left:>5} {attempts:>5} {due:>8}  {domains} {reply}".rstrip()


def cut(text: str, width: int) -> str:
    """At most ``width`` columns of ``text``."""
    return text if len(text) <= width else text[: width - 1] + "+"
