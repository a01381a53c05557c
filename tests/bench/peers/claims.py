"""What is asked of the figures, one row for each kind of work: compare.py's table and plot."""

from collections import namedtuple

# at_least: how many times as good as that server, None where nothing is asked.
# at_most: an absolute limit in the metric's own unit.
# alone: the metric of what a tree that was there before does, if that is something else.
Row = namedtuple("Row", "label workload metric at_least at_most alone", defaults=({}, None, None))

ROWS = (
    Row("accept by SMTP, 10 sessions, one message each", "w1", "c10_one_accept_per_s", {"notqmail": 4, "postfix": 2.5}),
    Row("SMTP to Maildir, the same sessions", "w1", "c10_one_delivered_per_s", {"notqmail": 3, "postfix": 1.5}),
    Row("the same, beside the bare system calls", "w1", "c10_one_delivered_per_s", {"floor": 0.5}),
    Row(
        "processor time a message, of that",
        "w1",
        "c10_one_cpu_ms",
        {"notqmail": None, "postfix": None, "floor": None},
    ),
    Row("to a remote sink, concurrency 20", "w2", "r20_sunk_per_s", {"notqmail": 3, "postfix": 1.5}),
    Row("to a remote sink, concurrency 100", "w2", "r100_sunk_per_s", {"notqmail": 3, "postfix": 1.5}),
    Row("one message, 1,000 recipients, one user", "w4", "local_done_s", {"notqmail": 3, "postfix": 1.5}),
    Row("one message, 1,000 uids", "w4uids", "done_s", {"notqmail": 1, "postfix": 1}),
    Row(
        "one message, 1,000 remote recipients",
        "w4",
        "remote_done_s",
        {"notqmail": 3, "postfix": 1.2},
        alone="alone_done_s",
    ),
    Row("accept, behind 20,000 deferred", "w6", "accept_per_s", {"notqmail": 3, "postfix": 1.2}),
    Row("deliver, behind 20,000 deferred", "w6", "delivered_per_s", {"notqmail": 3, "postfix": 1.2}),
    Row("a slow server (1 s), concurrency 100", "w2slow", "sunk_per_s", {"notqmail": 1, "postfix": 1.5}),
    Row("100 slow servers (1 s), concurrency 100", "w2hosts", "sunk_per_s", {"notqmail": 1, "postfix": 1.5}),
    Row("connect to banner, p50", "w7", "banner_p50_ms", {"notqmail": 1, "postfix": 0.5}, 2),
    Row("sendmail command, p50", "w3", "p1_p50_ms", {"postfix": 0.5, "python": 0.5}),
    Row("memory, idle", "w5", "idle_kib", {}, 64 * 1024),
    Row("memory of an idle session", "w5", "session_kib", {}, 4 * 1024),
    Row("accepted to Maildir at 100/s, p50", "latency", "maildir_p50_ms", {}, 20),
    Row("accepted to Maildir at 100/s, p99", "latency", "maildir_p99_ms", {}, 100),
    Row("submission: STARTTLS, AUTH, one message each", "w8", "one_accept_per_s", {"postfix": 1.3, "exim": None}),
    Row("submission, many messages a connection", "w8", "many_accept_per_s", {"postfix": 1.3, "exim": None}),
    Row("processor time a message, submission, one each", "w8", "one_cpu_ms", {"postfix": None, "exim": None}),
    Row("mail that comes in TLS, one message each", "w9", "one_accept_per_s", {"postfix": None, "exim": None}),
    Row("processor time a message, TLS, one each", "w9", "one_cpu_ms", {"postfix": 1.25, "exim": None}),
    Row("processor time a message, TLS, many", "w9", "many_cpu_ms", {"postfix": 1.25, "exim": None}),
    Row("checked: SPF, DKIM, DMARC, one message each", "w10", "one_accept_per_s", {"postfix": 1.5, "exim": None}),
    Row("checked, many messages a connection", "w10", "many_accept_per_s", {"postfix": 1.5, "exim": 1}),
    Row("processor time a message, checked, many", "w10", "many_cpu_ms", {"postfix": None, "exim": None}),
    Row("processor time of a message's checks", "w10", "check_cpu_ms", {}, 3),
    Row("signed, to a sink in TLS, concurrency 20", "w11", "sunk_per_s", {"postfix": 1.2, "exim": None}),
    Row("processor time a message, signed", "w11", "cpu_ms", {"postfix": None, "exim": None}),
    Row("10,000 users of 1,000 uids", "w12", "delivered_per_s", {"notqmail": None, "postfix": None}),
    Row("processor time a message, of that", "w12", "cpu_ms", {"notqmail": None, "postfix": None}),
    Row("POP3S: log in and fetch", "w13", "fetch_per_s", {"dovecot": 1}),
    Row("to a sink in TLS, concurrency 20", "w14", "sunk_per_s", {"postfix": 1.2}),
    Row("one message, 1,000 remote recipients in TLS", "w14", "list_done_s", {"postfix": 1.2}),
    Row("memory growth, 10,000 to 200,000 messages", "leak", "growth_percent", {}, 10),
)
COLUMNS = ("pyqmail", "notqmail", "postfix", "opensmtpd", "exim", "dovecot")
PYTHON_START = "python_p50_ms"  # in w3, beside each server's figures


