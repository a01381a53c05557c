"""The workloads of 2026, beside those of workloads.py: TLS, AUTH, checks and signatures.

Figures end as there. ``*_load_ms`` is the processor time of the load generator for a message: it shares the machine.
"""

import os
import random
import shutil
import tempfile
import time
from collections import Counter

from tests.bench.peers import kinds
from tests.bench.peers.adapters import Many
from tests.bench.peers.common import (
    DOMAIN,
    REMOTE,
    USER,
    BenchError,
    Unsupported,
    check_exact,
    log,
    maildir,
    message,
    reset_maildir,
    source,
    wait_delivered,
    wait_listening,
)
from tests.bench.peers.load import Pop3s, Smtp, letter_to, load
from tests.bench.peers.names import resolver, signed_letters
from tests.bench.peers.private import PASSWORD, STRANGER
from tests.bench.peers.tls_sink import TlsSink
from tests.bench.peers.workloads import LOCAL, UIDS_FROM, affordable, make_homes, settle, to_many, wait_sink

SESSIONS, SESSIONS_POP3 = 10, 8
USERS, UIDS = 10_000, 1_000


def prepared(server, kind):
    """The server, configured and running for ``kind``."""
    if kind not in server.kinds:
        raise Unsupported(f"{server.name} has no {kind} here")
    server.configure(kind=kind)
    server.start()


def delivered_phase(server, opt, work, key):
    """``work`` until all of it is in the Maildir, by metric names that begin with ``key``."""
    wanted = opt.n or 1000
    pilot = min(5 * SESSIONS, wanted)
    reset_maildir()
    start = time.monotonic()
    load(work, pilot, SESSIONS)  # every process that this needs is there then
    wait_delivered(pilot, start + opt.limit)
    n = affordable(wanted, pilot, time.monotonic() - start, opt)
    reset_maildir()
    settle()
    cpu = server.group.cpu()
    start = time.monotonic()
    sent = load(work, n, SESSIONS)
    end = wait_delivered(n, start + opt.limit)
    cpu = (server.group.cpu() - cpu) if cpu is not None else None
    if check_exact(n) != n:
        raise BenchError("the same message twice")
    out = {
        f"{key}_accept_per_s": round(n / sent.seconds, 1),
        f"{key}_delivered_per_s": round(n / (end - start), 1),
        f"{key}_load_ms": round(1e3 * sent.cpu_s / n, 3),
    }
    if cpu is not None:
        out[f"{key}_cpu_ms"] = round(1e3 * cpu / n, 3)
    log(server.name, key, n, out)
    return out


def both_ways(server, opt, kind, work):
    """work(reuse): one message on each connection, then many, and the memory of the server after that."""
    out = {}
    try:
        prepared(server, kind)
        for reuse in (False, True):
            out |= delivered_phase(server, opt, work(reuse), "many" if reuse else "one")
        out["kib"], out["processes"] = server.group.pss_kib()
    finally:
        server.stop()
        server.purge()
    return out


def checked_results(wanted):
    """Fails unless every message says ``wanted``, as b"dkim=pass", of its sender."""
    folder = os.path.join(maildir(), "new")
    for name in os.listdir(folder):
        with open(os.path.join(folder, name), "rb") as f:
            head = f.read(8192).split(b"\n\n", 1)[0]
        for word in wanted:
            if word not in head:
                raise BenchError(f"no {word!r}: {head!r}")


def w8(server, opt):
    """Submission: STARTTLS, AUTH PLAIN, a message of 4 KiB."""
    letter = letter_to(LOCAL, LOCAL)  # from the user who logs in, to himself
    login = (USER.encode(), PASSWORD)
    return both_ways(server, opt, kinds.SUBMISSION, lambda reuse: Smtp(server.port, letter, login=login, reuse=reuse))


def w9(server, opt):
    """Mail that comes in TLS."""
    letter = letter_to(LOCAL, f"sender@{DOMAIN}")
    return both_ways(server, opt, kinds.TLS, lambda reuse: Smtp(server.port, letter, reuse=reuse))


