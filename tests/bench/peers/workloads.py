"""The workloads. Each takes a started or stopped server and returns {metric: number}.

Metric names end in _per_s (higher is better), _ms, _s or _kib (lower is better).
"""

import ctypes
import functools
import os
import re
import select
import shutil
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time

from tests.bench.peers.adapters import PYTHON, Many
from tests.bench.peers.common import (
    DEAD,
    DOMAIN,
    HOST,
    REMOTE,
    SHM,
    USER,
    BenchError,
    Client,
    Sink,
    Unsupported,
    check_exact,
    delivered,
    latency,
    log,
    maildir,
    message,
    remove_aside,
    reset_maildir,
    slow_hosts,
    source,
    wait_delivered,
)

LOCAL = f"{USER}@{DOMAIN}"
UIDS_FROM = 70000  # of the users of w4uids, who exist in the server's tables only
IN_CREATE, IN_MOVED_TO = 0x100, 0x80  # inotify(7)


def settle():
    """Start every measurement from a quiet disk."""
    os.sync()
    time.sleep(0.2)


def affordable(wanted, sent, spent, opt):
    """How many of the ``wanted`` messages a phase may have: fewer if all would take longer than opt.seconds."""
    if wanted * spent / sent <= opt.seconds:
        return wanted
    return min(wanted, max(sent, int(sent / spent * opt.seconds / 2)))


