"""An hour of mail with everything going wrong: ``python -m tests.soak.mail [--seconds N] [--seed N]``, as root.

Several senders hand in messages by SMTP, sendmail and qmail-inject for local users, forwards, programs that defer,
remote hosts that take, defer and refuse, and for nobody. Meanwhile processes of the host are killed at random or
signalled, and restarted as by a supervisor. At the end the host is left in peace until its queue is empty, and every
message that was acknowledged is looked for: at each recipient, whole, or in a bounce. Prints counts; exits 1 if one is
lost.
"""

import argparse
import contextlib
import fcntl
import grp
import hashlib
import os
import pwd
import random
import re
import shutil
import signal
import smtplib
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.integration.mailhost import MailHost, ensure_user, fresh_maildir, install
from tests.mail_sink import MailSink, Transaction, accept_all, mail_sink

SENDERS = 4
PAUSE_S = 0.05  # between two messages of a sender
FAULT_S = 0.7  # between two faults, on average
DRAIN_S = 150.0  # for the queue to become empty at the end
LINES_MAX = 400
CROWD_SHARE = 0.1  # of the messages go to a crowd of uids too
PLAIN, FORWARDED, SLOW, BOUNCES = (f"pqsoak{number}" for number in range(4))
DOMAIN = "example.test"
# Each kind of recipient: its address, and who then has the message (None: a bounce says that nobody has).
KINDS: dict[str, tuple[str, str | None]] = {
    "local": (f"{PLAIN}@{DOMAIN}", PLAIN),
    "forwarded": (f"{PLAIN}-onward@{DOMAIN}", FORWARDED),
    "local, deferred": (f"{SLOW}-later@{DOMAIN}", SLOW),
    "remote": ("ok@far.test", "ok@far.test"),
    "remote, deferred": ("later@far.test", "later@far.test"),
    "remote, refused": ("refused@far.test", None),
    "nobody": (f"nosuchuser@{DOMAIN}", None),
}
CROWD: dict[str, tuple[str, str]] = {
    f"uid {number}": (f"pqcrowd{number}@{DOMAIN}", f"pqcrowd{number}") for number in range(25)
}  # of users/assign
FIRST_UID = 47000
KILLED = ("qmail-send", "qmail-lspawn", "qmail-rspawn", "qmail-clean", "qmail-queued", "qmail-queue", "qmail-local",
          "qmail-remote", "qmail-smtpd", "tcpserver", "qmail-rcptd", "qmail-getpw")  # fmt: skip
_TOKEN = re.compile(rb"^Token: (\S+)\r?$", re.MULTILINE)
_FAILED = re.compile(rb"^<(\S+)>:$", re.MULTILINE)


def body_of(token: str) -> bytes:
    """The body of message ``token``: different for each, from a line to tens of kilobytes."""
    lines = random.Random(token).choice((1, 1, 5, 40, LINES_MAX))
    return b"".join(b"%b\n" % hashlib.sha256(f"{token} {n}".encode()).hexdigest().encode() for n in range(lines))


@dataclass
class Ledger:
    """What was handed in: acknowledged or not, and the kinds of its recipients."""

    tried: int = 0
    acknowledged: dict[str, tuple[str, ...]] = field(default_factory=dict)
    ways: Counter[str] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, token: str, kinds: tuple[str, ...], way: str) -> None:
        """``token`` was acknowledged."""
        with self.lock:
            self.acknowledged[token] = kinds
            self.ways[way] += 1


