"""Small shared pieces of the mail server bench: processes, Maildirs, the sink, numbers."""

import fcntl
import functools
import json
import os
import pwd
import random
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time

HOST = "127.0.0.1"  # the bench never talks to anything but loopback
DOMAIN = "bench.test"  # local domain
REMOTE = "remote.test"  # routed to the sink
DEAD = "dead.test"  # routed to a closed port
SLOW = "slow.test"  # s00 to s99 of it: each routed to an address of its own
SLOW_HOSTS = 100
USER = os.environ.get("BENCH_USER", "benchu")
STATE = os.environ.get("BENCH_STATE", os.path.join(os.environ.get("XDG_STATE_HOME", "/var/lib"), "mta-bench"))
SMTP_SOURCE = os.environ.get("SMTP_SOURCE", "smtp-source")
SMTP_SINK = os.environ.get("SMTP_SINK", "smtp-sink")
SHM = os.environ.get("BENCH_SHM", "/dev/shm")


class BenchError(Exception):
    pass


class Unsupported(Exception):
    """This server has nothing like that: a dash in the table."""


def log(*words):
    print(time.strftime("%H:%M:%S"), *words, file=sys.stderr, flush=True)


def find(program):
    for folder in os.environ.get("PATH", "").split(":") + ["/usr/sbin", "/sbin"]:
        path = os.path.join(folder, program)
        if os.access(path, os.X_OK):
            return path
    raise BenchError(f"{program}: not found")


def free_port():
    """A port of loopback that nobody uses now, below those that the kernel gives to clients."""
    while True:
        port = random.randrange(20000, 32000)
        try:
            socket.create_server((HOST, port)).close()
            return port
        except OSError:
            pass


@functools.cache
def sink_port():
    return free_port()


@functools.cache
def dead_socket():
    """Bound and never listening: its port refuses connections, and nobody else gets it."""
    sock = socket.socket()
    sock.bind((HOST, 0))
    return sock


def dead_port():
    return dead_socket().getsockname()[1]


def slow_hosts():
    """(domain, address) of each slow server."""
    return [(f"s{i:02d}.{SLOW}", f"127.0.1.{i + 1}") for i in range(SLOW_HOSTS)]


