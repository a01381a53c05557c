"""What the nodes share: a network, PostgreSQL with a synchronous standby, slapd, Redis, Dovecot's LMTP, and HAProxy."""

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from valkey import Valkey

from tests.integration.dovecot_lmtp import dovecot
from tests.integration.mailhost import ROOT, ensure_user, own_user
from tests.namespaces import ip
from tests.postgresql import DATABASE, SETTINGS, USER, PostgreSQL, Standby
from tests.public_directory import public_directory
from tests.shadow.node import load_schema
from tests.slapd import ENVIRON, slapd
from tests.waiting import wait_for

NETWORK = "10.77.0"
PROXY, FIRST, SECOND, STATE, DIRECTORY, MAILBOXES = (f"{NETWORK}.{end}" for end in (5, 21, 22, 31, 41, 51))
CLIENTS = tuple(f"{NETWORK}.{end}" for end in range(101, 105))
USERS = ("ann@example.org", *(f"user{number}@example.org" for number in range(5)))
NODES = 3
PERSON = """
dn: uid={name},ou=people,dc=example,dc=org
objectClass: inetOrgPerson
uid: {name}
cn: {name}
sn: Example
mail: {address}
"""
REDIS_PORT = 6379


class Pair:
    """Two servers of PostgreSQL, of which one is the primary."""

    def __init__(self, primary: PostgreSQL, standby: Standby) -> None:
        self._primary: PostgreSQL = primary
        self._standby = standby
        hosts = f"{FIRST}:{primary.port},{SECOND}:{standby.port}"
        self.url = f"postgresql://{USER}@{hosts}/{DATABASE}?target_session_attrs=read-write"

    def run(self, sql: str) -> list[str]:
        """The lines that the primary answers ``sql`` with."""
        return self._primary.run(sql)

    def fail_over(self) -> None:
        """The primary dies, and the standby takes its place."""
        self._primary.stop(signal.SIGKILL)
        self._standby.promote()
        self._primary = self._standby


class Site:
    """All that is no node, in this network namespace, which is ours alone."""

    bridge = "lan"

    def __init__(self, base: Path, stack: ExitStack) -> None:
        self.base = base
        self._stack = stack
        ip("link", "set", "lo", "up")
        ip("link", "add", self.bridge, "type", "bridge")
        ip("link", "set", self.bridge, "up")
        for address in (PROXY, FIRST, SECOND, STATE, DIRECTORY, MAILBOXES, *CLIENTS):  # PROXY is what is seen of us
            ip("addr", "add", f"{address}/24", "dev", self.bridge)
        self.owner = own_user("vm")
        ensure_user(self.owner)
        self.database = self._start_databases()
        self.state_url, self.directory_uri = f"redis://{STATE}:{REDIS_PORT}", f"ldap://{DIRECTORY}"
        self.redis = self._start_redis()
        self._start_directory()
        self.dovecot = stack.enter_context(dovecot(USERS, address=MAILBOXES))
        self.mailboxes = f"{MAILBOXES}:{self.dovecot.port}"

    @staticmethod
    def address(number: int) -> str:
        """That of a node."""
        return f"{NETWORK}.{10 + number}"

    def _directory(self, name: str) -> Path:
        path = self.base / name
        path.mkdir()
        return path

    def _start_databases(self) -> Pair:
        primary = PostgreSQL(self._directory("first"), SETTINGS, FIRST)
        primary.start()
        self._stack.callback(primary.stop)
        load_schema(primary)
        standby = Standby(self._directory("second"), primary, SECOND)
        self._stack.callback(standby.stop)
        standby.start()
        return Pair(primary, standby)

    def _start_redis(self) -> subprocess.Popen[bytes]:
        words = ["redis-server", "--bind", STATE, "--port", str(REDIS_PORT), "--protected-mode", "no", "--save", ""]
        process = subprocess.Popen([*words, "--dir", str(self._directory("redis"))], stdout=subprocess.DEVNULL)
        self._stack.callback(self._end, process)
        return process

    def _start_directory(self) -> None:
        text = (ROOT / "control-examples/cluster/people.ldif").read_text()
        for address in USERS[1:]:
            text += PERSON.format(name=address.partition("@")[0], address=address)
        (self.base / "ldif").write_text(text)
        self._stack.enter_context(slapd(self.base / "ldif", self.directory_uri))

    def start_proxy(self) -> None:
        """HAProxy as the example has it, in front of all nodes."""
        text = (ROOT / "control-examples/cluster/haproxy.cfg").read_text().replace("inter 5s", "inter 500ms")
        text = text.replace("bind :25", f"bind {PROXY}:25").replace("log stdout format raw local0", "no log")
        lines = "".join(f"  server node{each} {self.address(each)}:10025\n" for each in range(NODES))
        text = re.sub(r"(?m)^  server pyqmail-0.*\n  server pyqmail-1.*\n", lines, text)
        (self.base / "haproxy.cfg").write_text(text)
        program = shutil.which("haproxy", path=ENVIRON["PATH"])
        assert program is not None, "haproxy is not installed"
        process = subprocess.Popen([program, "-db", "-q", "-f", str(self.base / "haproxy.cfg")])
        self._stack.callback(self._end, process)
        wait_for(self._greets, "a greeting through HAProxy")

    @staticmethod
    def _greets() -> bool:
        with contextlib.suppress(OSError), socket.create_connection((PROXY, 25), 5) as sock:
            return sock.recv(100).startswith(b"220")
        return False

    @contextmanager
    def hanging_mailboxes(self) -> Iterator[None]:
        """Meanwhile Dovecot takes connections, and says nothing."""
        group = [self.dovecot.process.pid, *_children(self.dovecot.process.pid)]
        for pid in group:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in group:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    def known_strangers(self) -> int:
        """How many keys Redis has."""
        with contextlib.closing(Valkey(STATE, REDIS_PORT)) as client:
            return int(client.dbsize())

    @staticmethod
    def _end(process: subprocess.Popen[bytes]) -> None:
        process.kill()
        process.wait()


def _children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@contextmanager
def site() -> Iterator[Site]:
    """One that runs, gone afterwards."""
    with public_directory() as base, ExitStack() as stack:
        yield Site(base, stack)
