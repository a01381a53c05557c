"""What more than one machine costs: copies of messages in PostgreSQL, and three nodes in the place of one.

    python -m tests.bench.nodes [copies | proxy] [--rounds 6] [--messages 500]

copies   trees without control/shadow, with it and one server on the same disk, and with a standby that is waited for,
         in turns: messages a second from SMTP to the Maildir, our processor time for each, PostgreSQL's beside it, and
         what a loop does that commits the same rows on one connection
proxy    one node behind HAProxy, and three behind another, in turns: processor time of nodes and HAProxy for each, with
         clients that send a message a second and with sessions that go as fast as they are answered

Prints each claim with its limit, and exits 1 if one does not hold. Root, on a machine that does nothing else, with
Postfix's smtp-source, HAProxy and PostgreSQL of Debian.
"""

import argparse
import os
import shutil
import socket
import statistics
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg

from tests.bench.options import BASE
from tests.integration.mailhost import MailHost, ensure_user, fresh_maildir, install, own_user
from tests.postgresql import PASSWORD, PostgreSQL, Standby
from tests.public_directory import public_directory
from tests.shadow.node import Node, load_schema
from tests.waiting import wait_for

SESSIONS, SIZE = 8, 2048
CLIENTS = (75, 200)  # that send a message a second each
SETTINGS = ("shared_buffers=64MB", "max_connections=40", "log_min_messages=fatal")  # syncs are what they are
RATE_MIN, STANDBY_RATE_MIN, OURS_MAX, THREE_MAX = 0.55, 0.30, 1.25, 1.15
TICKS = os.sysconf("SC_CLK_TCK")
END_S = 300.0
CONFIG = """\
defaults
  mode tcp
  timeout connect 5s
  timeout client 60s
  timeout server 60s
  default-server send-proxy-v2
listen smtp
  bind 127.0.0.1:{port}
"""
INSERT = (
    "INSERT INTO shadow_message (id, owner, size, facts, envelope, message)"
    " VALUES (%(id)s, %(id)s, %(size)s, '', %(envelope)s, %(message)s)"
)


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one message: seconds of the clock, of our processors, and of those of the database."""

    clock: float
    ours: float
    database: float


class Group:
    """Trees that take mail in at one port, and what else works for them."""

    def __init__(self, hosts: list[MailHost], port: int, ours: list[int], servers: list[PostgreSQL]) -> None:
        self._hosts = hosts
        self._port = port
        self._ours = ours  # pids
        self._servers = servers
        self.costs: list[Cost] = []

    def send(self, count: int, user: str, new: Path, clients: int = 0) -> Cost:
        """Have so many messages delivered, from so many ``clients`` that send one a second, or as fast as it goes."""
        ours, database, began = self._our_ticks(), self._database_ticks(), time.monotonic()
        words = ["smtp-source", "-s", str(clients or SESSIONS), "-l", str(SIZE), "-m", str(count)]
        words += ["-w", "1"] if clients else []
        subprocess.run(
            [*words, "-f", "ann@client.test", "-t", f"{user}@example.test", f"127.0.0.1:{self._port}"], check=True
        )
        wait_for(lambda: len(os.listdir(new)) == count, "all messages", END_S)
        clock = time.monotonic() - began
        wait_for(lambda: not any(map(rest_of, self._hosts)), "the end of all copies", END_S)
        ours, database = self._our_ticks() - ours, self._database_ticks() - database
        for path in new.iterdir():
            path.unlink()
        return Cost(clock / count, ours / TICKS / count, database / TICKS / count)

    def _our_ticks(self) -> int:
        return ticks_of([*self._ours, *(pid for host in self._hosts for pid in host.pids())])

    def _database_ticks(self) -> int:
        return ticks_of([pid for server in self._servers for pid in with_children(server.pid)])

    def median(self, what: Callable[[Cost], float]) -> float:
        """Of all turns."""
        return statistics.median(map(what, self.costs))


def rest_of(host: MailHost) -> int:
    """How many messages and copies are left."""
    return host.queued() + (len(host.copies()) if isinstance(host, Node) else 0)


def ticks_of(pids: list[int]) -> int:
    """Processor time of these and of their children that have ended."""
    total = 0
    for pid in pids:
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            continue
        total += sum(map(int, stat.rpartition(")")[2].split()[11:15]))
    return total


def with_children(pid: int) -> list[int]:
    """A process and those that it has forked."""
    return [pid, *map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]


def in_turns(groups: list[Group], rounds: int, messages: int, clients: int = 0) -> None:
    """Send to each of them, as often, whoever was last first the next time."""
    user = own_user("pqnodes")
    ensure_user(user)
    new = fresh_maildir(user) / "new"
    for group in groups:
        group.costs.clear()
        group.send(100, user, new, clients)  # workers are there, and files are read
    for turn in range(rounds):
        for group in groups if turn % 2 == 0 else reversed(groups):
            group.costs.append(group.send(messages, user, new, clients))


def plain_host(home: Path, stack: ExitStack, **controls: str) -> MailHost:
    """A tree without control/shadow that delivers."""
    install(home, **BASE, **controls)
    host = MailHost(home)
    stack.callback(host.stop)
    host.log.touch()
    host.start_delivery()
    return host


def shadowed(base: Path, name: str, stack: ExitStack, *, standby: bool) -> tuple[Node, list[PostgreSQL]]:
    """A tree with control/shadow, and its servers."""
    places = [base / f"{name}-{which}" for which in range(1 + standby)]
    for place in places:
        place.mkdir(mode=0o755)
    servers = [PostgreSQL(places[0], SETTINGS)]
    servers[0].start()
    stack.callback(servers[0].stop)
    load_schema(servers[0])
    if standby:
        servers.append(Standby(places[1], servers[0], "127.0.0.1", SETTINGS))
        stack.callback(servers[1].stop)
        servers[1].start()
    node = Node(base / name, servers[0], f"{name}.example.test")
    stack.callback(node.stop)
    for control in ("rcpthosts", "concurrencylocal"):
        node.write(control, BASE[control])
    node.start()
    return node, servers


def bare_loop(server: PostgreSQL, count: int) -> float:
    """Messages a second of which one connection commits the row, and that it is gone."""
    row = {"size": SIZE, "envelope": b"u1\0p2\0Fann@client.test\0Tann@example.test\0", "message": b"x" * SIZE}
    with psycopg.connect(server.url, password=PASSWORD, autocommit=True) as connection:
        began = time.monotonic()
        for _ in range(count):
            row["id"] = uuid.uuid4()
            connection.execute(INSERT, row)
            connection.execute("DELETE FROM shadow_message WHERE id = %(id)s", row)
        return count / (time.monotonic() - began)


def measure_copies(rounds: int, messages: int) -> bool:
    """Without, with one server, and with a standby."""
    with public_directory() as base, ExitStack() as stack:
        without = plain_host(base / "without", stack)
        one, one_server = shadowed(base, "one", stack, standby=False)
        two, two_servers = shadowed(base, "two", stack, standby=True)
        for host in (without, one, two):
            host.start_smtp()
        names = ("without", "with a copy", "with a standby")
        groups = [Group([without], without.port, [], []), Group([one], one.port, [], one_server),
                  Group([two], two.port, [], two_servers)]  # fmt: skip
        in_turns(groups, rounds, messages)
        for name, group in zip(names, groups, strict=True):
            ours, database = (
                1000 * group.median(what) for what in (lambda cost: cost.ours, lambda cost: cost.database)
            )
            print(f"{name}: {1 / group.median(lambda cost: cost.clock):.0f} messages/s, {ours:.2f} ms of our processor"
                  f" time for one, {database:.2f} ms of PostgreSQL's", flush=True)  # fmt: skip
        for name, server in (("", one_server[0]), (", with the standby", two_servers[0])):
            print(f"a bare loop on one connection{name}: {bare_loop(server, messages):.0f} messages/s", flush=True)
    rates = [groups[0].median(lambda cost: cost.clock) / group.median(lambda cost: cost.clock) for group in groups]
    more = groups[1].median(lambda cost: cost.ours) / groups[0].median(lambda cost: cost.ours)
    held = [
        claim("rate with a copy", rates[1], rates[1] >= RATE_MIN, f"at least {RATE_MIN}"),
        claim("rate with a standby", rates[2], rates[2] >= STANDBY_RATE_MIN, f"at least {STANDBY_RATE_MIN}"),
        claim("our processor time with a copy", more, more <= OURS_MAX, f"at most {OURS_MAX}"),
    ]
    return all(held)


def claim(what: str, times: float, holds: bool, limit: str) -> bool:
    """Print it; whether it holds."""
    print(f"{what}: {times:.2f} times ({limit}){'' if holds else ': NOT HELD'}", flush=True)
    return holds


@contextmanager
def proxy(base: Path, hosts: list[MailHost]) -> Iterator[Group]:
    """HAProxy in front of ``hosts``."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = int(sock.getsockname()[1])
    text = CONFIG.format(port=port)
    text += "".join(f"  server node{number} 127.0.0.1:{host.port}\n" for number, host in enumerate(hosts))
    (base / f"haproxy-{port}.cfg").write_text(text)
    program = shutil.which("haproxy", path=os.environ["PATH"] + ":/usr/sbin")
    assert program is not None, "haproxy is not installed"
    process = subprocess.Popen([program, "-db", "-q", "-f", str(base / f"haproxy-{port}.cfg")])
    try:
        group = Group(hosts, port, [process.pid], [])
        wait_for(lambda: answers(port), "HAProxy")
        yield group
    finally:
        process.kill()
        process.wait()


