"""What a tree takes of memory when it is idle, by service, and what each open session takes.

    PYTHONPATH=. python3 tests/bench/memory.py [--sessions 40] [--only plain]

Two trees in turn, installed and started as INSTALL has it, each after some messages by SMTP: one with nothing but the
control files that a tree needs, one with STARTTLS, qmail-authd, qmail-verifyd and qmail-stated. Printed is PSS
(/proc/PID/smaps_rollup), in MiB: what processes share is divided among all that share it, strangers with the same
interpreter too, and "own" is the part that is in no file. Exit 1 when a sum or a session is above its limit. Root.
"""

import argparse
import os
import pwd
import re
import smtplib
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tests.certificates import self_signed
from tests.integration.mailhost import MailHost, fresh_maildir, install, own_user
from tests.soak.sessions import PATIENCE_S, session
from tests.waiting import wait_for

MESSAGES = 20
QUIET_S = 65.0  # workers without work live for a minute
BASE = {"me": "mx.example.test\n", "locals": "example.test\n", "rcpthosts": "example.test\n"}
ALL_ON = {"authd": "", "spfbehavior": "3\n", "dmarcbehavior": "3\n", "relaylimits": ":messages=1000000/60\n"}
HELPERS = ("authd", "verifyd", "stated")
KINDS: dict[str, dict[str, str]] = {"plain": {}, "all on": ALL_ON}
IDLE_MIB = {"plain": 45.0, "all on": 90.0}
SESSION_MIB = {"plain": 2.0, "all on": 3.5}  # in TLS where all is on


@dataclass(frozen=True, slots=True)
class Memory:
    """Of some processes, in KiB."""

    processes: int
    pss: int
    own: int  # of that, in no file

    def __add__(self, other: "Memory") -> "Memory":
        return Memory(self.processes + other.processes, self.pss + other.pss, self.own + other.own)


NOTHING = Memory(0, 0, 0)


def memory_of(pid: int) -> Memory:
    """Of one process; nothing where it has ended."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return NOTHING
    sizes = dict(re.findall(r"^(Pss|Pss_Anon):\s+(\d+)", text, re.M))
    return Memory(1, int(sizes["Pss"]), int(sizes["Pss_Anon"]))


def service_of(pid: int) -> str:
    """By the title: the program, without the interpreter before it and arguments behind it."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").split()
    except OSError:
        return ""
    programs = [word for word in words if not word.startswith("-") and not word.rpartition("/")[2].startswith("python")]
    return programs[0].rpartition("/")[2] if programs else ""


def by_service(pids: Iterable[int]) -> dict[str, Memory]:
    """The memory of each service."""
    found: dict[str, Memory] = {}
    for pid in pids:
        name = service_of(pid)
        found[name] = found.get(name, NOTHING) + memory_of(pid)
    return dict(sorted(found.items()))


def total(host: MailHost) -> Memory:
    """The memory of all processes of a tree."""
    return sum(map(memory_of, host.pids()), NOTHING)


def settle(host: MailHost) -> None:
    """Wait until no process comes or goes any more: all that is kept for some time has ended."""
    seen, since = host.pids(), time.monotonic()

    def quiet() -> bool:
        nonlocal seen, since
        if (now := host.pids()) != seen:
            seen, since = now, time.monotonic()
        return time.monotonic() - since > QUIET_S

    wait_for(quiet, "processes that stay", 5 * QUIET_S)


def start(home: Path, kind: str, user: str) -> MailHost:
    """A tree of that kind, which has delivered some messages."""
    install(home, **BASE, **KINDS[kind])
    (home / "control/me").write_text(BASE["me"])
    if kind == "all on":
        pem = home / "control/servercert.pem"
        pem.write_bytes(self_signed(home).read_bytes())
        pem.chmod(0o400)
        account = pwd.getpwnam("qmaild")
        os.chown(pem, account.pw_uid, account.pw_gid)
    host = MailHost(home)
    host.log.write_bytes(b"")
    host.start_delivery()
    if kind == "all on":
        for name in HELPERS:
            wait_for((home / f"run/qmail-{name}.sock").exists, name)
    host.start_smtp(RELAYCLIENT="", **({"SMTPAUTH": ""} if kind == "all on" else {}))
    new = fresh_maildir(user) / "new"
    for _ in range(MESSAGES):
        with smtplib.SMTP("127.0.0.1", host.port, "client.test", timeout=PATIENCE_S) as client:
            client.sendmail("ann@client.test", [f"{user}@example.test"], "Subject: x\n\nhello\n" * 100)
    wait_for(lambda: len(os.listdir(new)) == MESSAGES and host.queued() == 0, "all messages")
    return host


def session_kib(host: MailHost, count: int, *, tls: bool) -> float:
    """What a session takes, of so many that have said EHLO."""
    before = total(host).pss
    clients = []
    for _ in range(count):
        clients.append(session(host.port) if tls else smtplib.SMTP("127.0.0.1", host.port, timeout=PATIENCE_S))
        if not tls:
            clients[-1].ehlo("client.test")
    taken = total(host).pss - before
    for client in clients:
        client.quit()
    return taken / count


def row(name: str, memory: Memory) -> str:
    """A line of the table."""
    return f"| {name} | {memory.processes} | {memory.pss / 1024:.1f} | {memory.own / 1024:.1f} |"


def measure(home: Path, kind: str, user: str, sessions: int) -> bool:
    """Print what a tree of that kind takes; whether it is within its limits."""
    host = start(home, kind, user)
    try:
        settle(host)
        services = by_service(host.pids())
        idle = sum(services.values(), NOTHING)
        print(f"\n| {kind} | processes | PSS | own |\n|---|---|---|---|")
        for name, memory in services.items():
            print(row(name, memory))
        print(row(f"all (at most {IDLE_MIB[kind]:.0f})", idle), flush=True)
        each = session_kib(host, sessions, tls=kind == "all on") / 1024
        print(f"a session{' in TLS' * (kind == 'all on')}: {each:.2f} MiB (at most {SESSION_MIB[kind]})", flush=True)
        return idle.pss / 1024 <= IDLE_MIB[kind] and each <= SESSION_MIB[kind]
    finally:
        host.stop()


def main() -> int:
    """Measure and print; 1 if something takes too much."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sessions", type=int, default=40)
    parser.add_argument("--only", choices=KINDS, help="this tree alone")
    options = parser.parse_args()
    user = own_user("pqmemory")
    with tempfile.TemporaryDirectory(prefix="pyqmail-memory-") as base:
        os.chmod(base, 0o755)
        kinds = [kind for kind in KINDS if options.only in (None, kind)]
        held = [measure(Path(base) / kind.replace(" ", "-"), kind, user, options.sessions) for kind in kinds]
    return 0 if all(held) else 1


if __name__ == "__main__":
    sys.exit(main())