@functools.cache
def claim(path):
    """Keep the directory ``path`` from other runs of this bench until this process ends; waits for them."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        log("another run uses", path, "- waiting for its end")
        fcntl.flock(fd, fcntl.LOCK_EX)
    return fd


# --- the local user's Maildir -------------------------------------------------


def user_home():
    return pwd.getpwnam(USER).pw_dir


def maildir():
    return os.path.join(user_home(), "Maildir")


def aside():
    return os.path.join(user_home(), "Maildirs.aside")


def remove_aside():
    shutil.rmtree(aside(), ignore_errors=True)


def reset_maildir():
    """An empty Maildir. What was in the old one stays on the disk until ``remove_aside``.

    ext4 without a journal takes a freed inode only minutes later and passes it until then, one by one: after a Maildir
    of thousands of messages was removed, a third of a server's processor time went there.
    """
    entry = pwd.getpwnam(USER)
    base = maildir()
    if os.path.lexists(base):
        os.makedirs(aside(), mode=0o700, exist_ok=True)
        os.rename(base, os.path.join(aside(), str(time.time_ns())))
    for path in (base, *(os.path.join(base, sub) for sub in ("new", "cur", "tmp"))):
        os.mkdir(path, 0o700)
        os.chown(path, entry.pw_uid, entry.pw_gid)
    # qmail-style servers deliver user-ANYTHING through this file; the others ignore it
    ext = os.path.join(entry.pw_dir, ".qmail-default")
    with open(ext, "w") as f:
        f.write("./Maildir/\n")
    os.chmod(ext, 0o644)
    os.chown(ext, entry.pw_uid, entry.pw_gid)


def delivered():
    with os.scandir(os.path.join(maildir(), "new")) as it:
        return sum(1 for _ in it)


def wait_delivered(count, deadline, step=0.02):
    """Wait until new/ holds count files; return the moment of the last look."""
    while True:
        have = delivered()
        now = time.monotonic()
        if have >= count:
            return now
        if now > deadline:
            raise BenchError(f"only {have} of {count} delivered in time")
        time.sleep(step)


def check_exact(count, settle=0.3):
    """Nothing lost, nothing twice: exact count after settling, all (Message-Id, Delivered-To) distinct."""
    time.sleep(settle)
    seen = set()
    folder = os.path.join(maildir(), "new")
    names = os.listdir(folder)
    for name in names:
        with open(os.path.join(folder, name), "rb") as f:
            head = f.read(4096).split(b"\n\n", 1)[0]
        mid = re.search(rb"(?mi)^Message-Id:\s*(\S+)", head)
        to = re.search(rb"(?mi)^(?:Delivered-To|X-Original-To|Envelope-To):\s*(\S+)", head)
        seen.add((mid and mid.group(1), to and to.group(1)))
    if len(names) != count:
        raise BenchError(f"{len(names)} files delivered, expected {count}")
    return len(seen)


# --- a group of processes we started -----------------------------------------


class Group:
    """Everything one server starts, kept in a cgroup of its own when cgroup2 is writable.

    The cgroup gives the exact process list (daemons included) and the CPU time used.
    Without it, descendants of the started process are followed and CPU time is unknown.
    """

    def __init__(self, name):
        self.dir = None
        self.roots = []
        try:
            with open("/proc/mounts") as f:
                mount = next(line.split()[1] for line in f if line.split()[2] == "cgroup2")
            self._sweep(mount, name)
            path = os.path.join(mount, f"mta-bench-{name}-{os.getpid()}")  # ours alone: all in it are killed at the end
            os.makedirs(path, exist_ok=True)
            if os.access(os.path.join(path, "cgroup.procs"), os.W_OK):
                self.dir = path
        except (StopIteration, OSError):
            pass

    @staticmethod
    def _sweep(mount, name):
        """End what a run that was killed has left running."""
        for entry in os.listdir(mount):
            if entry.startswith(f"mta-bench-{name}-") and not os.path.exists(f"/proc/{entry.rsplit('-', 1)[1]}"):
                with open(os.path.join(mount, entry, "cgroup.procs")) as f:
                    left = [int(x) for x in f]
                for pid in left:
                    os.kill(pid, signal.SIGKILL)
                for _ in range(100):
                    try:
                        os.rmdir(os.path.join(mount, entry))
                        break
                    except OSError:
                        time.sleep(0.02)

    def _join(self):
        if self.dir:
            with open(os.path.join(self.dir, "cgroup.procs"), "w") as f:
                f.write("0")

    def spawn(self, argv, **kw):
        proc = subprocess.Popen(argv, preexec_fn=self._join, stdin=subprocess.DEVNULL, start_new_session=True, **kw)
        self.roots.append(proc)
        return proc

    def run(self, argv, **kw):
        return subprocess.run(
            argv,
            preexec_fn=self._join,
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            **kw,
        )

    def pids(self):
        if self.dir:
            with open(os.path.join(self.dir, "cgroup.procs")) as f:
                return [int(x) for x in f]
        parents = {}
        for entry in os.listdir("/proc"):
            if entry.isdigit():
                try:
                    with open(f"/proc/{entry}/stat") as f:
                        parents[int(entry)] = int(f.read().rsplit(")", 1)[1].split()[1])
                except OSError:
                    pass
        found = {p.pid for p in self.roots}
        while True:
            more = {pid for pid, parent in parents.items() if parent in found} - found
            if not more:
                return [p for p in found if p in parents]
            found |= more

    def cpu(self):
        if not self.dir:
            return None
        with open(os.path.join(self.dir, "cpu.stat")) as f:
            return int(f.readline().split()[1]) / 1e6

    def pss_kib(self):
        total, count = 0, 0
        for pid in self.pids():
            try:
                with open(f"/proc/{pid}/smaps_rollup") as f:
                    for line in f:
                        if line.startswith("Pss:"):
                            total += int(line.split()[1])
                            count += 1
                            break
            except OSError:
                pass
        return total, count

    def end(self, grace=10):
        """End the processes that were started, then all that they left behind."""
        for proc in self.roots:
            if proc.poll() is None:
                proc.terminate()
        limit = time.monotonic() + grace
        while time.monotonic() < limit and any(proc.poll() is None for proc in self.roots):
            time.sleep(0.02)
        for sig in (15, 9):
            for pid in self.pids():
                try:
                    os.kill(pid, sig)
                except ProcessLookupError:
                    pass
            limit = time.monotonic() + grace
            while time.monotonic() < limit:
                for proc in self.roots:
                    proc.poll()
                if not self.pids():
                    self.roots.clear()
                    return
                time.sleep(0.02)
        raise BenchError("processes left running")

    def remove(self):
        """Take the empty cgroup away; the kernel may need a moment after the last process."""
        for _ in range(50 if self.dir else 0):
            try:
                os.rmdir(self.dir)
                return
            except FileNotFoundError:
                return
            except OSError:
                time.sleep(0.02)

    def memory(self):
        """(program, PSS in KiB, RSS in KiB) of each process."""
        found = []
        for pid in self.pids():
            try:
                with open(f"/proc/{pid}/comm") as f:
                    name = f.read().strip()
                with open(f"/proc/{pid}/smaps_rollup") as f:
                    sizes = dict(line.split()[:2] for line in f if line.startswith(("Pss:", "Rss:")))
                found.append((name, int(sizes["Pss:"]), int(sizes["Rss:"])))
            except (OSError, KeyError):  # it ended meanwhile
                pass
        return found


# --- SMTP pieces --------------------------------------------------------------


def wait_port(port, timeout=20, host=HOST):
    limit = time.monotonic() + timeout
    while True:
        try:
            with socket.create_connection((host, port), timeout=5) as s:
                if s.recv(512).startswith(b"220"):
                    return
        except OSError:
            pass
        if time.monotonic() > limit:
            raise BenchError(f"port {port} does not answer")
        time.sleep(0.01)


def wait_listening(port, timeout=20):
    """Wait until somebody listens on ``port``, who may say nothing at first."""
    limit = time.monotonic() + timeout
    while True:
        try:
            socket.create_connection((HOST, port), timeout=5).close()
            return
        except OSError:
            if time.monotonic() > limit:
                raise BenchError(f"nobody listens on port {port}") from None
        time.sleep(0.01)


def wait_socket(path, kind, timeout=20):
    """Wait until a server answers at the socket ``path`` of this ``kind``."""
    limit = time.monotonic() + timeout
    while True:
        try:
            with socket.socket(socket.AF_UNIX, kind) as s:
                s.connect(path)
                return
        except OSError:
            if time.monotonic() > limit:
                raise BenchError(f"{path} does not answer") from None
        time.sleep(0.01)


class Client:
    """A line-by-line SMTP client."""

    def __init__(self, port, timeout=60):
        self.sock = socket.create_connection((HOST, port), timeout=timeout)
        self.file = self.sock.makefile("rb")
        self.expect(220)
        self.cmd(f"EHLO client.{DOMAIN}")

    def expect(self, code):
        while True:
            line = self.file.readline()
            if line[3:4] != b"-":
                break
        if line[:3] != str(code).encode():
            raise BenchError(f"wanted {code}, got {line!r}")

    def cmd(self, text, code=250):
        self.sock.sendall(text.encode() + b"\r\n")
        self.expect(code)

    def send(self, rcpts, body, sender="sender@" + DOMAIN):
        self.cmd(f"MAIL FROM:<{sender}>")
        for rcpt in rcpts:
            self.cmd(f"RCPT TO:<{rcpt}>")
        self.cmd("DATA", 354)
        self.sock.sendall(body + b"\r\n.\r\n")
        self.expect(250)

    def close(self):
        try:
            self.cmd("QUIT", 221)
        finally:
            self.file.close()
            self.sock.close()


def message(size=4096, tag="x"):
    head = (
        f"From: sender@{DOMAIN}\r\nTo: somebody@{DOMAIN}\r\nSubject: bench\r\n"
        f"Message-Id: <{tag}.{time.time_ns()}@{DOMAIN}>\r\n\r\n"
    ).encode()
    line = b"x" * 70 + b"\r\n"
    return head + line * (size // len(line)) + b"end"


def source(port, rcpt, count, sessions, reuse=False, size=4096, timeout=300):
    """Run smtp-source; return seconds until everything was accepted."""
    argv = [
        find(SMTP_SOURCE),
        "-s",
        str(sessions),
        "-m",
        str(count),
        "-l",
        str(size),
        "-C",
        "20",
        "-f",
        "sender@" + DOMAIN,
        "-t",
        rcpt,
    ]
    argv += (["-d"] if reuse else []) + [f"{HOST}:{port}"]
    start = time.monotonic()
    done = subprocess.run(argv, timeout=timeout, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    spent = time.monotonic() - start
    if done.returncode:
        raise BenchError(f"smtp-source: {done.stdout[-300:]!r}")
    return spent


class Sink:
    """smtp-sink on loopback, dumping what it got to tmpfs so that recipients can be counted."""

    def __init__(self, wait=0, hosts=(HOST,)):
        """wait: seconds to sit on each DATA command, as a distant server would."""
        self.base = tempfile.mkdtemp(prefix="mta-bench-sink.", dir=SHM)
        shutil.chown(self.base, USER)
        self.dumps = [os.path.join(self.base, f"dump.{host}") for host in hosts]
        self.stats = [os.path.join(self.base, f"stat.{host}") for host in hosts]
        self.procs = []
        for host, dump, stat in zip(hosts, self.dumps, self.stats, strict=True):
            words = [find(SMTP_SINK), "-u", USER, "-c", "-m", "512", "-D", dump, *(["-w", str(wait)] if wait else [])]
            with open(stat, "wb") as out:
                self.procs.append(
                    subprocess.Popen(
                        [*words, f"{host}:{sink_port()}", "512"],
                        stdout=out,
                        stderr=subprocess.DEVNULL,
                        stdin=subprocess.DEVNULL,
                        cwd="/",
                    )
                )
        for host in hosts:
            wait_port(sink_port(), host=host)

    def messages(self):
        total = 0
        for path in self.stats:
            size = os.path.getsize(path)
            with open(path, "rb") as f:
                f.seek(max(0, size - 200))
                hits = re.findall(rb"mesg=(\d+)", f.read())
            total += int(hits[-1]) if hits else 0
        return total

    def recipients(self):
        """All envelope recipients so far, in order."""
        found = []
        for path in self.dumps:
            if os.path.exists(path):
                with open(path, "rb") as f:
                    found += re.findall(rb"(?m)^X-Rcpt-Args: <([^>]*)>", f.read())
        return found

    def close(self):
        for proc in self.procs:
            proc.terminate()
        for proc in self.procs:
            proc.wait()
        shutil.rmtree(self.base, ignore_errors=True)


# --- numbers ------------------------------------------------------------------


def percentile(values, q):
    values = sorted(values)
    return values[min(len(values) - 1, int(q * len(values)))]


def latency(values):
    return {
        "p50_ms": round(1e3 * statistics.median(values), 3),
        "p99_ms": round(1e3 * percentile(values, 0.99), 3),
        "max_ms": round(1e3 * max(values), 3),
    }


def save(path, data):
    tmp = path + ".tmp"
    with open(tmp, "w") as f:
        json.dump(data, f, indent=1, sort_keys=True)
        f.write("\n")
    os.replace(tmp, path)