class Site:
    """The host under test, kept running whatever dies."""

    def __init__(self, home: Path, seed: int) -> None:
        self.home = home
        self.random = random.Random(seed)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.host = MailHost(home, port=port)
        self.host.log.touch()
        self.services: dict[str, subprocess.Popen[bytes]] = {}
        self.faults: Counter[str] = Counter()
        self.over = threading.Event()
        self.peace = threading.Event()

    def commands(self) -> dict[str, list[str]]:
        """The services, as run files start them."""
        home, port = self.home, str(self.host.port)
        ids = [str(pwd.getpwnam("qmaild").pw_uid), str(grp.getgrnam("nofiles").gr_gid)]
        return {
            "qmail-queued": [f"{home}/bin/qmail-queued"],
            "qmail-send": [f"{home}/bin/qmail-start", "./Maildir/"],
            "qmail-smtpd": [f"{home}/bin/tcpserver", "-HRl0", "-c", "40", "-u", ids[0], "-g", ids[1], "127.0.0.1", port,
                            f"{home}/bin/qmail-smtpd"],
        }  # fmt: skip

    def keep(self) -> None:
        """A supervisor: start what is not running, until it is over."""
        while not self.over.is_set():
            for name, command in self.commands().items():
                process = self.services.get(name)
                if process is None or process.poll() is not None:
                    self.services[name] = self._start(command)
            self.over.wait(0.3)

    def _start(self, command: list[str]) -> "subprocess.Popen[bytes]":
        with self.host.log.open("ab") as log:
            environ = self.host.environ() | {"QMAIL_HOME": str(self.home), "RELAYCLIENT": ""}
            process = subprocess.Popen(
                command, env=environ, cwd="/", stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        self.host.started.append(process)
        return process

    def processes(self) -> dict[int, str]:
        """Our processes by number, with what each is."""
        found = {}
        for pid in self.host.pids():
            with contextlib.suppress(OSError):
                words = (
                    Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").split(" ")
                )
                names = [word.rpartition("/")[2] for word in words[:4]]
                name = next((name for name in names if name in KILLED), "")
                if name:
                    found[pid] = name
        return found

    def trouble(self) -> None:
        """Faults at random until there is peace."""
        while not self.peace.wait(self.random.expovariate(1 / FAULT_S)):
            processes = self.processes()
            what = self.random.choice(("kill", "kill", "kill", "HUP", "ALRM", "restart"))
            if what == "kill":
                name = self.random.choice(sorted(set(processes.values())) or [""])
                self._signal(processes, name, signal.SIGKILL)
            elif what == "restart":
                self._signal(processes, self.random.choice(("qmail-send", "tcpserver", "qmail-queued")), signal.SIGTERM)
            else:
                self._signal(processes, "qmail-send", signal.Signals[f"SIG{what}"])

    def _signal(self, processes: dict[int, str], name: str, number: signal.Signals) -> None:
        pids = [pid for pid, found in processes.items() if found == name]
        if pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.random.choice(pids), number)
                self.faults[f"{number.name} {name}"] += 1

    def drain(self) -> bool:
        """Let the queue become empty; false when it has not after DRAIN_S."""
        end = time.monotonic() + DRAIN_S
        while self._waiting():
            if time.monotonic() > end:
                return False
            for pid, name in self.processes().items():
                if name == "qmail-send":
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGALRM)
            time.sleep(0.5)
        return True

    def _waiting(self) -> bool:
        """Whether a message waits. What a killed worker left in mess/ alone is none: it was never acknowledged."""
        return any(names for part in ("todo", "info") for _, _, names in os.walk(self.home / "queue" / part))

    def close(self) -> None:
        """End everything."""
        self.over.set()
        self.host.stop()


def uid_of(user: str) -> int:
    """The number of ``user``."""
    return ensure_user(user).pw_uid


def prepare(home: Path, sink: MailSink, deferring: Path) -> None:
    """A tree and its users; programs defer while ``deferring`` exists."""
    install(home, me="mx.example.test\n", locals=f"{DOMAIN}\n", rcpthosts=f"{DOMAIN}\n", defaulthost=f"{DOMAIN}\n",
            defaultdomain=f"{DOMAIN}\n", plusdomain=f"{DOMAIN}\n", smtproutes=f":127.0.0.1:{sink.port}\n",
            concurrencylocal="20\n", concurrencyremote="20\n", timeoutremote="10\n")  # fmt: skip
    lines = {
        PLAIN: {".qmail-onward": f"&{FORWARDED}@{DOMAIN}\n"},
        SLOW: {".qmail-later": f'|[ ! -e {deferring} ] || [ "$(head -c1 /dev/urandom | od -An -tu1)" -gt 128 ] || '
               "exit 111\n./Maildir/\n"},
    }  # fmt: skip
    for user in (PLAIN, FORWARDED, SLOW, BOUNCES):
        entry = ensure_user(user)
        fresh_maildir(user)
        for name, text in lines.get(user, {}).items():
            path = Path(entry.pw_dir) / name
            path.write_text(text)
            os.chown(path, entry.pw_uid, entry.pw_gid)


