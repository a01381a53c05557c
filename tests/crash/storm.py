"""The storm: messages come in by SMTP while every process of the host is killed at random, again and again.

    python -m tests.crash.storm [--messages N] [--pause SECONDS]

As root, with the real users. A small supervisor starts what died. At the end each acknowledged message must lie in the
Maildir once for each of its recipients, by the hash of its body; more than once only where a process died between a
delivery and its mark, so no more copies than kills. Of every other message more is known than its envelope says, which
each delivery must have found. Prints counts; exits 1 when something was wrong.
"""

import argparse
import os
import random
import re
import shutil
import signal
import smtplib
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from pyqmail.formats.facts import Facts, format_facts
from tests.crash.mail import text, token_of
from tests.integration.mailhost import MailHost, body_hash, fresh_maildir, install, own_user

USER = own_user("pqtest")
DOMAIN = "example.test"
SENDERS = 6
SETTLE_S = 180.0
SENDER = "ann@client.test"
TOLD = "told"  # beside the Maildir: a line of each delivery, with what it knew of its sender's wishes
INSTRUCTIONS = f"""|printf '%s %s\\n' "$EXT" "$QMAILDSN" >>{TOLD}\n./Maildir/\n"""
AT_ONCE = 64  # copies that one kill can cause: what was being delivered then


@dataclass(slots=True)
class Result:
    """What the storm did."""

    acknowledged: int = 0
    refused: int = 0
    deliveries: int = 0
    kills: Counter[str] = field(default_factory=Counter)
    copies: int = 0
    wrong: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """For people."""
        kills = ", ".join(f"{count} {name}" for name, count in self.kills.most_common())
        return [
            f"{self.acknowledged} messages acknowledged and audited, {self.refused} submissions broken off,"
            f" {self.deliveries} deliveries, {self.copies} of them again, {self.kills.total()} kills ({kills}):"
            f" {len(self.wrong)} wrong",
            *self.wrong[:20],
        ]


class Host:
    """The three services, started again whenever they end."""

    def __init__(self, home: Path) -> None:
        self.inner = MailHost(home)
        self.inner.start_smtp()  # finds a port
        self._home = home
        self._stop = threading.Event()
        self._services: dict[str, subprocess.Popen[bytes]] = {"tcpserver": self.inner.started[0]}
        self._thread = threading.Thread(target=self._supervise, daemon=True)
        self._thread.start()

    def _command(self, name: str) -> list[str]:
        first = self.inner.started[0].args
        assert isinstance(first, list)
        if name == "tcpserver":
            words = [os.fspath(word) for word in first]
            words[words.index("0", words.index("127.0.0.1"))] = str(self.inner.port)
            return words
        return [str(self._home / "bin" / name), *(["./Maildir/"] if name == "qmail-start" else [])]

    def _supervise(self) -> None:
        commands = {name: self._command(name) for name in ("tcpserver", "qmail-queued", "qmail-start")}
        while not self._stop.wait(0.1):
            for name, command in commands.items():
                service = self._services.get(name)
                if service is None or service.poll() is not None:
                    with self.inner.log.open("ab") as log:
                        self._services[name] = subprocess.Popen(
                            command, env=self.inner.environ(), cwd="/", stdin=subprocess.DEVNULL, stdout=log,
                            stderr=log, start_new_session=True,
                        )  # fmt: skip
                    self.inner.started = list(self._services.values())

    def alarm(self) -> None:
        """Have everything tried now."""
        service = self._services.get("qmail-start")
        if service is not None and service.poll() is None and b"qmail-send" in _line(service.pid):
            os.kill(service.pid, signal.SIGALRM)

    def victims(self) -> list[tuple[int, str]]:
        """Every process and what it is."""
        found = [(pid, re.search(rb"qmail-(?!storm)\w+|tcpserver", _line(pid))) for pid in self.inner.pids()]
        return [(pid, name[0].decode()) for pid, name in found if name]

    def end(self) -> None:
        """Stop everything."""
        self._stop.set()
        self._thread.join()
        self.inner.stop()


def _line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def noted(token: str) -> bool:
    """Whether more is known of a message than its envelope says."""
    return int(token.rpartition("-")[2]) % 2 == 1


