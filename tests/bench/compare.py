#!/usr/bin/python3
"""Mail servers side by side on loopback, as they come, with logs on and nothing unsynced. Run as root; needs Postfix's
smtp-source and smtp-sink.

    tests/bench/compare.py raw                                                what this machine can do
    tests/bench/compare.py run [-s pyqmail,notqmail,postfix] [-w w1,w2] [-r 3] [-o FILE.json]
    tests/bench/compare.py count [-s pyqmail,postfix]          system calls and syncs a message
    tests/bench/compare.py show FILE.json
    tests/bench/compare.py plot FILE.json > FILE.svg

Runs are interleaved (A B C A B C) and the figures are medians. A lost or doubled message fails a run.

| | workload |
|---|---|
| w1 | SMTP in and local delivery: 4 KiB messages over 1, 10, 40 sessions, one message or many a connection |
| w2 | remote out, concurrency 20 and 100 |
| w2slow | the same to a sink that takes 1 s a message |
| w3 | the sendmail command |
| w4 | one message to 1,000 local, then 1,000 remote recipients |
| w4uids | one message to 1,000 users of 1,000 uids (users/assign; qmail-like servers only) |
| w5 | memory, idle and with 40 idle sessions |
| w6 | behind 20,000 undeliverable messages |
| w7 | connect to banner |
| latency | from acceptance to the Maildir under 100 messages/s |
| leak | memory after 10,000 and after 200,000 messages |

$QMAIL is the tree of ours (made by bin/qmail-setup), $NOTQMAIL_HOME that of an installed notqmail, $BENCH_USER an
account (benchu) whose Maildir is wiped, $BENCH_STATE a directory on the queues' filesystem. OpenSMTPD
($OPENSMTPD_ROOT) and Exim ($EXIM) may be unpacked from Debian's packages with dpkg -x.
"""

import argparse
import json
import os
import platform
import signal
import statistics
import sys
import traceback

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

from tests.bench.peers.adapters import SERVERS, make
from tests.bench.peers.common import STATE, log, save  # noqa: E402
from tests.bench.peers.counts import count  # noqa: E402
from tests.bench.peers.plot import plot  # noqa: E402
from tests.bench.peers.workloads import WORKLOADS, raw  # noqa: E402

BASE = "notqmail"


def machine():
    with open("/proc/meminfo") as f:
        mem = int(f.readline().split()[1]) // 1024
    return {"kernel": platform.release(), "cpus": os.cpu_count(), "mem_mib": mem, "python": platform.python_version()}


def medians(runs):
    keys = {k for run in runs for k in run}
    return {k: statistics.median([run[k] for run in runs if k in run]) for k in sorted(keys)}


def better(metric, value, base):
    """Ratio to the base, above 1 when better than it; None where there is no better."""
    if not value or not base:
        return None
    if metric.endswith("_per_s"):
        return value / base
    if metric.endswith(("_ms", "_s", "_kib")):
        return base / value
    return None


def show(data):
    if "raw" in data:
        print("\nraw")
        for key, value in data["raw"].items():
            print(f"  {key:34} {value:>12}")
    for workload, servers in sorted(data.get("workloads", {}).items()):
        names = sorted(servers, key=lambda n: (n != BASE, n))
        med = {n: medians(servers[n]) for n in names}
        print(
            f"\n{workload}   median of "
            + ", ".join(f"{n}:{len(servers[n])}" for n in names)
            + f"   (xN: times as good as {BASE})"
        )
        print(f"  {'':34}" + "".join(f"{n:>20}" for n in names))
        for key in sorted({k for m in med.values() for k in m}):
            row = f"  {key:34}"
            for n in names:
                value = med[n].get(key)
                ratio = better(key, value, med.get(BASE, {}).get(key)) if n != BASE else None
                text = "-" if value is None else f"{value:g}"
                row += f"{text + (f' x{ratio:.2f}' if ratio else ''):>20}"
            print(row)
    for workload in sorted({w for c in data.get("counts", {}).values() for w in c}):
        have = {n: c[workload] for n, c in data["counts"].items() if workload in c}
        print(f"\ncounts {workload}" + (" (per message)" if not workload.endswith("_s") else ""))
        print(f"  {'':34}" + "".join(f"{n:>20}" for n in have))
        for key in sorted({k for c in have.values() for k in c}):
            print(f"  {key:34}" + "".join(f"{c.get(key, 0):>20g}" for c in have.values()))
    for note in data.get("notes", []):
        print("note:", note)
    for error in data.get("errors", []):
        print("error:", error)


