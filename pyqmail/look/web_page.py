"""The frame of a page of qmail-metrics and its parts: one file that needs no script and nothing from elsewhere.

Strangers' text is escaped and without control characters.
"""

import base64
import hashlib
from collections.abc import Iterator, Sequence
from html import escape

from pyqmail.log.printer import clean
from pyqmail.look.charts import COLORS

REFRESH_S = 30
SHORT_MAX = 14  # characters of a cell that stay on one line
STYLE = """\
:root{color-scheme:light dark;--line:#8885;--soft:#8882;--bad:#c8423b;--good:#2e9e5b}
body{font:15px/1.45 system-ui,sans-serif;max-width:1000px;margin:1em auto;padding:0 1em}
h1{font-size:1.3em;margin:.2em 0}h2{font-size:1.05em;margin:1.6em 0 .4em}
.down{background:var(--bad);color:#fff;padding:.6em 1em;border-radius:6px;font-weight:600}
.figures{display:grid;grid-template-columns:repeat(auto-fill,minmax(8.5em,1fr));gap:.5em}
.figures div{border:1px solid var(--line);border-radius:6px;padding:.4em .8em}.figures b{display:block;font-size:1.25em}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(24em,100%),1fr));gap:1em}.charts>div{min-width:0}
.chart{width:100%;height:auto}.axis{font-size:16px;fill:currentColor}
.wide{overflow-x:auto}table{border-collapse:collapse;width:100%}
td,th{padding:.2em .5em;text-align:left;border-bottom:1px solid var(--line);vertical-align:top;overflow-wrap:anywhere}
th,td.s{white-space:nowrap}td.n,th.n{text-align:right;white-space:nowrap;font-variant-numeric:tabular-nums}td.bad,b.bad{color:var(--bad)}
form{display:inline}button{white-space:nowrap}input,button{font:inherit;padding:.2em .6em;margin:.1em}nav{margin:.3em 0}
.note{opacity:.75}
@media(max-width:640px){.queue thead{display:none}
.queue tr{display:block;border-bottom:1px solid var(--line);padding:.4em 0}
.queue td,.queue td.n{display:inline-block;border:0;text-align:left;padding:.1em .5em .1em 0}
.queue td[data-name]::before{content:attr(data-name) " ";opacity:.7}}
"""
STYLE_HASH = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
POLICY = (
    f"default-src 'none'; style-src 'sha256-{STYLE_HASH}'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)


def text(value: object) -> str:
    """``value`` as text of the page."""
    return escape(clean(str(value)))


def document(title: str, parts: Sequence[str], *, refresh: bool = False) -> bytes:
    """A page."""
    head = '<!doctype html><html lang="en"><head><meta charset="utf-8">'
    again = f'<meta http-equiv="refresh" content="{REFRESH_S}">' if refresh else ""
    head += f'<meta name="viewport" content="width=device-width,initial-scale=1">{again}<title>{text(title)}</title>'
    body = "\n".join([f"{head}<style>{STYLE}</style></head><body>", *parts, "</body></html>"])
    return body.encode("utf-8", "replace")


def hidden(**fields: str) -> str:
    """Fields of a form that are not seen."""
    return "".join(f'<input type="hidden" name="{name}" value="{text(value)}">' for name, value in fields.items())


def key(names: Sequence[str]) -> str:
    """What the colours of a chart are."""
    dots = "".join(
        f'<svg width="14" height="10"><rect width="10" height="10" fill="{COLORS[name]}"/></svg>{name} '
        for name in names
    )
    return f'<div class="key">{dots}</div>'


def short(cell: str) -> str:
    """The class of a cell that is not to be broken."""
    return ' class="s"' if len(cell) <= SHORT_MAX else ""


def table(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]], numbers: int = -1) -> Iterator[str]:
    """``numbers``: how many columns are numbers, from the left; below 0, all but so many at the end."""
    if not rows:
        return
    kinds = [' class="n"' if place < numbers % len(heads) else "" for place in range(len(heads))]
    cells = "".join(f"<th{kind}>{text(head)}</th>" for kind, head in zip(kinds, heads, strict=True))
    yield f'<h2>{text(title)}</h2><div class="wide"><table><tr>{cells}</tr>'
    for row in rows:
        cells = "".join(f"<td{kind or short(cell)}>{text(cell)}</td>" for kind, cell in zip(kinds, row, strict=True))
        yield f"<tr>{cells}</tr>"
    yield "</table></div>"
