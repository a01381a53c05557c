#!/usr/bin/python3
"""Mail servers side by side on loopback, as they come, with logs on and nothing unsynced. Run as root; needs Postfix
(its smtp-source and smtp-sink make the load), ucspi-tcp, daemontools, and an account benchu ($BENCH_USER), whose
Maildir is wiped at the end, with every message of the run.

    bin/qmail-setup                                            the tree that is measured: $QMAIL, default /var/qmail
    tests/bench/compare.py unpack                              Exim and OpenSMTPD from Debian, beside Postfix
    tests/bench/compare.py run -o FILE.json                    all rows of the table, in about half an hour
    tests/bench/compare.py table FILE.json                     the table once more, in Markdown
    tests/bench/compare.py plot FILE.json > FILE.svg           a picture of it
    tests/bench/compare.py run -s pyqmail,notqmail -w w1,w4 -r 5
    tests/bench/compare.py run -s pyqmail -w leak -r 1         200,000 messages
    tests/bench/compare.py count [-s pyqmail,postfix]          system calls and syncs a message (perf)
    tests/bench/compare.py show FILE.json                      every figure
    tests/bench/compare.py raw                                 what this machine can do

Runs are interleaved (A B C, B C A, C A B) and the figures are medians; each is in FILE.json as soon as it is there, and
runs are added to what FILE.json holds. A lost or doubled message fails a run; what a server has not is a dash. NAME:1
in -s or -w takes part in the first round only. The server "floor" (w1 only) is tests/bench/floor.py, a program that
makes our system calls and does nothing else.

| | workload |
|---|---|
| w1 | SMTP in and local delivery: 4 KiB messages over 1, 10, 40 sessions, one message or many a connection |
| w2 | 2,000 messages to a remote sink, concurrency 20 and 100 |
| w2slow, w2hosts | 1,000 messages to one, or to a hundred, remote servers that take 1 s a message |
| w3 | the sendmail command, beside a bare interpreter |
| w4 | one message to 1,000 local, then 1,000 remote recipients (pyqmail also without what new trees have) |
| w4uids | one message to 1,000 users of 1,000 uids |
| w5 | memory, idle and with 40 idle sessions |
| w6 | behind 20,000 undeliverable messages |
| w7 | connect to banner |
| latency | from acceptance to the Maildir under 100 messages/s |
| leak | memory after 10,000 and after 200,000 messages |
| w8 | submission: STARTTLS, AUTH PLAIN, 10 sessions, one message or many a connection |
| w9 | the same without AUTH: mail that comes in TLS |
| w10 | strangers' mail that passes SPF, DKIM and DMARC, with nsd and unbound; the same unchecked |
| w11 | mail that goes out signed, to a sink in TLS, concurrency 20 |
| w12 | one message each to 10,000 users of 1,000 uids, few of whom get most |
| w13 | log in by POP3S and fetch a message, 8 sessions |
| w14 | a message to 1,000 recipients, then 2,000 messages, not signed, to a sink in TLS, concurrency 20 |

A server that is slow gets fewer messages, so that no phase of w1 takes much longer than --seconds. $NOTQMAIL_HOME is
an installed notqmail (default /var/notqmail; its control files are overwritten and its queue is emptied, as those of
$QMAIL are), $BENCH_STATE a directory on the queues' filesystem, $PYQMAIL_TEST_PEERS where servers are unpacked. Two
runs on one machine wait for each other.
"""

import argparse
import json
import os
import platform
import signal
import statistics
import sys
import time
import traceback

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
sys.path.append(f"{sys.path[0]}/.deps")  # to sign what w10 sends

from tests.bench.peers import private, secured  # noqa: E402
from tests.bench.peers.adapters import SERVERS, make, unpack  # noqa: E402
from tests.bench.peers.claims import better, table  # noqa: E402
from tests.bench.peers.common import STATE, Unsupported, claim, log, remove_aside, save, user_home  # noqa: E402
from tests.bench.peers.counts import count  # noqa: E402
from tests.bench.peers.plot import plot  # noqa: E402
from tests.bench.peers.workloads import WORKLOADS as PLAIN  # noqa: E402
from tests.bench.peers.workloads import raw  # noqa: E402

