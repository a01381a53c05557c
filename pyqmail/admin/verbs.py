"""What each verb of qmailctl does to all services of a home (qmailctl(8))."""

import os
import subprocess
from collections.abc import Callable, Mapping, Sequence

from pyqmail.admin import supervision
from pyqmail.admin.services import Service, ServiceTrouble, find_services
from pyqmail.system.files import write_all

ACCESS_RULES = ("tcp.smtp", "tcp.pop3", "tcp.qmtp", "tcp.qmqp")
RULE_DIRECTORIES = ("/etc", "/etc/tcprules.d")


class Host:
    """What the verbs work on."""

    def __init__(self, home: str, environ: Mapping[bytes, bytes]) -> None:
        self.home = home
        self.environ = dict(environ)
        self.failed = False

    def services(self) -> list[Service]:
        """The services, or a line that says there is none."""
        found = find_services(self.home, self.environ)
        if not found:
            self.complain("no service found: neither supervised, nor HOME/service, nor HOME/rc")
        return found

    def complain(self, text: str) -> None:
        """A line on descriptor 2; the exit code will say that something failed."""
        self.failed = True
        write_all(2, f"qmailctl: {text}\n".encode())

    def each(self, verb: str, services: Sequence[Service], doing: str) -> None:
        """Tell each of ``services``; one that fails does not keep the others from being told."""
        for service in services:
            write_all(1, f"{doing} {service.name}\n".encode())
            try:
                service.do(verb)
            except (ServiceTrouble, OSError) as trouble:
                self.complain(str(trouble))

    def program(self, name: str, *words: str, stdin: str | None = None) -> bool:
        """Run one of our own programs; whether it did what it should."""
        path = f"{self.home}/bin/{name}"
        if not os.access(path, os.X_OK):
            self.complain(f"{path} is not here")
            return False
        environ = {**self.environ, b"QMAIL_HOME": os.fsencode(self.home)}
        with open(stdin or os.devnull, "rb") as source:
            done = subprocess.run([path, *words], stdin=source, env=environ, check=False)
        self.failed |= done.returncode != 0
        return done.returncode == 0


def start(host: Host) -> None:
    """Start every service."""
    host.each("start", host.services(), "Starting")


def stop(host: Host) -> None:
    """Stop every service, what takes mail in first; then what a qmail-start has left behind."""
    host.each("stop", host.services()[::-1], "Stopping")
    _end_left_over(host)


def _end_left_over(host: Host) -> None:
    """End the supervisor of helpers, and them with it."""
    for process in supervision.left_over(host.home):
        write_all(1, f"Stopping {process.name} (pid {process.pid})\n".encode())
        if not supervision.end(process):
            host.complain(f"{process.name}: pid {process.pid} still runs")


def restart(host: Host) -> None:
    """Stop the listeners, restart delivery, start the listeners; mail that waits in a queue stays there.

    The helpers of before would be watched by the new qmail-start, with the control files of before.
    """
    services = host.services()
    inner = [service for service in services if service.name in ("qmail-queued", "qmail-send")]
    outer = [service for service in services if service not in inner]
    host.each("stop", [*outer[::-1], *inner[::-1]], "Stopping")
    _end_left_over(host)
    host.each("start", [*inner, *outer], "Starting")


def stat(host: Host) -> None:
    """One line for each service and its log, for each helper and build, and the counts of the queue."""
    for service in host.services():
        try:
            write_all(1, service.status().encode() + b"\n")
        except ServiceTrouble as trouble:
            host.complain(str(trouble))
    for line in (*supervision.helper_lines(host.home), *supervision.build_lines(host.home)):
        write_all(1, line.encode() + b"\n")
    host.program("qmail-qstat")


def pause(host: Host) -> None:
    """Suspend."""
    host.each("pause", host.services()[::-1], "Pausing")


def cont(host: Host) -> None:
    """Go on."""
    host.each("cont", host.services(), "Continuing")


def doqueue(host: Host) -> None:
    """Forget which hosts timed out, then let qmail-send try everything."""
    host.program("qmail-tcpok")
    host.each(
        "alarm", [service for service in host.services() if service.name == "qmail-send"], "Flushing the queue of"
    )


def reload(host: Host) -> None:
    """HUP to qmail-send."""
    host.each("hup", [service for service in host.services() if service.name == "qmail-send"], "Sending HUP to")


def queue(host: Host) -> None:
    """Counts, then every message."""
    host.program("qmail-qstat")
    host.program("qmail-qread")


def cdb(host: Host) -> None:
    """Every database whose source is there."""
    for directory in RULE_DIRECTORIES:
        for name in ACCESS_RULES:
            source = f"{directory}/{name}"
            if os.path.exists(source) and host.program("tcprules", f"{source}.cdb", f"{source}.tmp", stdin=source):
                write_all(1, f"Rebuilt {source}.cdb\n".encode())
    for source, program in (("control/morercpthosts", "qmail-newmrh"), ("users/assign", "qmail-newu")):
        if os.path.exists(f"{host.home}/{source}") and host.program(program):
            write_all(1, f"Rebuilt the database of {host.home}/{source}\n".encode())


VERBS: dict[str, Callable[[Host], None]] = {
    "start": start,
    "stop": stop,
    "restart": restart,
    "stat": stat,
    "pause": pause,
    "cont": cont,
    "doqueue": doqueue,
    "reload": reload,
    "queue": queue,
    "cdb": cdb,
}
