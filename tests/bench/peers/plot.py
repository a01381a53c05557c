"""A picture of a results file: a panel for each kind of work, a bar for each server, the longest is the best."""

from tests.bench.peers.claims import better, shown

PANELS = (
    ("SMTP in, accepted", "w1", "c10_one_accept_per_s"),
    ("SMTP to Maildir", "w1", "c10_one_delivered_per_s"),
    ("2,000 messages to a remote sink", "w2", "r20_sunk_per_s"),
    ("one message, 1,000 local recipients", "w4", "local_done_s"),
    ("one message, 1,000 uids", "w4uids", "done_s"),
    ("one message, 1,000 remote recipients", "w4", "remote_done_s"),
    ("new mail behind 20,000 deferred", "w6", "delivered_per_s"),
    ("100 slow remote servers", "w2hosts", "sunk_per_s"),
    ("connect to banner", "w7", "banner_p50_ms"),
)
SERVERS = {"pyqmail": "pyqmail", "notqmail": "notqmail", "postfix": "Postfix", "opensmtpd": "OpenSMTPD", "exim": "Exim"}
COLUMNS, WIDTH, LINE, HEAD, TOP, GAP = 3, 280, 15, 20, 34, 14
NAMES, BAR = 76, 130  # where bars begin in a panel, and the length of the longest
STYLE = """<style>
.card { fill: #ffffff; stroke: #d0d7de } text { fill: #1f2328 } .small { fill: #59636e }
.ours { fill: #0969da } .other { fill: #b6bec8 } .own { font-weight: bold }
@media (prefers-color-scheme: dark) {
.card { fill: #0d1117; stroke: #30363d } text { fill: #e6edf3 } .small { fill: #9198a1 }
.ours { fill: #4493f8 } .other { fill: #57606a }
}
</style>"""


def panel(label, metric, values, x, y):
    """One panel with its upper left corner at (x, y)."""
    parts = [f'<text class="own" x="{x}" y="{y + 12}">{label}</text>']
    best = max(better(metric, value, 1) for value in values.values())
    for i, (name, value) in enumerate(values.items()):
        ours, line = name == "pyqmail", y + HEAD + LINE * i
        width = max(1, BAR * better(metric, value, 1) / best)
        own = ' class="own"' if ours else ' class="small"'
        parts += [
            f'<text{own} x="{x + NAMES - 6}" y="{line + 10}" text-anchor="end">{SERVERS[name]}</text>',
            f'<rect class="{"ours" if ours else "other"}" x="{x + NAMES}" y="{line + 1}" width="{width:.1f}" '
            f'height="{LINE - 4}" rx="2"/>',
            f'<text{own} x="{x + NAMES + width + 5:.1f}" y="{line + 10}">{shown(metric, value)}</text>',
        ]
    return parts


def plot(data, medians):
    """The SVG text, readable on a light and on a dark page."""
    panels = []
    for label, workload, metric in PANELS:
        med = {name: medians(runs) for name, runs in data.get("workloads", {}).get(workload, {}).items()}
        values = {name: med[name][metric] for name in SERVERS if med.get(name, {}).get(metric)}
        if values:
            panels.append((label, metric, values))
    parts, y = [], TOP
    for first in range(0, len(panels), COLUMNS):
        row = panels[first : first + COLUMNS]
        for column, (label, metric, values) in enumerate(row):
            parts += panel(label, metric, values, GAP + column * (WIDTH + GAP), y)
        y += HEAD + LINE * max(len(values) for _, _, values in row) + GAP
    width = GAP + COLUMNS * (WIDTH + GAP)
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {y}" width="{width}" height="{y}" '
    head += 'font-family="-apple-system, Segoe UI, Helvetica, Arial, sans-serif" font-size="11" role="img">'
    title = "Longer is better: medians of interleaved runs on one machine, each panel to its own scale"
    card = f'<rect class="card" x="0.5" y="0.5" width="{width - 1}" height="{y - 1}" rx="6"/>'
    top = f'<text class="small" x="{GAP}" y="20">{title}</text>'
    return "\n".join([head, f"<title>{title}</title>", STYLE, card, top, *parts, "</svg>"])
