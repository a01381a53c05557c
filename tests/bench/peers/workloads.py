"""The workloads. Each takes a started or stopped server and returns {metric: number}.

Metric names end in _per_s (higher is better), _ms, _s or _kib (lower is better).
"""

import os
import shutil
import subprocess
import tempfile
import threading
import time

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
    check_exact,
    delivered,
    latency,
    log,
    maildir,
    message,
    reset_maildir,
    source,
    wait_delivered,
)

LOCAL = f"{USER}@{DOMAIN}"


def settle():
    """Start every measurement from a quiet disk."""
    os.sync()
    time.sleep(0.2)


def w1(server, opt):
    """SMTP in and local delivery."""
    server.configure()
    server.start()
    out = {}
    try:
        source(server.port, LOCAL, 50, 5)  # warm up
        for reuse in (False, True):
            for sessions in opt.sessions:
                n = opt.n if sessions > 1 else opt.n // 2
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
                out[f"{key}_accept_per_s"] = round(n / accepted, 1)
                out[f"{key}_delivered_per_s"] = round(n / (end - start), 1)
                if cpu is not None:
                    out[f"{key}_cpu_ms"] = round(1e3 * cpu / n, 3)
                log(server.name, key, out[f"{key}_accept_per_s"], out[f"{key}_delivered_per_s"])
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
    out = {}
    for remote in opt.remote:
        sink = Sink()
        try:
            server.configure(remote)
            server.start()
            settle()
            cpu = server.group.cpu()
            start = time.monotonic()
            accepted = source(server.port, f"somebody@{REMOTE}", opt.n, 20, True)
            end = wait_sink(sink, opt.n, start + opt.limit)
            cpu = (server.group.cpu() - cpu) if cpu is not None else None
            time.sleep(0.5)
            rcpts = sink.recipients()
            if len(rcpts) != opt.n or sink.messages() != opt.n:
                raise BenchError(f"sink got {len(rcpts)} recipients, {sink.messages()} messages for {opt.n}")
            key = f"r{remote}"
            out[f"{key}_inject_per_s"] = round(opt.n / accepted, 1)
            out[f"{key}_sunk_per_s"] = round(opt.n / (end - start), 1)
            out[f"{key}_drain_s"] = round(end - start - accepted, 3)
            if cpu is not None:
                out[f"{key}_cpu_ms"] = round(1e3 * cpu / opt.n, 3)
            log(server.name, key, out[f"{key}_inject_per_s"], out[f"{key}_sunk_per_s"])
        finally:
            server.stop()
            sink.close()
            server.purge()
    return out