BASE = "notqmail"
WORKLOADS = PLAIN | secured.WORKLOADS
ALL = "w1,w2,w2slow:2,w2hosts:2,w3,w4,w4uids,w5:2,w6:2,w7,latency"
FIELD = "pyqmail,notqmail,postfix,floor,opensmtpd:1,exim:1"
LONGEST_S, LONGEST_LEAK_S = 600, 7200  # of one run: one that hangs fails, and the others go on
OPTIONS = ("n", "calls", "rcpts", "idle", "backlog", "sessions", "remote", "seconds", "messages")


def machine():
    with open("/proc/meminfo") as f:
        mem = int(f.readline().split()[1]) // 1024
    return {"kernel": platform.release(), "cpus": os.cpu_count(), "mem_mib": mem, "python": platform.python_version()}


def medians(runs):
    keys = {k for run in runs for k in run}
    return {k: statistics.median([run[k] for run in runs if k in run]) for k in sorted(keys)}


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


def measure(name, workload, opt, data):
    """One run of one workload for one server, into ``data``; a failure is noted there and ends nothing else."""
    server = None
    try:
        server = make(name)
        signal.alarm(LONGEST_LEAK_S if workload == "leak" else LONGEST_S)
        server.purge()
        result = WORKLOADS[workload](server, opt)
    except Unsupported as reason:
        log(name, workload, "unsupported:", reason)
        note = f"{workload} {name}: {reason}"
        if note not in data.setdefault("notes", []):
            data["notes"].append(note)
    except Exception as error:
        if opt.debug:
            traceback.print_exc()
        log("FAILED", name, workload, repr(error))
        data.setdefault("errors", []).append(f"{workload} {name}: {error!r}")
    else:
        data.setdefault("workloads", {}).setdefault(workload, {}).setdefault(name, []).append(result)
    finally:
        signal.alarm(0)
        if server:
            server.close()
    if opt.output:
        save(opt.output, data)


def rounds(text, repeat, known):
    """{name: rounds} of a list of NAME and NAME:ROUNDS. Exits when a name is not ``known``."""
    found = {}
    for word in text.split(","):
        name, _, limit = word.partition(":")
        if name not in known:
            sys.exit(f"compare.py: {name}: not one of {', '.join(known)}")
        found[name] = min(repeat, int(limit or repeat))
    return found


def turns(servers, turn):
    """Who takes part in round ``turn``, in order: nobody is always the first, after an easier workload."""
    names = [name for name, limit in servers.items() if turn < limit]
    first = turn % len(names)
    return names[first:] + names[:first]


def run(opt):
    """Each round has all servers in all workloads, so that what is there at any moment is complete."""
    servers, workloads = rounds(opt.servers, opt.repeat, SERVERS), rounds(opt.workloads, opt.repeat, WORKLOADS)
    claim(user_home())
    if set(workloads) & set(secured.WORKLOADS):
        private.enter()
    remove_aside()  # of a run that was killed
    data = load(opt.output)
    data.setdefault("machine", machine())
    data.setdefault("options", {}).update({w: {k: v for k, v in vars(opt).items() if k in OPTIONS} for w in workloads})
    begin = time.monotonic()
    try:
        for turn in range(opt.repeat):
            for workload in [name for name, limit in workloads.items() if turn < limit]:
                for name in turns(servers, turn):
                    if workload not in (SERVERS[name].workloads or WORKLOADS):
                        continue
                    log(f"round {turn + 1}/{opt.repeat}, {(time.monotonic() - begin) / 60:.1f} min: {workload} {name}")
                    measure(name, workload, opt, data)
    except KeyboardInterrupt:
        log("interrupted; what is there:")
    finally:
        remove_aside()
    if opt.json:
        print(json.dumps(data, indent=1, sort_keys=True))
    show(data)
    print_table(data)