def assign_crowd(base: Path) -> None:
    """Homes and users/assign entries for a crowd, each with a uid that has no account."""
    lines = []
    for number, (_, user) in enumerate(CROWD.values()):
        uid = FIRST_UID + number
        home = base / user
        for folder in (home, home / "Maildir", *(home / "Maildir" / name for name in ("new", "cur", "tmp"))):
            folder.mkdir()
            os.chown(folder, uid, uid)
        lines.append(f"={user}:{user}:{uid}:{uid}:{home}:::\n")
    (base / "qmail/users/assign").write_text("".join(lines) + ".\n")
    subprocess.run([base / "qmail/bin/qmail-newu"], check=True, env={"QMAIL_HOME": str(base / "qmail")})


def answer(deferring: Path) -> Callable[[bytes, Transaction], bytes | None]:
    """A remote host that takes or refuses, and while ``deferring`` exists also defers and hangs up now and then."""

    def reply(line: bytes, transaction: Transaction) -> bytes | None:
        if line.upper().startswith(b"RCPT"):
            if b"refused@" in line:
                return b"550 no\r\n"
            if b"later@" in line and deferring.exists() and random.random() < 0.5:
                return b"450 later\r\n"
        if line[:4].upper() in (b"MAIL", b"DATA") and deferring.exists() and random.random() < 0.02:
            return None
        return accept_all(line, transaction)

    return reply


def submit(site: Site, ledger: Ledger, name: int, dice: random.Random) -> None:
    """One sender: a message after another until there is peace."""
    count = 0
    while not site.peace.wait(PAUSE_S):
        count += 1
        token = f"{name}-{count}-{dice.getrandbits(32):08x}"
        kinds = tuple(dice.sample(sorted(KINDS), dice.choice((1, 1, 1, 2, 4))))
        if dice.random() < CROWD_SHARE:
            kinds += tuple(CROWD)
        way = "SMTP" if "nobody" not in kinds and dice.random() < 0.6 else dice.choice(("sendmail", "qmail-inject"))
        text = b"From: <%b@%b>\nSubject: soak\nToken: %b\n\n" % (BOUNCES.encode(), DOMAIN.encode(), token.encode())
        text += body_of(token)
        addresses = [(KINDS | CROWD)[kind][0] for kind in kinds]
        ledger.tried += 1
        if hand_in(site, way, text, addresses):
            ledger.note(token, kinds, way)