class Storm:
    """One storm of ``count`` acknowledged messages."""

    def __init__(self, host: Host, count: int) -> None:
        self.host = host
        self.count = count
        self.result = Result()
        self.recipients: dict[str, list[str]] = {}  # of what was acknowledged, by token
        self._lock = threading.Lock()
        self._last = 0

    def send(self) -> None:
        """Submit until enough is acknowledged."""
        while True:
            with self._lock:
                if len(self.recipients) >= self.count:
                    return
                self._last += 1
                token = f"storm-{self._last}"
            names = [f"{USER}-{token}-{n}@{DOMAIN}" for n in range(1 + self._last % 3)]
            wishes = [f"ENVID={token}"] if noted(token) else []
            try:
                with smtplib.SMTP("127.0.0.1", self.host.inner.port, timeout=30) as client:
                    client.sendmail(SENDER, names, text(token).replace(b"\n", b"\r\n"), wishes)
            except (smtplib.SMTPException, OSError):
                self.result.refused += 1
                time.sleep(0.02)
                continue
            with self._lock:
                self.recipients[token] = names

    def rage(self, pause_s: float) -> None:
        """Kill until the senders are done."""
        senders = [threading.Thread(target=self.send) for _ in range(SENDERS)]
        for sender in senders:
            sender.start()
        chooser = random.Random(7)
        while any(sender.is_alive() for sender in senders):
            time.sleep(chooser.random() * 2 * pause_s)
            victims = self.host.victims()
            if victims:
                name = chooser.choice(sorted({name for _, name in victims}))
                pid = chooser.choice([pid for pid, what in victims if what == name])
                try:
                    os.kill(pid, signal.SIGKILL)
                    self.result.kills[name] += 1
                except ProcessLookupError:
                    continue

    def settle(self, maildir: Path) -> None:
        """Wait until everything acknowledged has come, and say what has not."""
        deadline = time.monotonic() + SETTLE_S
        wanted = {(token, name) for token, names in self.recipients.items() for name in names}
        found: Counter[tuple[str, str]] = Counter()
        seen: set[str] = set()
        while wanted - set(found) and time.monotonic() < deadline:
            self.host.alarm()
            time.sleep(0.3)
            for name in set(os.listdir(maildir / "new")) - seen:
                seen.add(name)
                self._take((maildir / "new" / name).read_bytes(), found)
        self.result.acknowledged = len(self.recipients)
        self.result.deliveries = found.total()
        self.result.copies = found.total() - len(found)
        self.result.wrong += [f"{token} never reached {name}" for token, name in sorted(wanted - set(found))]
        self._audit_wishes(maildir.with_name(TOLD), found)
        if self.result.copies > self.result.kills.total() * AT_ONCE:
            self.result.wrong.append("more copies than kills explain")

    def _audit_wishes(self, told: Path, found: "Counter[tuple[str, str]]") -> None:
        """Each delivery knew what its sender had said, and nothing of another message."""
        known = {tuple(line.split(" ", 1)) for line in told.read_text().splitlines()}
        for token, name in found:
            ext = name.partition("@")[0].removeprefix(f"{USER}-")
            said = {wishes for extension, wishes in known if extension == ext}
            wanted = format_facts(Facts(envid=token.encode()), SENDER.encode()) if noted(token) else b""
            if said != {wanted.decode()}:
                self.result.wrong.append(f"{name} knew {said} of {token}")
        if b"the facts of msg" in self.host.inner.log.read_bytes():
            self.result.wrong.append("facts that todo/N names were not there")

    def _take(self, data: bytes, found: "Counter[tuple[str, str]]") -> None:
        token, recipient = token_of(data), re.search(rb"^Delivered-To: (\S+)$", data, re.MULTILINE)
        body = data[data.find(b"Token:") :]
        if token is None or recipient is None or body_hash(body) != body_hash(text(token)):
            self.result.wrong.append(f"not whole, or a bounce: {data[-300:]!r}")
            return
        name = recipient[1].decode()
        if not name.startswith(f"{USER}-{token}-"):
            self.result.wrong.append(f"{name} got {token}")
        found[token, name] += 1


def storm(count: int, pause_s: float) -> Result:
    """A storm over a new tree."""
    base = Path(tempfile.mkdtemp(prefix="pyqmail-storm-"))
    base.chmod(0o755)
    maildir = fresh_maildir(USER)
    instructions = maildir.with_name(".qmail-default")
    instructions.write_text(INSTRUCTIONS)
    shutil.chown(instructions, USER)
    maildir.with_name(TOLD).unlink(missing_ok=True)
    names = {name: f"{DOMAIN}\n" for name in ("locals", "rcpthosts", "defaulthost", "defaultdomain", "plusdomain")}
    install(base / "qmail", me="mx.example.test\n", concurrencylocal="20\n", dsnpublic="1\n", **names)
    host = Host(base / "qmail")
    try:
        raging = Storm(host, count)
        raging.rage(pause_s)
        raging.settle(maildir)
        if raging.result.wrong:
            raging.result.wrong.append(host.inner.log.read_text(errors="replace")[-3000:])
        return raging.result
    finally:
        host.end()
        shutil.rmtree(base, ignore_errors=True)


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--messages", type=int, default=10000)
    parser.add_argument("--pause", type=float, default=0.3, help="seconds from one kill to the next, on average")
    options = parser.parse_args()
    result = storm(options.messages, options.pause)
    print(*result.lines(), sep="\n  ")
    return 1 if result.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