def better(metric, value, base):
    """Ratio to the base, above 1 when better than it; None where there is no better."""
    if not value or not base:
        return None
    if metric.endswith("_per_s"):
        return value / base
    if metric.endswith(("_ms", "_s", "_kib")):
        return base / value
    return None


def shown(metric, value):
    """The value with its unit; ``-`` for None."""
    if value is None:
        return "-"
    for suffix, unit in (("_per_s", "/s"), ("_ms", " ms"), ("_s", " s"), ("_kib", " KiB"), ("_percent", " %")):
        if metric.endswith(suffix):
            if unit == " KiB" and value >= 1000:
                value, unit = value / 1024, " MiB"
            return f"{value:.3g}{unit}" if value < 1000 else f"{value:.0f}{unit}"
    return f"{value:g}"


def base_of(row, name, med):
    """The figure that ours is compared with."""
    if name == "python":
        return med.get("pyqmail", {}).get(PYTHON_START)
    return med.get(name, {}).get(row.metric)


def judged(row, med):
    """(text, whether reached) for each thing asked of ``row``; med: {server: {metric: median}} of its workload."""
    ours = med.get("pyqmail", {})
    out = []
    for name, asked in row.at_least.items():
        value = ours.get(row.metric)
        base = base_of(row, name, med)
        ratio = better(row.metric, value, base)
        if ratio:
            whose = name if name in COLUMNS else f"{name}'s {shown(row.metric, base)}"
            out.append((f"{ratio:.2f}x {whose}" + (f" (asked {asked:g})" if asked else ""), ratio >= (asked or 0)))
    if row.at_most is not None and row.metric in ours:
        limit = shown(row.metric, row.at_most)
        out.append((f"at most {limit}", ours[row.metric] <= row.at_most))
    return out


def table(workloads, medians):
    """The lines of the table, in Markdown."""
    known = {name for servers in workloads.values() for name in servers}
    names = [name for name in COLUMNS if name in known]
    lines = ["| work | " + " | ".join(names) + " | pyqmail against the others |", "|---" * (len(names) + 2) + "|"]
    for row in ROWS:
        med = {name: medians(runs) for name, runs in workloads.get(row.workload, {}).items()}
        if not med:
            continue
        if list(row.at_least) == ["floor"] and "floor" not in med:
            continue
        cells = [shown(row.metric, med.get(name, {}).get(row.metric)) for name in names]
        if row.alone and row.alone in med.get("pyqmail", {}):
            cells[names.index("pyqmail")] += f" (one by one {shown(row.alone, med['pyqmail'][row.alone])})"
        verdict = ", ".join(text + ("" if good else " **no**") for text, good in judged(row, med))
        lines.append(f"| {row.label} | " + " | ".join(cells) + f" | {verdict} |")
    return lines