def hand_in(site: Site, way: str, text: bytes, addresses: list[str]) -> bool:
    """Whether the message was acknowledged."""
    sender = f"{BOUNCES}@{DOMAIN}"
    if way == "SMTP":
        try:
            with smtplib.SMTP("127.0.0.1", site.host.port, timeout=20) as client:
                client.sendmail(sender, addresses, text.replace(b"\n", b"\r\n"))
                client.close()  # the answer to the message counts, not how the connection ends
            return True
        except (smtplib.SMTPException, OSError):
            return False
    done = subprocess.run(
        [str(site.home / "bin" / way), *(["-i"] if way == "sendmail" else []), "-f", sender, *addresses],
        input=text,
        env=site.host.environ() | {"QMAIL_HOME": str(site.home)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        user=uid_of(PLAIN),
        group=ensure_user(PLAIN).pw_gid,
        extra_groups=[],
        check=False,
        timeout=120,
    )
    return done.returncode == 0


@dataclass
class Audit:
    """What was found, per token and place."""

    found: Counter[tuple[str, str]] = field(default_factory=Counter)  # token and place (or address in a bounce)
    damaged: list[str] = field(default_factory=list)

    def take(self, place: str, data: bytes) -> None:
        """A delivered message."""
        match = _TOKEN.search(data)
        if match is None:
            self.damaged.append(f"{place}: a message without a token")
            return
        token = match[1].decode()
        if data.partition(b"\n\n")[2] != body_of(token):
            self.damaged.append(f"{place}: {token} is not whole")
            return
        self.found[token, place] += 1

    def take_bounce(self, data: bytes) -> None:
        """A bounce: its message must be whole in it."""
        match = _TOKEN.search(data)
        token = match[1].decode() if match else ""
        if not token or body_of(token) not in data:
            self.damaged.append(f"a bounce of {token or 'nothing'} is not whole")
            return
        for failed in set(_FAILED.findall(data)):
            self.found[token, failed.decode()] += 1


def collect(sink: MailSink, crowd: Path) -> Audit:
    """All that has arrived anywhere."""
    audit = Audit()
    for _, place in CROWD.values():
        for path in sorted((crowd / place / "Maildir/new").iterdir()):
            audit.take(place, path.read_bytes())
    for user in (PLAIN, FORWARDED, SLOW):
        for path in sorted((Path(ensure_user(user).pw_dir) / "Maildir/new").iterdir()):
            audit.take(user, path.read_bytes())
    for path in sorted((Path(ensure_user(BOUNCES).pw_dir) / "Maildir/new").iterdir()):
        audit.take_bounce(path.read_bytes())
    for taken in sink.taken:
        body = taken.body.replace(b"\r\n", b"\n")
        body = body[1:] if body.startswith(b".") else body
        body = body.replace(b"\n..", b"\n.")
        for recipient in taken.recipients:
            audit.take(recipient.decode().strip("<>"), body)
    return audit


def report(ledger: Ledger, audit: Audit, site: Site, emptied: bool) -> int:
    """Print the counts; how many deliveries are lost, damaged or went astray."""
    expected = {
        (token, place or recipient): kind
        for token, kinds in ledger.acknowledged.items()
        for kind, (recipient, place) in ((kind, (KINDS | CROWD)[kind]) for kind in kinds)
    }
    lost = [key for key in expected if not audit.found[key]]
    astray = [key for key in audit.found if key[0] in ledger.acknowledged and key not in expected]
    twice = sum(count - 1 for key, count in audit.found.items() if key in expected and count > 1)
    kinds = Counter(expected[key].rstrip("0123456789 ") for key in expected if audit.found[key])
    print(f"handed in: {ledger.tried}, acknowledged: {len(ledger.acknowledged)} {dict(ledger.ways)}")
    print(f"faults: {sum(site.faults.values())} {dict(site.faults)}")
    print(f"recipients audited: {len(expected)}, arrived or bounced whole: {sum(kinds.values())} {dict(kinds)}")
    unknown = len({key[0] for key in audit.found} - set(ledger.acknowledged))
    print(f"more than once: {twice}; arrived though not acknowledged: {unknown}; queue empty at the end: {emptied}")
    print(f"lost: {len(lost)}, damaged: {len(audit.damaged)}, astray: {len(astray)}")
    for line in [*map(str, lost[:20]), *audit.damaged[:20], *map(str, astray[:20])]:
        print(f"  {line}")
    return len(lost) + len(audit.damaged) + len(astray) + (not emptied)


def soak(seconds: float, seed: int) -> int:
    """Run it; the number of messages that are not as they should be."""
    base = Path(tempfile.mkdtemp(prefix="pyqmail-soak-"))
    base.chmod(0o755)
    deferring = base / "deferring"
    deferring.touch()
    ledger = Ledger()
    alone = os.open(ensure_user(PLAIN).pw_dir, os.O_RDONLY)
    try:
        fcntl.flock(alone, fcntl.LOCK_EX)  # two runs would empty each other's mailboxes
        with mail_sink(answer(deferring)) as sink:
            prepare(base / "qmail", sink, deferring)
            assign_crowd(base)
            site = Site(base / "qmail", seed)
            with running(site, ledger, seed):
                site.peace.wait(seconds)
                site.peace.set()
            deferring.unlink()
            emptied = site.drain()
            if not emptied:
                log = site.host.log.read_text(errors="replace")
                print(*re.findall("^.*(?:deferral|alert|warning).*$", log, re.MULTILINE)[-20:], log[-3000:], sep="\n")
            site.close()
            return report(ledger, collect(sink, base), site, emptied)
    finally:
        os.close(alone)
        shutil.rmtree(base, ignore_errors=True)


@contextlib.contextmanager
def running(site: Site, ledger: Ledger, seed: int) -> Iterator[None]:
    """The supervisor, which goes on, and the senders and faults, which end with the block."""
    threading.Thread(target=site.keep, daemon=True).start()
    end = time.monotonic() + 60
    while b"status: local" not in site.host.log.read_bytes():
        assert time.monotonic() < end, "the host does not start"
        time.sleep(0.1)
    threads = [threading.Thread(target=site.trouble)]
    for number in range(SENDERS):
        dice = random.Random(f"{seed} {number}")
        threads.append(threading.Thread(target=submit, args=(site, ledger, number, dice)))
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        site.peace.set()
        for thread in threads:
            thread.join()


def main() -> int:
    """Exit code: 0 when nothing was lost."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seconds", type=float, default=3600.0)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().getrandbits(32))
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    return 1 if soak(options.seconds, options.seed) else 0


if __name__ == "__main__":
    sys.exit(main())
