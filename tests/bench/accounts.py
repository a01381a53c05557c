"""What a million accounts of a database take: a full sync of all, and a change of one until mail to it is taken.

    PYTHONPATH=. python3 tests/bench/accounts.py [--accounts N] [--maildirs]

With Debian's PostgreSQL and a tree of its own, as root. Prints seconds by the clock, processor time and memory (PSS of
all processes of the sync together), each with its limit, and exits 1 if one does not hold. Mailboxes are an LMTP
server's; with --maildirs the first sync makes them, five directories each, which is the file system's time.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

from tests.integration.mailhost import MailHost, ensure_user, install, own_user
from tests.integration.test_accounts import EXAMPLES, PROGRAM, Node
from tests.postgresql import postgresql
from tests.public_directory import public_directory
from tests.waiting import wait_for

SYNC_S, SYNC_MIB, CHANGE_S = 120, 400, 2.0
DOMAINS = 1000
LOOK_S = 0.2  # from one look at the memory to the next
ROWS = """
INSERT INTO mail_domains SELECT 'd' || n || '.test' FROM generate_series(0, {domains} - 1) n;
INSERT INTO mail_users (address)
    SELECT 'user' || n || '@d' || n % {domains} || '.test' FROM generate_series(1, {users}) n;
"""


def tree_of(pid: int) -> list[int]:
    """``pid`` and all that it has started."""
    found = [pid]
    for each in found:
        for task in Path(f"/proc/{each}/task").glob("*/children"):
            found += map(int, task.read_text().split())
    return found


def memory(pid: int) -> int:
    """PSS of ``pid`` and all that it has started, in KiB."""
    total = 0
    for each in tree_of(pid):
        try:
            lines = Path(f"/proc/{each}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue  # it has ended
        total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total


def sync(node: Node) -> tuple[float, float, float]:
    """Seconds by the clock, of processor time, and MiB at the most."""
    began, before, most = time.monotonic(), os.times(), 0
    command = [sys.executable, "-IXutf8", "-c", PROGRAM, "qmail_accounts", "sync"]
    with subprocess.Popen(command, env={"QMAIL_HOME": str(node.home)}, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            most = max(most, memory(process.pid))
            try:
                process.wait(LOOK_S)
            except subprocess.TimeoutExpired:
                continue
    assert process.returncode == 0, process.returncode
    after = os.times()
    spent = after.children_user - before.children_user + after.children_system - before.children_system
    return time.monotonic() - began, spent, most / 1024


def change(node: Node) -> float:
    """Seconds until a new account is known at the door, by qmail-accountsd."""
    old = (node.home / "users/cdb").stat().st_ino
    words = [sys.executable, "-IXutf8", "-c", PROGRAM, "qmail_accountsd"]
    daemon = subprocess.Popen(words, env={"QMAIL_HOME": str(node.home)}, stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: (node.home / "users/cdb").stat().st_ino != old, "the sync at its start", 600)
        wait_for(lambda: node.rcpt("new@d0.test", send=False)[0].startswith(b"550"), "qmail-rcptd", 600)
        node.server.run("INSERT INTO mail_users (address) VALUES ('new@d0.test')")
        began = time.monotonic()
        wait_for(lambda: node.rcpt("new@d0.test", send=False)[0].startswith(b"250"), "the new account", 600)
        return time.monotonic() - began
    finally:
        daemon.terminate()
        daemon.wait()


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description="a full sync of many accounts, and a change of one")
    parser.add_argument("--accounts", type=int, default=1_000_000)
    parser.add_argument("--maildirs", action="store_true")
    options = parser.parse_args()
    owner = own_user("vm")
    ensure_user(owner)
    held = True
    with postgresql() as server, public_directory() as base:
        server.run((EXAMPLES / "accounts.sql").read_text())
        server.run(ROWS.format(domains=DOMAINS, users=options.accounts))
        install(base / "qmail", me="here.test\n", locals="here.test\n", rcpthosts="here.test\n")
        host = MailHost(base / "qmail")
        node = Node(host, server, base, owner)
        node.configure(*([] if options.maildirs else ["delivery: lmtp:127.0.0.1:24"]))
        try:
            for name in ("first sync", "sync with nothing new"):
                seconds, spent, mib = sync(node)
                print(f"{name} of {options.accounts} accounts: {seconds:.1f} s (limit {SYNC_S}), {spent:.1f} s of"
                      f" processor time, {mib:.0f} MiB (limit {SYNC_MIB})", flush=True)  # fmt: skip
                held = held and seconds <= SYNC_S and mib <= SYNC_MIB
            host.start_delivery()
            host.start_smtp()
            wait_for(lambda: node.rcpt("nobody@d0.test")[0].startswith(b"550"), "qmail-rcptd with the maps")
            seconds = change(node)
            print(f"a change of one: {seconds:.2f} s (limit {CHANGE_S})", flush=True)
            held = held and seconds <= CHANGE_S
        finally:
            host.stop()
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
