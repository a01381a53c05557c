"""What idle TLS sessions take: ``python -m tests.soak.sessions [--count N]``, as root.

Opens so many sessions at one tcpserver with -c N, each with STARTTLS and EHLO behind it, prints their memory (PSS, all
processes of the server), what one client more hears, and how long it waits once another has left.
"""

import argparse
import os
import pwd
import resource
import smtplib
import socket
import ssl
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from tests.certificates import self_signed
from tests.programs.tcp_servers import Servers

BIN = Path(__file__).resolve().parents[2] / "bin"
PATIENCE_S = 60.0


@dataclass(frozen=True)
class Outcome:
    """Memory in KiB, before and with all sessions, and what the client beyond them got."""

    idle_kib: int
    all_kib: int
    kept_waiting: bool
    greeting: bytes


def processes(pid: int) -> list[int]:
    """A process and all below it."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            found += processes(int(child))
    return found


def pss_kib(pid: int) -> int:
    """The memory of a process and all below it, what is shared counted once."""
    total = 0
    for each in processes(pid):
        for line in Path(f"/proc/{each}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1])
    return total


def session(port: int) -> smtplib.SMTP:
    """A client that has said STARTTLS and EHLO, and says no more."""
    anyone = ssl.create_default_context()
    anyone.check_hostname, anyone.verify_mode = False, ssl.CERT_NONE
    client = smtplib.SMTP("127.0.0.1", port, "client.test", timeout=PATIENCE_S)
    client.starttls(context=anyone)
    assert client.ehlo()[0] == 250
    return client


def measure(count: int) -> Outcome:
    """Open ``count`` sessions, and one connection more."""
    servers = Servers()
    with tempfile.TemporaryDirectory(prefix="pyqmail-sessions-") as base:
        os.chmod(base, 0o755)
        home = Path(base)
        (home / "control").mkdir()
        for name, text in {"me": "mx.test\n", "rcpthosts": "here.test\n"}.items():
            (home / "control" / name).write_text(text)
        account = pwd.getpwnam("qmaild")
        pem = home / "control/servercert.pem"
        pem.write_bytes(self_signed(home).read_bytes())
        pem.chmod(0o400)
        os.chown(pem, account.pw_uid, account.pw_gid)
        words = ["-HRl0", f"-c{count}", f"-b{count}", f"-u{account.pw_uid}", f"-g{account.pw_gid}"]
        try:
            server = servers(*words, "--", str(BIN / "qmail-smtpd"), QMAIL_HOME=base, SMTPAUTH="")
            idle = pss_kib(server.pid)
            clients = [session(server.port) for _ in range(count)]
            full = pss_kib(server.pid)
            with socket.create_connection(("127.0.0.1", server.port), PATIENCE_S) as more:
                more.settimeout(1.0)
                try:
                    heard = more.recv(100)
                except TimeoutError:
                    heard = b""
                clients.pop().quit()
                more.settimeout(PATIENCE_S)
                outcome = Outcome(idle, full, heard == b"", heard or more.recv(100))
            for client in clients:
                client.close()
            return outcome
        finally:
            servers.end()


def main() -> None:
    """Print what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000)
    count = parser.parse_args().count
    resource.setrlimit(resource.RLIMIT_NOFILE, (count + 200, count + 200))
    start = time.monotonic()
    found = measure(count)
    each = (found.all_kib - found.idle_kib) / 1024 / count
    print(f"{count} sessions in {time.monotonic() - start:.0f} s: {found.all_kib // 1024} MiB, {each:.2f} MiB each")
    print(f"one more: {'waits, ' if found.kept_waiting else ''}{found.greeting!r} once another has left")


if __name__ == "__main__":
    main()