def w10(server, opt):
    """Strangers' mail, ten domains: SPF, DKIM and DMARC pass. Each message on a connection of its own, then many; and
    many once more with nothing looked at: check_cpu_ms is the difference.
    """
    letters = signed_letters(LOCAL, opt.n or 1000)

    def work(reuse):
        return Smtp(server.port, letters, tls=False, reuse=reuse, source=STRANGER)

    with resolver():
        out = both_ways(server, opt, kinds.CHECKED, work)
        checked_results(server.says)
        if kinds.UNCHECKED in server.kinds:
            out |= unchecked(server, opt, work(True))
    if "unchecked_cpu_ms" in out:
        out["check_cpu_ms"] = round(out["many_cpu_ms"] - out["unchecked_cpu_ms"], 3)
    return out


def unchecked(server, opt, work):
    """``work`` where nothing is looked at."""
    try:
        prepared(server, kinds.UNCHECKED)
        return delivered_phase(server, opt, work, "unchecked")
    finally:
        server.stop()
        server.purge()


def w11(server, opt):
    """Mail that goes out, signed, to a sink in TLS, concurrency 20."""
    n, letter = opt.n or 1000, letter_to(f"somebody@{REMOTE}")
    work = Smtp(server.port, letter, tls=False, reuse=True)
    sink = TlsSink(kinds.certificate()[0])
    try:
        prepared(server, kinds.SIGNED)
        pilot = min(5 * SESSIONS, n)
        load(work, pilot, SESSIONS)
        wait_sink(sink, pilot, time.monotonic() + opt.limit)
        settle()
        cpu = server.group.cpu()
        start = time.monotonic()
        sent = load(work, n, SESSIONS)
        end = wait_sink(sink, pilot + n, start + opt.limit)
        cpu = (server.group.cpu() - cpu) if cpu is not None else None
        time.sleep(0.5)
        if (taken := sink.taken()) != [(f"somebody@{REMOTE}".encode(), True)] * (pilot + n):
            raise BenchError(f"the sink got {len(taken)} messages, {sum(signed for _, signed in taken)} signed")
        out = {"sunk_per_s": round(n / (end - start), 1), "load_ms": round(1e3 * sent.cpu_s / n, 3)}
        if cpu is not None:
            out["cpu_ms"] = round(1e3 * cpu / n, 3)
        out["kib"], out["processes"] = server.group.pss_kib()
    finally:
        server.stop()
        spent = sink.close()
        server.purge()
    out["sink_load_ms"] = round(1e3 * spent / (pilot + n), 3)
    log(server.name, n, out)
    return out


def w12(server, opt):
    """A message each to ``opt.n`` of 10,000 users of 1,000 uids: the first is written to most, as Zipf has it."""
    if not server.indexed:
        raise Unsupported(f"{server.name} would read a file of 10,000 lines for each message")
    n, chance = opt.n or 2000, random.Random(1)
    base = tempfile.mkdtemp(prefix="users.", dir=server.state)
    os.chmod(base, 0o755)
    many = Many(base, [(f"many{i:05d}", UIDS_FROM + i % UIDS, os.path.join(base, f"u{i:05d}")) for i in range(USERS)])
    chosen = chance.choices(many.users, [1 / rank for rank in range(1, USERS + 1)], k=n)
    wanted = Counter(os.path.join(home, "Maildir/new") for _, _, home in chosen)
    make_homes(sorted(set(chosen)))
    letters = [letter_to(f"{name}@{server.many_domain}") for name, _, _ in chosen]
    work = Smtp(server.port, lambda number: letters[number](number), tls=False, reuse=True)
    out = {}
    try:
        server.configure(many=many)
        server.start()
        settle()
        cpu = server.group.cpu()
        start = time.monotonic()
        sent = load(work, n, SESSIONS)
        left = dict(wanted)
        while left := {new: count for new, count in left.items() if len(os.listdir(new)) < count}:
            if time.monotonic() > start + opt.limit:
                raise BenchError(f"{len(left)} users still wait")
            time.sleep(0.02)
        out["delivered_per_s"] = round(n / (time.monotonic() - start), 1)
        out["load_ms"] = round(1e3 * sent.cpu_s / n, 3)
        if cpu is not None:
            out["cpu_ms"] = round(1e3 * (server.group.cpu() - cpu) / n, 3)
        time.sleep(0.3)
        if any(len(os.listdir(new)) != count for new, count in wanted.items()):
            raise BenchError("a message came twice")
        out["kib"], out["processes"] = server.group.pss_kib()
        log(server.name, n, len(wanted), "users", out)
    finally:
        server.stop()
        server.purge()
        server.forget_many()
        shutil.rmtree(base)
    return out