def answers(port: int) -> bool:
    """Whether somebody listens there."""
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


def measure_proxy(rounds: int, messages: int) -> bool:
    """One node and three."""
    with public_directory() as base, ExitStack() as stack:
        hosts = [plain_host(base / f"node{number}", stack, proxyhosts="127.0.0.1\n") for number in range(4)]
        for host in hosts:
            host.start_smtp(None, "-y")
        groups = [stack.enter_context(proxy(base, which)) for which in (hosts[:1], hosts[1:])]
        held = [three_beside_one(groups, rounds, messages, clients) for clients in (*CLIENTS, 0)]
    return all(held)


def three_beside_one(groups: list[Group], rounds: int, messages: int, clients: int) -> bool:
    """Print what a message costs with one node and with three; whether the claim holds."""
    in_turns(groups, rounds, messages, clients)
    load = f"{clients} clients with a message a second" if clients else f"{SESSIONS} sessions that do not wait"
    for name, group in zip(("one node", "three nodes"), groups, strict=True):
        print(f"{load}, {name}: {1000 * group.median(lambda cost: cost.ours):.2f} ms of processor time for a message,"
              f" {1 / group.median(lambda cost: cost.clock):.0f} messages/s", flush=True)  # fmt: skip
    one, three = (group.median(lambda cost: cost.ours) for group in groups)
    return claim(f"three nodes, {load}", three / one, three <= THREE_MAX * one, f"at most {THREE_MAX}")


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description="what more than one machine costs")
    parser.add_argument("only", nargs="?", choices=("copies", "proxy"))
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--messages", type=int, default=500)
    options = parser.parse_args()
    held = [
        measure(options.rounds, options.messages)
        for name, measure in (("copies", measure_copies), ("proxy", measure_proxy))
        if options.only in (None, name)
    ]
    return 0 if all(held) else 1


if __name__ == "__main__":
    sys.exit(main())