def w2slow(server, opt):
    """Remote out to a sink that takes a second for each message: can the concurrency be used?"""
    out = {}
    remote, count = max(opt.remote), opt.n // 2
    sink = Sink(wait=1)
    try:
        server.configure(remote)
        server.start()
        settle()
        cpu = server.group.cpu()
        start = time.monotonic()
        source(server.port, f"somebody@{REMOTE}", count, 20, True)
        out["busy_kib"] = out["busy_processes"] = 0
        while sink.messages() < count - remote and time.monotonic() < start + opt.limit:
            pss, processes = server.group.pss_kib()
            out["busy_kib"] = max(out["busy_kib"], pss)
            out["busy_processes"] = max(out["busy_processes"], processes)
            time.sleep(0.3)
        end = wait_sink(sink, count, start + opt.limit)
        cpu = (server.group.cpu() - cpu) if cpu is not None else None
        out[f"r{remote}_sunk_per_s"] = round(count / (end - start), 1)
        if cpu is not None:
            out[f"r{remote}_cpu_ms"] = round(1e3 * cpu / count, 3)
        time.sleep(1.5)
        if len(sink.recipients()) != count:
            raise BenchError(f"sink got {len(sink.recipients())} recipients for {count}")
        log(server.name, out)
    finally:
        server.stop()
        sink.close()
        server.purge()
    return out


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

    threads = [threading.Thread(target=work, args=(count // workers,)) for _ in range(workers)]
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
        for _ in range(10):
            call(argv, path, env)
        time.sleep(1)
        for workers in (1, 8):
            count = opt.calls // workers * workers
            reset_maildir()
            settle()
            start = time.monotonic()
            spent, wall = calls(argv, path, env, count, workers)
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


def w4(server, opt):
    """One message, many recipients."""
    out = {}
    sink = Sink()
    try:
        server.configure(20)
        server.start()
        source(server.port, LOCAL, 5, 1)
        time.sleep(0.5)
        reset_maildir()
        settle()
        local = [f"{USER}-{i:04d}@{DOMAIN}" for i in range(opt.rcpts)]
        start = time.monotonic()
        client = Client(server.port, timeout=120)
        client.send(local, message())
        client.close()
        out["local_accept_s"] = round(time.monotonic() - start, 3)
        end = wait_delivered(opt.rcpts, start + opt.limit)
        out["local_done_s"] = round(end - start, 3)
        check_exact(opt.rcpts)
        remote = [f"r{i:04d}@{REMOTE}" for i in range(opt.rcpts)]
        settle()
        start = time.monotonic()
        client = Client(server.port, timeout=120)
        client.send(remote, message())
        client.close()
        out["remote_accept_s"] = round(time.monotonic() - start, 3)
        while len(got := sink.recipients()) < opt.rcpts:
            if time.monotonic() > start + opt.limit:
                raise BenchError(f"sink got {len(got)} of {opt.rcpts} recipients")
            time.sleep(0.03)
        out["remote_done_s"] = round(time.monotonic() - start, 3)
        time.sleep(0.5)
        if sorted(sink.recipients()) != sorted(r.encode() for r in remote):
            raise BenchError("sink got other recipients than sent")
        out["remote_transactions"] = sink.messages()
        log(server.name, out)
    finally:
        server.stop()
        sink.close()
        server.purge()
    return out


def w5(server, opt):
    """Memory: proportional set size, idle and with idle sessions."""
    server.configure()
    server.start()
    out = {}
    try:
        reset_maildir()
        source(server.port, LOCAL, 20, 2)
        time.sleep(2)
        pss, count = server.group.pss_kib()
        out["idle_kib"], out["idle_processes"] = pss, count
        clients = [Client(server.port) for _ in range(opt.idle)]
        time.sleep(1)
        pss, count = server.group.pss_kib()
        out[f"s{opt.idle}_kib"], out[f"s{opt.idle}_processes"] = pss, count
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
        accepted = source(server.port, f"somebody@{DEAD}", opt.backlog, 20, True, timeout=600)
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
        n = opt.n // 4
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
    import socket

    server.configure()
    server.start()
    out = {}
    try:
        spent, whole = [], []
        for i in range(opt.calls + 10):
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


UIDS_FROM = 70000  # of the users of w4uids, who exist in users/assign only


def w4uids(server, opt):
    """One message to as many users, each with a uid and a home of its own."""
    assign = os.path.join(getattr(server, "home", "") or "/nonexistent", "users/assign")
    if not os.path.isdir(os.path.dirname(assign)):
        raise BenchError("only for qmail-like servers")
    base = tempfile.mkdtemp(prefix="mta-bench-uids.", dir=server.state)
    os.chmod(base, 0o755)
    lines = []
    for i in range(opt.rcpts):
        home, uid = os.path.join(base, f"u{i:04d}"), UIDS_FROM + i
        for path in (home, *(os.path.join(home, "Maildir", sub) for sub in ("", "new", "cur", "tmp"))):
            os.mkdir(path, 0o700)
            os.chown(path, uid, uid)
        lines.append(f"=many{i:04d}:many{i:04d}:{uid}:{uid}:{home}:::\n")
    out = {}
    try:
        with open(assign, "w") as f:
            f.write("".join(lines) + ".\n")
        subprocess.run([os.path.join(server.home, "bin/qmail-newu")], check=True, env={"PATH": os.defpath})
        server.configure(20)
        server.start()
        settle()
        cpu = server.group.cpu()
        start = time.monotonic()
        client = Client(server.port, timeout=120)
        client.send([f"many{i:04d}@{DOMAIN}" for i in range(opt.rcpts)], message())
        client.close()
        while (done := sum(bool(os.listdir(f"{base}/u{i:04d}/Maildir/new")) for i in range(opt.rcpts))) < opt.rcpts:
            if time.monotonic() > start + opt.limit:
                raise BenchError(f"only {done} of {opt.rcpts} delivered")
            time.sleep(0.02)
        out["done_s"] = round(time.monotonic() - start, 3)
        if cpu is not None:
            out["cpu_ms"] = round(1e3 * (server.group.cpu() - cpu) / opt.rcpts, 3)
        log(server.name, out)
    finally:
        server.stop()
        server.purge()
        for name in (assign, os.path.join(os.path.dirname(assign), "cdb")):
            if os.path.exists(name):
                os.unlink(name)
        shutil.rmtree(base)
    return out


def steady(server, opt):
    """From the reply to DATA until the message lies in the Maildir, at 100 messages a second."""
    server.configure()
    server.start()
    try:
        source(server.port, LOCAL, 100, 5)
        wait_delivered(1, time.monotonic() + 10)
        time.sleep(1)
        reset_maildir()
        settle()
        new = os.path.join(maildir(), "new")
        accepted, arrived, count = {}, {}, opt.calls * 3
        begin = time.monotonic()

        def watch():
            while len(arrived) < count and time.monotonic() < begin + opt.limit:
                for entry in os.scandir(new):
                    if entry.name not in arrived:
                        arrived[entry.name] = time.time()
                time.sleep(0.001)

        watcher = threading.Thread(target=watch)
        watcher.start()
        for i in range(count):
            pause = begin + i / 100 - time.monotonic()
            if pause > 0:
                time.sleep(pause)
            client = Client(server.port, timeout=60)
            client.send([LOCAL], message(tag=f"{i:06d}"))
            accepted[i] = time.time()
            client.close()
        watcher.join()
        if len(arrived) != count:
            raise BenchError(f"{len(arrived)} of {count} arrived")
        # one at a time and in order: the n-th acceptance is the n-th arrival, give or take a neighbour
        spent = [max(0.0, b - a) for a, b in zip(sorted(accepted.values()), sorted(arrived.values()), strict=True)]
        out = {f"maildir_{k}": v for k, v in latency(spent).items()}
        log(server.name, out)
    finally:
        server.stop()
    return out


def leak(server, opt):
    """Memory of the busy system after 10,000 messages, and after many more."""
    server.configure()
    server.start()
    out = {}
    try:
        done = 0
        for mark in (10000, 200000):
            while done < mark:
                reset_maildir()
                step = min(5000, mark - done)
                source(server.port, LOCAL, step, 10, True, timeout=600)
                wait_delivered(step, time.monotonic() + opt.limit)
                done += step
            time.sleep(1)
            out[f"after_{mark}_kib"], _ = server.group.pss_kib()
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
    import sys

    python = os.path.realpath(sys.executable)
    out["python_start_per_s"] = rate(50, spawn([python, "-c", "pass"]))
    out["python_I_S_start_per_s"] = rate(50, spawn([python, "-I", "-S", "-c", "pass"]))
    return out


WORKLOADS = {
    "w1": w1,
    "w2": w2,
    "w2slow": w2slow,
    "w3": w3,
    "w4": w4,
    "w4uids": w4uids,
    "w5": w5,
    "w6": w6,
    "w7": w7,
    "latency": steady,
    "leak": leak,
}
