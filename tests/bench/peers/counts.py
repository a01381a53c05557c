"""Exact per-message counts of forks, execs, fsyncs and other system calls (perf tracepoints, per cgroup)."""

import os
import signal
import subprocess
import time

from tests.bench.peers.common import (
    DOMAIN,
    REMOTE,
    SHM,
    USER,
    BenchError,
    Sink,
    log,
    reset_maildir,
    source,
    wait_delivered,
)
from tests.bench.peers.workloads import wait_sink

EVENTS = {
    "fork": "sched:sched_process_fork",
    "exec": "sched:sched_process_exec",
    "syscalls": "raw_syscalls:sys_enter",
    "switches": "sched:sched_switch",
}
EVENTS |= {
    call: f"syscalls:sys_enter_{call}"
    for call in (
        "fsync",
        "fdatasync",
        "openat",
        "link",
        "rename",
        "unlink",
        "read",
        "write",
        "newfstatat",
        "connect",
        "accept4",
        "accept",
        "select",
        "pselect6",
        "poll",
        "epoll_wait",
        "mmap",
        "close",
        "flock",
        "fcntl",
    )
}


def counted(server, work):
    """Run work() and return the counts of what happened in the server's cgroup meanwhile."""
    if not server.group.dir:
        raise BenchError("counting needs a writable cgroup2")
    path = os.path.join(SHM, f"mta-bench-perf.{os.getpid()}")
    group = os.path.basename(server.group.dir)
    perf = subprocess.Popen(
        ["perf", "stat", "-x,", "-o", path, "-a", "-e", ",".join(EVENTS.values()), "--for-each-cgroup", group],
        stderr=subprocess.DEVNULL,
    )
    time.sleep(1)
    try:
        work()
    finally:
        time.sleep(0.3)
        perf.send_signal(signal.SIGINT)
        perf.wait()
    names = {event: name for name, event in EVENTS.items()}
    found = {}
    with open(path) as f:
        for line in f:
            parts = line.split(",")
            if len(parts) > 3 and parts[2] in names and parts[0].isdigit():
                found[names[parts[2]]] = int(parts[0])
    os.unlink(path)
    return found


def count(server, n=500):
    local = f"{USER}@{DOMAIN}"
    out = {}

    def local_mail(reuse):
        def work():
            reset_maildir()
            source(server.port, local, n, 10, reuse)
            wait_delivered(n, time.monotonic() + 120)

        return work

    def remote_mail():
        sink = Sink()
        try:
            source(server.port, f"somebody@{REMOTE}", n, 10, True)
            wait_sink(sink, n, time.monotonic() + 120)
        finally:
            sink.close()

    def sendmail():
        reset_maildir()
        body = b"Subject: bench\n\n" + (b"x" * 70 + b"\n") * 56
        argv, env = server.sendmail(local), server.env()

        def call():
            for _ in range(n // 5):
                subprocess.run(argv, input=body, env=env, check=True, preexec_fn=server.group._join)

        server.inside(call)
        wait_delivered(n // 5, time.monotonic() + 120)

    server.configure()
    server.purge()
    server.start()
    try:
        source(server.port, local, 50, 5)
        time.sleep(1)
        idle = counted(server, lambda: time.sleep(5))
        out["idle_per_s"] = {k: round(v / 6.3, 2) for k, v in idle.items() if v}
        for name, work, units in (
            ("local_one_per_connection", local_mail(False), n),
            ("local_many_per_connection", local_mail(True), n),
            ("remote_many_per_connection", remote_mail, n),
            ("sendmail_local", sendmail, n // 5),
        ):
            out[name] = {k: round(v / units, 3) for k, v in counted(server, work).items() if v}
            log(server.name, name, out[name])
    finally:
        server.stop()
        server.purge()
    return out