def load(path):
    if path and os.path.exists(path):
        with open(path) as f:
            return json.load(f)
    return {}


def run(opt):
    names = opt.servers.split(",")
    data = load(opt.output)
    data.setdefault("machine", machine())
    data.setdefault("options", {})
    for workload in opt.workloads.split(","):
        data["options"][workload] = {
            k: v for k, v in vars(opt).items() if k in ("n", "calls", "rcpts", "idle", "backlog", "sessions", "remote")
        }
        for turn in range(opt.repeat):
            for name in names:  # A B C A B C: slow spells of the machine hit all alike
                log(f"{workload} {name} run {turn + 1}/{opt.repeat}")
                try:
                    server = make(name)
                    server.purge()
                    result = WORKLOADS[workload](server, opt)
                except Exception as error:
                    if opt.debug:
                        traceback.print_exc()
                    log("FAILED", name, workload, error)
                    data.setdefault("errors", []).append(f"{workload} {name} run {turn + 1}: {error}")
                    continue
                if workload in ("w1", "w2", "w2slow"):
                    result["n"] = opt.n
                data.setdefault("workloads", {}).setdefault(workload, {}).setdefault(name, []).append(result)
                if opt.output:
                    save(opt.output, data)
    if opt.output:
        save(opt.output, data)
    if opt.json:
        print(json.dumps(data, indent=1, sort_keys=True))
    show(data)


def numbers(text):
    return [int(x) for x in text.split(",")]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sub = parser.add_subparsers(dest="command", required=True)
    p = sub.add_parser("run")
    p.add_argument("-s", "--servers", default="pyqmail,notqmail,postfix", help=",".join(SERVERS))
    p.add_argument("-w", "--workloads", default="w1,w2,w2slow,w3,w4,w4uids,w5,w6,w7,latency")
    p.add_argument("-r", "--repeat", type=int, default=3)
    p.add_argument("-o", "--output", help="JSON file; runs are added to what it holds")
    p.add_argument("-n", type=int, default=2000, help="messages in w1, w2 (w6: a quarter)")
    p.add_argument("--sessions", type=numbers, default=[1, 10, 40])
    p.add_argument("--remote", type=numbers, default=[20, 100])
    p.add_argument("--calls", type=int, default=300)
    p.add_argument("--rcpts", type=int, default=1000)
    p.add_argument("--idle", type=int, default=40)
    p.add_argument("--backlog", type=int, default=20000)
    p.add_argument("--limit", type=float, default=180, help="seconds to wait for one delivery phase")
    p.add_argument("--json", action="store_true")
    p.add_argument("--debug", action="store_true")
    p = sub.add_parser("raw")
    p.add_argument("-r", "--repeat", type=int, default=3)
    p.add_argument("-o", "--output")
    p = sub.add_parser("count", help="forks, execs, fsyncs per message (perf)")
    p.add_argument("-s", "--servers", default="pyqmail,notqmail,postfix")
    p.add_argument("-o", "--output")
    p = sub.add_parser("up", help="start one server and hold it until interrupted")
    p.add_argument("server")
    p = sub.add_parser("show")
    p.add_argument("file")
    p = sub.add_parser("plot", help="an SVG of the ratios to notqmail")
    p.add_argument("file")
    opt = parser.parse_args()
    if opt.command == "run":
        run(opt)
    elif opt.command == "up":
        server = make(opt.server)
        server.configure()
        server.start()
        print(f"{server.name} on port {server.port}, sendmail: {' '.join(server.sendmail('ADDRESS'))}", flush=True)
        stop = {signal.SIGINT, signal.SIGTERM}
        signal.pthread_sigmask(signal.SIG_BLOCK, stop)
        signal.sigwait(stop)
        server.stop()
    elif opt.command == "count":
        data = load(opt.output)
        for name in opt.servers.split(","):
            data.setdefault("counts", {})[name] = count(make(name))
            if opt.output:
                save(opt.output, data)
        show({"counts": data["counts"]})
    elif opt.command == "show":
        show(load(opt.file))
    elif opt.command == "plot":
        print(plot(load(opt.file), medians, better))
    else:
        data = load(opt.output)
        os.makedirs(STATE, exist_ok=True)
        data["raw"] = medians([raw(STATE) for _ in range(opt.repeat)])
        data.setdefault("machine", machine())
        if opt.output:
            save(opt.output, data)
        show({"raw": data["raw"]})


if __name__ == "__main__":
    main()
