"""The services of one host under whatever supervises them: daemontools, runit, systemd, or nobody.

A service is found as a directory /service/NAME (or /etc/service, /var/service) with a supervisor at work in it, else as
a systemd unit NAME.service. Without either, qmailctl itself keeps the programs of HOME/service or HOME/supervise, or
HOME/rc, detached.
"""

import os
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from pyqmail.admin import detached

# In the order of starting. What takes mail in comes last, and stops first.
NAMES = (
    "qmail-queued",
    "qmail-send",
    "qmail-metrics",
    "qmail-smtpd",
    "qmail-submission",
    "qmail-submissions",
    "qmail-pop3d",
    "qmail-pop3s",
    "qmail-qmtpd",
    "qmail-qmqpd",
    "qmail-xferd",
)
DIRECTORIES = ("/service", "/etc/service", "/var/service")
UNIT_DIRECTORIES = (
    "/etc/systemd/system",
    "/run/systemd/system",
    "/usr/local/lib/systemd/system",
    "/lib/systemd/system",
)
SYSTEMD_RUNS = "/run/systemd/system"
SIGNALS = {"pause": signal.SIGSTOP, "cont": signal.SIGCONT, "alarm": signal.SIGALRM, "hup": signal.SIGHUP}


class ServiceTrouble(Exception):
    """A service did not do what was asked; the text says which and why."""


class Service(Protocol):
    """One service and the verbs that every supervisor has."""

    @property
    def name(self) -> str:
        """What the supervisor calls it."""

    def do(self, verb: str) -> None:
        """start, stop, pause, cont, alarm or hup. Raises ServiceTrouble."""

    def status(self) -> str:
        """One line."""


def run(words: Sequence[str]) -> str:
    """The output of a supervisor's tool. Raises ServiceTrouble."""
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    except FileNotFoundError:
        raise ServiceTrouble(f"{words[0]} is not installed") from None
    if done.returncode != 0:
        raise ServiceTrouble((done.stderr or done.stdout).strip() or f"{' '.join(words)} failed")
    return done.stdout.strip()


@dataclass(frozen=True, slots=True)
class Daemontools:
    """A directory under supervise(8)."""

    name: str
    directory: str

    def do(self, verb: str) -> None:
        """svc, and for start and stop the log too."""
        options = {
            "start": "-u",
            "stop": "-d",
            "pause": "-p",
            "cont": "-c",
            "alarm": "-a",
            "hup": "-h",
        }
        complaint = subprocess.run(["svc", options[verb], self.directory], capture_output=True, text=True, check=False)
        if complaint.returncode != 0 or complaint.stderr:
            raise ServiceTrouble(complaint.stderr.strip() or f"svc {options[verb]} {self.directory} failed")

    def status(self) -> str:
        """svstat, the log's beside it."""
        return run(["svstat", *(path for path in (self.directory, f"{self.directory}/log") if supervised(path))])


@dataclass(frozen=True, slots=True)
class Runit:
    """A directory under runsv(8)."""

    name: str
    directory: str

    def do(self, verb: str) -> None:
        """sv, without a wait."""
        words = {"start": "up", "stop": "down", "alarm": "alarm", "hup": "hup"}
        run(["sv", words.get(verb, verb), self.directory])

    def status(self) -> str:
        """sv status."""
        return run(["sv", "status", self.directory])


@dataclass(frozen=True, slots=True)
class Systemd:
    """A unit."""

    name: str

    def do(self, verb: str) -> None:
        """systemctl."""
        unit = f"{self.name}.service"
        if verb in SIGNALS:
            run(["systemctl", "kill", f"--signal={SIGNALS[verb].name}", "--kill-who=main", unit])
        else:
            run(["systemctl", verb, unit])

    def status(self) -> str:
        """Whether it is active, and its main pid."""
        words = ["systemctl", "show", "--property=ActiveState,SubState,MainPID,StateChangeTimestamp", self.name]
        facts = dict(line.partition("=")[::2] for line in run(words).splitlines())
        return (
            f"{self.name}: {facts.get('ActiveState')} ({facts.get('SubState')}, pid {facts.get('MainPID')})"
            f" since {facts.get('StateChangeTimestamp') or 'never'}"
        )


@dataclass(frozen=True, slots=True)
class Detached:
    """A program that qmailctl started itself."""

    name: str
    script: str
    home: str

    def do(self, verb: str) -> None:
        """Start it detached, or signal it."""
        keeper = detached.Keeper(self.home, self.name)
        try:
            if verb == "stop":
                keeper.stop()
            if verb == "start":
                keeper.start(self.script)
            if verb in SIGNALS:
                keeper.signal(SIGNALS[verb])
        except detached.KeeperTrouble as trouble:
            raise ServiceTrouble(f"{self.name}: {trouble}") from trouble

    def status(self) -> str:
        """Its pid, if it runs."""
        pid = detached.Keeper(self.home, self.name).pid()
        return f"{self.name}: up (pid {pid}, no supervisor)" if pid else f"{self.name}: down (no supervisor)"


def supervised(directory: str) -> bool:
    """Whether a supervisor has its fifos open in ``directory``."""
    try:
        fd = os.open(f"{directory}/supervise/ok", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    os.close(fd)
    return True


def find_services(home: str, environ: Mapping[bytes, bytes]) -> list[Service]:
    """The services of this host in the order of starting; $SERVICEDIR is where to look first."""
    given = os.fsdecode(environ.get(b"SERVICEDIR", b""))
    places = (given,) if given else DIRECTORIES
    found: list[Service] = []
    for name in NAMES:
        service = _find(name, places)
        if service is not None:
            found.append(service)
    return found or _unsupervised(home)


def _find(name: str, places: Sequence[str]) -> Service | None:
    for place in places:
        directory = f"{place}/{name}"
        if supervised(directory):
            # runsv keeps its state in readable files; supervise does not
            return (
                Runit(name, directory)
                if os.path.exists(f"{directory}/supervise/stat")
                else Daemontools(name, directory)
            )
    if os.path.isdir(SYSTEMD_RUNS) and any(os.path.exists(f"{place}/{name}.service") for place in UNIT_DIRECTORIES):
        return Systemd(name) if shutil.which("systemctl") else None
    return None


def _unsupervised(home: str) -> list[Service]:
    found: list[Service] = []
    for name in NAMES:
        scripts = (f"{home}/{place}/{name}/run" for place in ("service", "supervise"))
        script = next((script for script in scripts if os.access(script, os.X_OK)), None)
        if script is not None:
            found.append(Detached(name, script, home))
    if not found and os.access(f"{home}/rc", os.X_OK):
        found.append(Detached("qmail-send", f"{home}/rc", home))
    return found