def print_table(data):
    print("\n" + "\n".join(table(data.get("workloads", {}), medians)))


def hold(server):
    """Run one server until the end is asked for."""
    server.configure()
    try:
        server.start()
        command = " ".join(server.sendmail("ADDRESS")) if server.workloads is None else "none"
        print(f"{server.name} on port {server.port}, sendmail: {command}", flush=True)
        signal.pause()
    except KeyboardInterrupt:
        pass
    finally:
        server.stop()
        server.close()


def interrupted(_number, _frame):
    """A polite end is as good as control-C: the server that runs is stopped."""
    raise KeyboardInterrupt


def overdue(_number, _frame):
    """The alarm of a run that takes too long."""
    raise TimeoutError("it hangs")


def numbers(text):
    return [int(x) for x in text.split(",")]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sub = parser.add_subparsers(dest="command", required=True)
    p = sub.add_parser("run")
    p.add_argument("-s", "--servers", default=FIELD, help=",".join(SERVERS))
    p.add_argument("-w", "--workloads", default=ALL, help=",".join(WORKLOADS))
    p.add_argument("-r", "--repeat", type=int, default=3)
    p.add_argument("-o", "--output", help="JSON file; runs are added to what it holds")
    p.add_argument(
        "-n", type=int, help="messages in w1, w2 (w6: a quarter); default w1 1000, w2 2000; one session: half"
    )
    p.add_argument("--sessions", type=numbers, default=[1, 10, 40])
    p.add_argument("--remote", type=numbers, default=[20, 100])
    p.add_argument("--calls", type=int, default=300)
    p.add_argument("--rcpts", type=int, default=1000)
    p.add_argument("--idle", type=int, default=40)
    p.add_argument("--backlog", type=int, default=20000)
    p.add_argument("--limit", type=float, default=180, help="seconds to wait for one delivery phase")
    p.add_argument("--seconds", type=float, default=20, help="about the longest that a phase of w1 may take")
    p.add_argument("--messages", type=int, default=200000, help="in the workload leak")
    p.add_argument("--json", action="store_true")
    p.add_argument("--debug", action="store_true")
    p = sub.add_parser("raw")
    p.add_argument("-r", "--repeat", type=int, default=3)
    p.add_argument("-o", "--output")
    p = sub.add_parser("count", help="forks, execs, fsyncs per message (perf)")
    p.add_argument("-s", "--servers", default="pyqmail,notqmail,postfix")
    p.add_argument("-o", "--output")
    sub.add_parser("unpack", help="unpack Exim and OpenSMTPD, unless they are")
    p = sub.add_parser("up", help="start one server and hold it until interrupted")
    p.add_argument("server")
    p = sub.add_parser("show")
    p.add_argument("file")
    p = sub.add_parser("table", help="one line for each kind of work, in Markdown")
    p.add_argument("file")
    p = sub.add_parser("plot", help="an SVG of the ratios to notqmail")
    p.add_argument("file")
    opt = parser.parse_args()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupted)
    signal.signal(signal.SIGALRM, overdue)
    if opt.command == "run":
        run(opt)
    elif opt.command == "up":
        hold(make(opt.server))
    elif opt.command == "count":
        data = load(opt.output)
        for name in opt.servers.split(","):
            try:
                server = make(name)
                data.setdefault("counts", {})[name] = count(server)
                server.close()
            except Exception as error:
                log("FAILED", name, repr(error))
            if opt.output:
                save(opt.output, data)
        remove_aside()
        show({"counts": data.get("counts", {})})
    elif opt.command == "show":
        show(load(opt.file))
    elif opt.command == "plot":
        print(plot(load(opt.file), medians))
    elif opt.command == "table":
        print_table(load(opt.file))
    elif opt.command == "unpack":
        unpack()
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
