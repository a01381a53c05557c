"""The workloads of 2026, beside those of workloads.py: TLS, AUTH, checks and signatures.

Figures end as there. ``*_load_ms`` is the processor time of the load generator for a message: it shares the machine.
"""

import time

from tests.bench.peers import kinds
from tests.bench.peers.common import (
    DOMAIN,
    USER,
    BenchError,
    Unsupported,
    check_exact,
    log,
    reset_maildir,
    wait_delivered,
)
from tests.bench.peers.load import Smtp, letter_to, load
from tests.bench.peers.private import PASSWORD
from tests.bench.peers.workloads import LOCAL, affordable, settle

SESSIONS = 10


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


def w8(server, opt):
    """Submission: STARTTLS, AUTH PLAIN, a message of 4 KiB."""
    letter = letter_to(LOCAL, LOCAL)  # from the user who logs in, to himself
    login = (USER.encode(), PASSWORD)
    return both_ways(server, opt, kinds.SUBMISSION, lambda reuse: Smtp(server.port, letter, login=login, reuse=reuse))


def w9(server, opt):
    """Mail that comes in TLS."""
    letter = letter_to(LOCAL, f"sender@{DOMAIN}")
    return both_ways(server, opt, kinds.TLS, lambda reuse: Smtp(server.port, letter, reuse=reuse))


WORKLOADS = {"w8": w8, "w9": w9}