def w13(server, opt):
    """Log-ins by POP3S, each to fetch a message; as many sessions as Dovecot lets one user have, and no more."""
    n = opt.n or 500
    work = Pop3s(kinds.pop3s_port(), (USER.encode(), PASSWORD))
    try:
        reset_maildir()
        prepared(server, kinds.POP3S)
        wait_listening(kinds.pop3s_port())
        for number in range(10):
            path = os.path.join(maildir(), "cur", f"{number}.bench:2,")  # seen: a session that ends leaves it to others
            with open(path, "wb") as f:
                f.write(message(tag=str(number)).replace(b"\r\n", b"\n"))
            os.utime(path, (time.time(), time.time() - 60))  # qmail-pop3d lists what is older than this second
            shutil.chown(path, USER)
        pilot = min(20, n)
        start = time.monotonic()
        load(work, pilot, SESSIONS_POP3)
        n = affordable(n, pilot, time.monotonic() - start, opt)
        cpu = server.group.cpu()
        done = load(work, n, SESSIONS_POP3)
        cpu = (server.group.cpu() - cpu) if cpu is not None else None
        out = {"fetch_per_s": round(n / done.seconds, 1), "load_ms": round(1e3 * done.cpu_s / n, 3)}
        if cpu is not None:
            out["cpu_ms"] = round(1e3 * cpu / n, 3)
        out["kib"], out["processes"] = server.group.pss_kib()
        log(server.name, n, out)
    finally:
        server.stop()
        server.purge()
    return out


def w14(server, opt):
    """To a sink in TLS, concurrency 20: a message to many recipients, then many messages, none of them signed."""
    n, everybody = opt.n or 2000, [f"r{i:04d}@{REMOTE}" for i in range(opt.rcpts)]
    sink = TlsSink(kinds.certificate()[0])
    out = {}
    try:
        prepared(server, kinds.TLS)
        reset_maildir()
        source(server.port, LOCAL, 5, 1)
        wait_delivered(5, time.monotonic() + opt.limit)
        settle()
        start = time.monotonic()
        out["list_accept_s"] = to_many(server.port, everybody)
        out["list_done_s"] = round(wait_sink(sink, opt.rcpts, start + opt.limit) - start, 3)
        settle()
        cpu = server.group.cpu()
        start = time.monotonic()
        load(Smtp(server.port, letter_to(f"somebody@{REMOTE}"), tls=False, reuse=True), n, 2 * SESSIONS)
        out["sunk_per_s"] = round(n / (wait_sink(sink, opt.rcpts + n, start + opt.limit) - start), 1)
        if cpu is not None:
            out["cpu_ms"] = round(1e3 * (server.group.cpu() - cpu) / n, 3)
        time.sleep(0.5)
        wanted = Counter([*everybody, *[f"somebody@{REMOTE}"] * n])
        if Counter(recipient.decode() for recipient, _ in sink.taken()) != wanted:
            raise BenchError("the sink got other recipients than sent")
    finally:
        server.stop()
        sink.close()
        server.purge()
    log(server.name, n, out)
    return out


WORKLOADS = {"w8": w8, "w9": w9, "w10": w10, "w11": w11, "w12": w12, "w13": w13, "w14": w14}
