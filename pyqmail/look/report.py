"""The report of a day or a week as text, as a page, and as a mail with both (qmail-report(8)).

Strangers' text is shown as text: escaped in HTML, without control characters anywhere.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from email.message import EmailMessage
from email.policy import SMTP
from html import escape

from pyqmail.log.printer import clean, duration
from pyqmail.log.tables import RESULTS
from pyqmail.look.charts import COLORS, bars
from pyqmail.look.summary import DAY_S, Step, Summary

ROWS = 15
Table = tuple[str, tuple[str, ...], list[tuple[str, ...]]]
STYLE = """\
:root{color-scheme:light dark}body{font:15px/1.45 system-ui,sans-serif;max-width:760px;margin:1.5em auto;padding:0 1em}
h1{font-size:1.35em}h2{font-size:1.05em;margin:1.6em 0 .4em}table{border-collapse:collapse;width:100%}
td,th{padding:.2em .5em;text-align:left;border-bottom:1px solid #8884;overflow-wrap:anywhere}
td.n,th.n{text-align:right;white-space:nowrap;font-variant-numeric:tabular-nums}
.figures{display:flex;flex-wrap:wrap;gap:.5em}.figures div{border:1px solid #8886;border-radius:6px;padding:.4em .8em}
.figures b{display:block;font-size:1.25em}.chart{width:100%;height:auto}.axis{font-size:11px;fill:currentColor}
.key span{display:inline-block;width:.8em;height:.8em;margin:0 .3em 0 .8em}
"""


class Report:
    """One span of time of one host. ``clock`` turns seconds into a calendar's fields."""

    def __init__(self, host: str, summary: Summary, clock: Callable[[float], time.struct_time]) -> None:
        self._summary = summary
        self._clock = clock
        self._host = clean(host)

    @property
    def title(self) -> str:
        """What it is of."""
        summary = self._summary
        begin, end = (time.strftime("%Y-%m-%d", self._clock(when)) for when in (summary.begin, summary.end - 1))
        return f"Mail of {self._host}, {begin}" + (f" to {end}" if end != begin else "")

    def figures(self) -> list[tuple[str, str]]:
        """The few numbers at its head."""
        summary = self._summary
        median, most = summary.delays.share(50), summary.delays.share(95)
        totals, accepted = summary.totals, summary.happened("accepted")
        found = [
            ("messages ended", f"{totals['messages']}"),
            ("bytes", size(totals["bytes"])),
            *((name, f"{summary.happened(name)}") for name in RESULTS),
            ("bounced", f"{totals['bounced']}"),
            ("accepted at the doors", f"{accepted}"),
            ("refused", f"{summary.happened('refused')}"),
            ("with TLS", part(totals["encrypted"], accepted)),
            ("authenticated", part(totals["authenticated"], accepted)),
            ("delay, median", "-" if median is None else duration(median)),
            ("delay, 95%", "-" if most is None else duration(most)),
        ]
        return [*found, ("alerts and warnings", f"{summary.totals['troubles']}")]

    def tables(self) -> Iterator[Table]:
        """A title, the heads of the columns (numbers first), the rows."""
        summary = self._summary
        channels = [(*map(str, counts), channel.decode()) for channel, counts in summary.channels.items()]
        yield "Deliveries", ("", *RESULTS), channels
        domains = [(*map(str, counts), domain) for domain, counts in summary.domains.top(ROWS)]
        yield "Domains of recipients", ("domain", *RESULTS), domains
        senders = [(domain, count) for domain, (count,) in summary.senders.top(ROWS)]
        for title, head, found in (
            ("Domains of senders", "domain", senders),
            ("Failures", "domain and answer", summary.failures.top(ROWS)),
            ("Refusals", "answer", summary.refusals.top(ROWS)),
        ):
            counted: list[tuple[str, ...]] = [(f"{count}", name) for name, count in found]
            yield title, (head, "count"), counted
        if summary.trouble_texts:
            texts: list[tuple[str, ...]] = [("", text) for text in summary.trouble_texts]
            yield f"Alerts and warnings ({summary.totals['troubles']})", ("line", ""), texts

    def text(self) -> str:
        """For a terminal or a mail."""
        lines = [self.title, ""]
        lines += [f"{value:>12}  {name}" for name, value in self.figures()]
        for title, heads, rows in self.tables():
            if not rows:
                continue
            lines += ["", title + ("" if len(heads) == 2 else f" ({', '.join(heads[1:])})")]
            for row in rows:
                numbers = " ".join(f"{number:>9}" for number in row[:-1])
                lines.append(f"{numbers}  {clean(row[-1])}".rstrip())
        return "\n".join(lines) + "\n"

    def html(self) -> str:
        """A page that needs nothing else."""
        head = f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(self.title)}</title>'
        parts = [head, '<meta name="viewport" content="width=device-width,initial-scale=1">', f"<style>{STYLE}</style>"]
        parts += [f"</head><body><h1>{escape(self.title)}</h1>", '<div class="figures">']
        parts += [f"<div><b>{escape(value)}</b>{escape(name)}</div>" for name, value in self.figures()]
        parts.append("</div>")
        parts += self._charts()
        for title, heads, rows in self.tables():
            if rows:
                parts += _html_table(title, heads, rows)
        return "\n".join([*parts, "</body></html>"]) + "\n"

    def _charts(self) -> Iterator[str]:
        summary = self._summary
        form = "%H:%M" if summary.step_s < DAY_S else "%a %d"
        labels = [
            time.strftime(form, self._clock(summary.begin + place * summary.step_s))
            for place in range(len(summary.steps))
        ]
        yield "<h2>Flow</h2>" + key(("accepted", "refused"))
        yield bars("At the doors", labels, series(summary.steps, ("accepted", "refused")))
        yield key(RESULTS)
        yield bars("Deliveries", labels, series(summary.steps, RESULTS))

    def mail(self, recipient: str) -> bytes:
        """A message with the text, and the page as its alternative; qmail-inject adds Date, From and Message-ID."""
        message = EmailMessage(SMTP.clone(linesep="\n"))
        message["To"] = recipient
        message["Subject"] = self.title
        message["Auto-Submitted"] = "auto-generated"
        message.set_content(self.text(), cte="quoted-printable")
        message.add_alternative(self.html(), subtype="html", cte="quoted-printable")
        return message.as_bytes()


def series(steps: Sequence[Step], names: Sequence[str]) -> list[tuple[str, list[int]]]:
    """The counts of each name by step."""
    return [(name, [step.count(name) for step in steps]) for name in names]


def key(names: Sequence[str]) -> str:
    """What the colours are."""
    return (
        '<p class="key">' + "".join(f'<span style="background:{COLORS[name]}"></span>{name}' for name in names) + "</p>"
    )


def _html_table(title: str, heads: tuple[str, ...], rows: list[tuple[str, ...]]) -> Iterator[str]:
    yield f"<h2>{escape(title)}</h2><table><tr>"
    yield "".join(f'<th class="n">{escape(head)}</th>' for head in heads[1:]) + f"<th>{escape(heads[0])}</th></tr>"
    for row in rows:
        numbers = "".join(f'<td class="n">{escape(number)}</td>' for number in row[:-1])
        yield f"<tr>{numbers}<td>{escape(clean(row[-1]))}</td></tr>"
    yield "</table>"


def part(count: int, whole: int) -> str:
    """``count`` of ``whole`` in per cent."""
    return f"{100 * count / whole:.0f} %" if whole else "-"


def size(count: int) -> str:
    """Bytes in a unit that fits."""
    for limit, unit in ((10**4, "B"), (10**7, "kB"), (10**10, "MB")):
        if count < limit:
            return f"{count * 10**4 // limit} {unit}" if unit == "B" else f"{count / (limit / 10**4):.0f} {unit}"
    return f"{count / 10**9:.1f} GB"
