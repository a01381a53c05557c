"""A picture of a results file: how many times as good as notqmail each server is, one bar for each figure."""

SHOWN = {
    "w1 c10_one_accept_per_s": "accept by SMTP, one message a connection",
    "w1 c10_one_delivered_per_s": "SMTP to Maildir",
    "w1 c10_many_delivered_per_s": "SMTP to Maildir, many a connection",
    "w2 r20_sunk_per_s": "to a remote sink, concurrency 20",
    "w2 r100_sunk_per_s": "to a remote sink, concurrency 100",
    "w4 local_done_s": "one message, 1,000 local recipients",
    "w4uids done_s": "one message, 1,000 uids",
    "w4 remote_done_s": "one message, 1,000 remote recipients",
    "w6 delivered_per_s": "behind 20,000 deferred messages",
    "w7 banner_p50_ms": "connect to banner",
}
COLOURS = {"pyqmail": "#2a6fdb", "notqmail": "#b9b9b9", "postfix": "#d98a2b", "opensmtpd": "#6aa84f", "exim": "#a64d79"}
LEFT, WIDTH, BAR = 300, 420, 11


def plot(data, medians, better):
    """The SVG text."""
    rows = []
    for key, label in SHOWN.items():
        workload, metric = key.split(" ")
        servers = {name: medians(runs) for name, runs in data.get("workloads", {}).get(workload, {}).items()}
        base = servers.get("notqmail", {}).get(metric)
        ratios = {name: better(metric, found.get(metric), base) for name, found in servers.items()}
        if any(ratios.values()):
            rows.append((label, {name: ratio for name, ratio in ratios.items() if ratio}))
    most = max((ratio for _, ratios in rows for ratio in ratios.values()), default=1)
    parts, y = [], 30
    for label, ratios in rows:
        parts.append(f'<text x="{LEFT - 8}" y="{y + BAR}" text-anchor="end">{label}</text>')
        for name in sorted(ratios, key=list(COLOURS).index):
            width = WIDTH * ratios[name] / most
            parts.append(f'<rect x="{LEFT}" y="{y}" width="{width:.1f}" height="{BAR - 1}" fill="{COLOURS[name]}"/>')
            parts.append(f'<text x="{LEFT + width + 4:.1f}" y="{y + BAR - 2}">{ratios[name]:.2f} {name}</text>')
            y += BAR
        y += 9
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{LEFT + WIDTH + 140}" height="{y + 10}" '
    head += 'font-family="sans-serif" font-size="10">'
    title = f'<text x="{LEFT}" y="16" font-size="12">times as good as notqmail, medians of interleaved runs</text>'
    return "\n".join([head, '<rect width="100%" height="100%" fill="white"/>', title, *parts, "</svg>"])