def w1_phase(server, opt, sessions, reuse):
    """One pattern of w1, by its metric names."""
    pilot = max(20, 5 * sessions)
    reset_maildir()
    start = time.monotonic()
    source(server.port, LOCAL, pilot, sessions, reuse)  # every process that this needs is there then
    wait_delivered(pilot, start + opt.limit)
    n = affordable((opt.n or 1000) // (1 if sessions > 1 else 2), pilot, time.monotonic() - start, opt)
    time.sleep(0.3)
    reset_maildir()
    settle()
    cpu = server.group.cpu()
    start = time.monotonic()
    accepted = source(server.port, LOCAL, n, sessions, reuse)
    end = wait_delivered(n, start + opt.limit)
    cpu = (server.group.cpu() - cpu) if cpu is not None else None
    distinct = check_exact(n)
    if distinct != n:
        raise BenchError(f"{n} files but {distinct} different messages")
    key = f"c{sessions}_{'many' if reuse else 'one'}"
    out = {f"{key}_accept_per_s": round(n / accepted, 1), f"{key}_delivered_per_s": round(n / (end - start), 1)}
    if cpu is not None:
        out[f"{key}_cpu_ms"] = round(1e3 * cpu / n, 3)
    log(server.name, key, n, out)
    return out


def w1(server, opt):
    """SMTP in and local delivery."""
    server.configure()
    server.start()
    out = {}
    try:
        for reuse in (False, True):
            for sessions in opt.sessions:
                out |= w1_phase(server, opt, sessions, reuse)
    finally:
        server.stop()
    return out


def wait_sink(sink, count, deadline):
    while (have := sink.messages()) < count:
        if time.monotonic() > deadline:
            raise BenchError(f"sink got only {have} of {count}")
        time.sleep(0.02)
    return time.monotonic()


def w2(server, opt):
    """Remote out: injected over SMTP, relayed to a local sink."""
    out, n = {}, opt.n or 2000
    for remote in opt.remote:
        sink = Sink()
        try:
            server.configure(remote)
            server.start()
            settle()
            cpu = server.group.cpu()
            start = time.monotonic()
            accepted = source(server.port, f"somebody@{REMOTE}", n, 20, True)
            end = wait_sink(sink, n, start + opt.limit)
            cpu = (server.group.cpu() - cpu) if cpu is not None else None
            time.sleep(0.5)
            rcpts = sink.recipients()
            if len(rcpts) != n or sink.messages() != n:
                raise BenchError(f"sink got {len(rcpts)} recipients, {sink.messages()} messages for {n}")
            key = f"r{remote}"
            out[f"{key}_inject_per_s"] = round(n / accepted, 1)
            out[f"{key}_sunk_per_s"] = round(n / (end - start), 1)
            out[f"{key}_drain_s"] = round(end - start - accepted, 3)
            if cpu is not None:
                out[f"{key}_cpu_ms"] = round(1e3 * cpu / n, 3)
            log(server.name, key, out[f"{key}_inject_per_s"], out[f"{key}_sunk_per_s"])
        finally:
            server.stop()
            sink.close()
            server.purge()
    return out


def round_robin(port, count):
    """Inject ``count`` messages for the slow hosts in turn."""
    domains = [domain for domain, _ in slow_hosts()]
    client = Client(port)
    for i in range(count):
        client.send([f"somebody@{domains[i % len(domains)]}"], message(tag=f"{i:06d}"))
    client.close()


def slow(server, opt, hosts):
    """To ``hosts`` servers that take a second for each message: can the concurrency be used?"""
    out = {}
    remote, count = max(opt.remote), (opt.n or 2000) // 2
    sink = Sink(wait=1, hosts=hosts)
    try:
        server.configure(remote, slow=len(hosts) > 1)
        server.start()
        settle()
        cpu = server.group.cpu()
        start = time.monotonic()
        if len(hosts) > 1:
            round_robin(server.port, count)
        else:
            source(server.port, f"somebody@{REMOTE}", count, 20, True)
        # a server that does not use the concurrency is not waited for: what it has done until then is its rate
        until = start + min(opt.limit, 2.5 * opt.seconds)
        out["busy_kib"] = out["busy_processes"] = 0
        while (done := sink.messages()) < count and time.monotonic() < until:
            if done < count - remote:
                memory = server.group.memory()
                out["busy_kib"] = max(out["busy_kib"], sum(pss for _, pss, _ in memory))
                out["busy_processes"] = max(out["busy_processes"], len(memory))
            time.sleep(0.3 if done < count - remote else 0.02)
        end = time.monotonic()
        cpu = (server.group.cpu() - cpu) if cpu is not None else None
        if not done:
            raise BenchError("the sink got nothing")
        out["sunk_per_s"] = round(done / (end - start), 1)
        if cpu is not None:
            out["cpu_ms"] = round(1e3 * cpu / done, 3)
        if done >= count:
            time.sleep(1.5)
            if len(sink.recipients()) != count:
                raise BenchError(f"sink got {len(sink.recipients())} recipients for {count}")
        log(server.name, done, "of", count, out)
    finally:
        server.stop()
        sink.close()
        server.purge()
    return out


def w2slow(server, opt):
    """One slow destination."""
    return slow(server, opt, (HOST,))


def w2hosts(server, opt):
    """A hundred slow destinations, each a domain and an address of its own."""
    return slow(server, opt, tuple(address for _, address in slow_hosts()))


def call(argv, path, env):
    start = time.monotonic()
    pid = os.posix_spawn(argv[0], argv, env, file_actions=[(os.POSIX_SPAWN_OPEN, 0, path, os.O_RDONLY, 0)])
    status = os.waitpid(pid, 0)[1]
    if status:
        raise BenchError(f"{argv}: status {status}")
    return time.monotonic() - start


def calls(argv, path, env, count, workers):
    spent, errors = [], []

    def work(n):
        try:
            for _ in range(n):
                spent.append(call(argv, path, env))
        except Exception as error:  # handed to the caller below
            errors.append(error)

    threads = [threading.Thread(target=work, args=(count // workers,), daemon=True) for _ in range(workers)]
    start = time.monotonic()
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    if errors:
        raise errors[0]
    return spent, time.monotonic() - start


def w3(server, opt):
    """sendmail command latency."""
    path = os.path.join(SHM, f"mta-bench-msg.{os.getpid()}")
    with open(path, "wb") as f:
        f.write(b"Subject: bench\nTo: " + LOCAL.encode() + b"\n\n" + (b"x" * 70 + b"\n") * 56)
    server.configure()
    server.start()
    out = {}
    try:
        argv, env = server.sendmail(LOCAL), server.env()
        reset_maildir()
        server.inside(lambda: calls(argv, path, env, 10, 1))
        wait_delivered(10, time.monotonic() + opt.limit)
        bare, _ = calls([PYTHON, "-I", "-c", "pass"], os.devnull, env, 30, 1)
        out["python_p50_ms"] = latency(bare)["p50_ms"]
        for workers in (1, 8):
            count = opt.calls // workers * workers
            reset_maildir()
            settle()
            start = time.monotonic()
            spent, wall = server.inside(functools.partial(calls, argv, path, env, count, workers))
            end = wait_delivered(count, start + opt.limit)
            check_exact(count)
            for k, v in latency(spent).items():
                out[f"p{workers}_{k}"] = v
            out[f"p{workers}_calls_per_s"] = round(count / wall, 1)
            out[f"p{workers}_delivered_per_s"] = round(count / (end - start), 1)
        log(server.name, "p50", out["p1_p50_ms"], out["p8_p50_ms"])
    finally:
        server.stop()
        os.unlink(path)
    return out


def to_many(port, rcpts):
    """Seconds until one message for ``rcpts`` is accepted."""
    start = time.monotonic()
    client = Client(port, timeout=120)
    client.send(rcpts, message())
    client.close()
    return round(time.monotonic() - start, 3)


def w4_remote(server, opt, key):
    """The remote half of w4, by its metric names."""
    out = {}
    sink = Sink()
    try:
        remote = [f"r{i:04d}@{REMOTE}" for i in range(opt.rcpts)]
        settle()
        start = time.monotonic()
        out[f"{key}_accept_s"] = to_many(server.port, remote)
        while len(got := sink.recipients()) < opt.rcpts:
            if time.monotonic() > start + opt.limit:
                raise BenchError(f"sink got {len(got)} of {opt.rcpts} recipients")
            time.sleep(0.03)
        out[f"{key}_done_s"] = round(time.monotonic() - start, 3)
        time.sleep(0.5)
        if sorted(sink.recipients()) != sorted(r.encode() for r in remote):
            raise BenchError("sink got other recipients than sent")
        out[f"{key}_transactions"] = sink.messages()
    finally:
        sink.close()
    return out


def w4(server, opt):
    """One message, many recipients."""
    out = {}
    try:
        server.configure(20)
        server.start()
        reset_maildir()
        source(server.port, LOCAL, 5, 1)
        wait_delivered(5, time.monotonic() + opt.limit)
        reset_maildir()
        settle()
        cpu = server.group.cpu()
        start = time.monotonic()
        out["local_accept_s"] = to_many(server.port, [f"{USER}-{i:04d}@{DOMAIN}" for i in range(opt.rcpts)])
        end = wait_delivered(opt.rcpts, start + opt.limit)
        out["local_done_s"] = round(end - start, 3)
        if cpu is not None:
            out["local_cpu_ms"] = round(1e3 * (server.group.cpu() - cpu) / opt.rcpts, 3)
        check_exact(opt.rcpts)
        out |= w4_remote(server, opt, "remote")
        if server.sharing:
            server.stop()
            server.configure(20, alone=True)
            server.start()
            out |= w4_remote(server, opt, "alone")
        log(server.name, out)
    finally:
        server.stop()
        server.purge()
    return out


def w5(server, opt):
    """Memory: proportional set size, idle and with idle sessions."""
    server.configure()
    server.start()
    out = {}
    clients = []
    try:
        reset_maildir()
        source(server.port, LOCAL, 20, 2)
        time.sleep(2)
        out["idle_kib"], out["idle_processes"] = server.group.pss_kib()
        clients = [Client(server.port) for _ in range(opt.idle)]
        time.sleep(1)
        out[f"s{opt.idle}_kib"], out[f"s{opt.idle}_processes"] = server.group.pss_kib()
        out["session_kib"] = round((out[f"s{opt.idle}_kib"] - out["idle_kib"]) / opt.idle, 1)
        for c in clients:
            c.close()
        log(server.name, out)
    finally:
        server.stop()
    return out


def one_local(server):
    """Seconds from connecting until a new local message is in the Maildir."""
    before = delivered()
    start = time.monotonic()
    client = Client(server.port, timeout=120)
    client.send([LOCAL], message())
    client.close()
    return wait_delivered(before + 1, start + 120, 0.002) - start


def w6(server, opt):
    """A backlog of messages that cannot be delivered now."""
    server.configure(20)
    server.purge()
    server.start()
    out = {"backlog": opt.backlog}
    try:
        reset_maildir()
        settle()
        base = [one_local(server) for _ in range(20)]
        out["empty_local_p50_ms"] = latency(base)["p50_ms"]
        settle()
        start = time.monotonic()
        first = min(500, opt.backlog)
        accepted = source(server.port, f"somebody@{DEAD}", first, 20, True)
        if accepted * opt.backlog / first > 0.75 * opt.limit:
            raise Unsupported(f"accepting {opt.backlog} messages takes it {accepted * opt.backlog / first:.0f} s")
        if opt.backlog > first:
            accepted += source(server.port, f"somebody@{DEAD}", opt.backlog - first, 20, True, timeout=600)
        out["preload_accept_per_s"] = round(opt.backlog / accepted, 1)
        # let it settle: the first tries of the backlog are made now
        before, quiet = server.group.cpu(), 0
        while before is not None and quiet < 3 and time.monotonic() - start < accepted + opt.limit:
            time.sleep(1)
            now = server.group.cpu()
            quiet = quiet + 1 if now - before < 0.05 else 0
            before = now
        out["preload_settled_s"] = round(time.monotonic() - start, 1)
        reset_maildir()
        settle()
        spent = [one_local(server) for _ in range(50)]
        for k, v in latency(spent).items():
            out[f"local_{k}"] = v
        reset_maildir()
        n = max(20, (opt.n or 2000) // 4)
        settle()
        start = time.monotonic()
        accepted = source(server.port, LOCAL, n, 10, True)
        end = wait_delivered(n, start + opt.limit)
        out["accept_per_s"] = round(n / accepted, 1)
        out["delivered_per_s"] = round(n / (end - start), 1)
        pss, count = server.group.pss_kib()
        out["backlog_pss_kib"], out["backlog_processes"] = pss, count
        start = time.monotonic()
        server.stop()
        out["stop_s"] = round(time.monotonic() - start, 3)
        reset_maildir()
        settle()
        start = time.monotonic()
        server.start()
        one_local(server)
        out["restart_to_delivered_s"] = round(time.monotonic() - start, 3)
        log(server.name, out)
    finally:
        server.stop()
        server.purge()
    return out


def w7(server, opt):
    """Connect to banner, one client at a time."""
    server.configure()
    server.start()
    out = {}
    try:
        spent, whole = [], []
        until = time.monotonic() + opt.seconds
        for i in range(opt.calls + 10):
            if i >= 40 and time.monotonic() > until:
                break
            start = time.monotonic()
            with socket.create_connection((HOST, server.port), timeout=20) as s:
                if not s.recv(512).startswith(b"220"):
                    raise BenchError("no banner")
                banner = time.monotonic()
                s.sendall(b"QUIT\r\n")
                while s.recv(512):
                    pass
            if i >= 10:
                spent.append(banner - start)
                whole.append(time.monotonic() - start)
        out.update({f"banner_{k}": v for k, v in latency(spent).items()})
        out.update({f"quit_{k}": v for k, v in latency(whole).items()})
        log(server.name, out["banner_p50_ms"])
    finally:
        server.stop()
    return out


def make_homes(users):
    """A home with an empty Maildir for each of (name, uid, home)."""
    for _, uid, home in users:
        for path in (home, *(os.path.join(home, "Maildir", sub) for sub in ("", "new", "cur", "tmp"))):
            os.mkdir(path, 0o700)
            os.chown(path, uid, uid)


def w4uids(server, opt):
    """One message to as many users, each with a uid and a home of its own."""
    base = tempfile.mkdtemp(prefix="many.", dir=server.state)
    os.chmod(base, 0o755)
    many = Many(base, [(f"many{i:04d}", UIDS_FROM + i, os.path.join(base, f"u{i:04d}")) for i in range(opt.rcpts)])
    make_homes(many.users)
    out = {}
    try:
        server.configure(20, many=many)
        server.start()
        settle()
        cpu = server.group.cpu()
        start = time.monotonic()
        to_many(server.port, [f"{name}@{server.many_domain}" for name, _, _ in many.users])
        waiting = [os.path.join(home, "Maildir/new") for _, _, home in many.users]
        while waiting := [new for new in waiting if not os.listdir(new)]:
            if time.monotonic() > start + opt.limit:
                raise BenchError(f"{len(waiting)} of {opt.rcpts} not delivered")
            time.sleep(0.02)
        out["done_s"] = round(time.monotonic() - start, 3)
        if cpu is not None:
            out["cpu_ms"] = round(1e3 * (server.group.cpu() - cpu) / opt.rcpts, 3)
        log(server.name, out)
    finally:
        server.stop()
        server.purge()
        server.forget_many()
        shutil.rmtree(base)
    return out


def watched(folder, count, until, found):
    """Fill ``found`` with (name, time) of the first ``count`` files that appear in ``folder`` (inotify)."""
    libc = ctypes.CDLL(None, use_errno=True)
    fd = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    if libc.inotify_add_watch(fd, os.fsencode(folder), IN_CREATE | IN_MOVED_TO) < 0:
        raise BenchError("inotify")
    ready = threading.Event()

    def watch():
        ready.set()
        while len(found) < count and time.monotonic() < until:
            if not select.select([fd], [], [], 0.5)[0]:
                continue
            now = time.monotonic()
            data = os.read(fd, 1 << 16)
            while data:
                size = struct.unpack_from("=iIII", data)[3]
                found.append((data[16 : 16 + size].rstrip(b"\0").decode(), now))
                data = data[16 + size :]
        os.close(fd)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    ready.wait()
    return thread


def steady(server, opt):
    """From the reply to DATA until the message lies in the Maildir, at 100 messages a second."""
    server.configure()
    server.start()
    try:
        reset_maildir()
        source(server.port, LOCAL, 100, 5)
        wait_delivered(100, time.monotonic() + opt.limit)
        reset_maildir()
        settle()
        accepted, arrived, count = {}, [], opt.calls * 3
        new = os.path.join(maildir(), "new")
        begin = time.monotonic()
        watcher = watched(new, count, begin + count / 100 + 10, arrived)
        for i in range(count):
            pause = begin + i / 100 - time.monotonic()
            if pause > 0:
                time.sleep(pause)
            elif pause < -5:
                raise Unsupported("cannot take 100 messages a second")
            client = Client(server.port, timeout=60)
            client.send([LOCAL], message(tag=f"{i:06d}"))
            accepted[b"%06d" % i] = time.monotonic()
            client.close()
        watcher.join()
        if len(arrived) != count:
            raise BenchError(f"{len(arrived)} of {count} arrived")
        spent = []
        for name, moment in arrived:
            with open(os.path.join(new, name), "rb") as f:
                tag = re.search(rb"(?mi)^Message-Id: <(\d+)\.", f.read())
            spent.append(max(0.0, moment - accepted.pop(tag[1])))
        out = {f"maildir_{k}": v for k, v in latency(spent).items()}
        log(server.name, out)
    finally:
        server.stop()
    return out


def by_program(server):
    """Memory and processes of the whole server, and PSS and RSS of each of its programs, in KiB."""
    memory = server.group.memory()
    out = {"kib": sum(pss for _, pss, _ in memory), "rss_kib": sum(rss for _, _, rss in memory)}
    out["processes"] = len(memory)
    for name in sorted({name for name, _, _ in memory}):
        ours = [(pss, rss) for other, pss, rss in memory if other == name]
        total, most, rss = sum(p for p, _ in ours), max(p for p, _ in ours), max(r for _, r in ours)
        out[f"{name} x{len(ours)}"] = f"PSS {total}, of one at most {most}; RSS of one at most {rss}"
    return out


def sampled(server, done, samples):
    """A thread that adds the memory of all of the server's processes, each second, until ``done``."""

    def look():
        while not done.wait(1):
            memory = server.group.memory()
            samples.append((sum(pss for _, pss, _ in memory), len(memory)))

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    return thread


def busy(server, opt, count):
    """(PSS in KiB, processes), medians while ``count`` messages pass: between two loads fewer workers may be there."""
    samples, done = [], threading.Event()
    thread = sampled(server, done, samples)
    try:
        reset_maildir()
        remove_aside()  # of 200,000 messages
        source(server.port, LOCAL, count, 10, True, timeout=600)
        wait_delivered(count, time.monotonic() + opt.limit, 0.1)
    finally:
        done.set()
        thread.join()
    memory = server.group.memory()
    samples = samples or [(sum(pss for _, pss, _ in memory), len(memory))]
    return tuple(statistics.median(values) for values in zip(*samples, strict=True))


def leak(server, opt):
    """Memory of the busy system after a twentieth of opt.messages, and after all."""
    server.configure()
    server.start()
    out = {}
    try:
        done, begin = 0, time.monotonic()
        first, last = opt.messages // 20, opt.messages
        for mark in sorted({first, last // 2, last}):
            while done < mark:
                step = min(5000, mark - done)
                pss, processes = busy(server, opt, step)
                done += step
            out[f"after_{mark}_kib"], out[f"after_{mark}_processes"] = pss, processes
            log(server.name, "after", done, "messages,", round(time.monotonic() - begin), "s:", pss, "KiB while busy")
            for key, value in by_program(server).items():
                log("   ", key, value)
        out["messages_per_s"] = round(done / (time.monotonic() - begin), 1)
        out["growth_percent"] = round(100 * (out[f"after_{last}_kib"] / out[f"after_{first}_kib"] - 1), 1)
        log(server.name, out)
    finally:
        server.stop()
        server.purge()
    return out


# --- what the machine itself can do -------------------------------------------


def _forked(workers, work):
    """Run work(i) in forked workers; return the wall time."""
    start = time.monotonic()
    pids = []
    for i in range(workers):
        pid = os.fork()
        if not pid:
            try:
                work(i)
                os._exit(0)
            except BaseException:
                os._exit(1)
        pids.append(pid)
    for pid in pids:
        if os.waitpid(pid, 0)[1]:
            raise BenchError("worker failed")
    return time.monotonic() - start


def raw(folder):
    """Limits of this machine: fsync, exec, fork, Python start."""
    out = {}
    base = os.path.join(folder, "raw")
    body = b"x" * 4096
    count = 300
    for workers in (1, 4):
        os.makedirs(base, exist_ok=True)
        os.sync()

        def work(i):
            for j in range(count):
                fd = os.open(f"{base}/{i}.{j}", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
                os.write(fd, body)
                os.fsync(fd)
                os.close(fd)

        out[f"fsync_files_{workers}proc_per_s"] = round(workers * count / _forked(workers, work), 1)
        subprocess.run(["rm", "-rf", base], check=True)

    def rate(count, step):
        start = time.monotonic()
        for _ in range(count):
            step()
        return round(count / (time.monotonic() - start), 1)

    env = {"PATH": "/usr/bin:/bin"}

    def spawn(argv):
        def step():
            os.waitpid(os.posix_spawn(argv[0], argv, env), 0)

        return step

    def fork_only():
        pid = os.fork()
        if not pid:
            os._exit(0)
        os.waitpid(pid, 0)

    def fork_exec():
        pid = os.fork()
        if not pid:
            os.execve("/bin/true", ["true"], env)
        os.waitpid(pid, 0)

    out["spawn_true_per_s"] = rate(1000, spawn(["/bin/true"]))
    out["fork_exec_true_per_s"] = rate(1000, fork_exec)
    out["fork_per_s"] = rate(1000, fork_only)
    out["fork_4proc_per_s"] = round(4 * 500 / _forked(4, lambda i: [fork_only() for _ in range(500)]), 1)
    python = os.path.realpath(sys.executable)
    out["python_start_per_s"] = rate(50, spawn([python, "-c", "pass"]))
    out["python_I_S_start_per_s"] = rate(50, spawn([python, "-I", "-S", "-c", "pass"]))
    return out


WORKLOADS = {
    "w1": w1,
    "w2": w2,
    "w2slow": w2slow,
    "w2hosts": w2hosts,
    "w3": w3,
    "w4": w4,
    "w4uids": w4uids,
    "w5": w5,
    "w6": w6,
    "w7": w7,
    "latency": steady,
    "leak": leak,
}
