"""bin/quickstart --tour: what this server does, step by step, each with the command that an administrator uses for it.

Runs beside the services of a quickstart, as their user, and needs nothing but them and the standard library. A feature
more is a function more, and its place in STEPS.
"""

import contextlib
import re
import secrets
import smtplib
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pyqmail.admin.tour_names import names

ADDRESS = "127.0.0.1"
DOMAIN = "mail.pyqmail.test"
USER = f"ann@{DOMAIN}"
ELSEWHERE = "joe@example.net"
SUBMISSION = {"SMTPAUTH": "!", "FORCEAUTHMAILFROM": "1", "COMPLETEHEADER": "1", "HIDECLIENT": "1"}
PATIENCE_S = 40.0


class TourFailure(Exception):
    """A step went wrong; the text is the one line that says how."""


@dataclass
class Tour:
    """What the steps share. ``port`` is the one for mail, ``submission`` the one for users, both on 127.0.0.1."""

    tree: Path
    port: int
    submission: int
    start: Callable[[str, Sequence[object], Mapping[str, str]], None]  # a service: name, words, variables beside PATH
    wait_for: Callable[[Callable[[], object], str], None]
    reload: Callable[[], None]  # qmail-send reads its control files again
    password: str = field(default_factory=lambda: secrets.token_urlsafe(12))
    message: str = ""  # with its signature
    record: str = ""  # of its key, for DNS

    def run(self, *words: str, given: str = "", secret: bool = False) -> str:
        """Show a command and what it says; its output. Raises TourFailure when it fails."""
        show(f"$ {' '.join(words)}" + (f"        (and the password: {given.strip()})" if secret else ""))
        path = f"{self.tree}/bin:/usr/local/bin:/usr/bin:/bin"
        done = subprocess.run(
            words, env={"PATH": path, "QMAIL_HOME": str(self.tree)}, input=given, capture_output=True, text=True
        )
        if done.returncode != 0:
            raise TourFailure(f"{' '.join(words)}: {(done.stderr or done.stdout).strip()}")
        show(*done.stdout.splitlines())
        return done.stdout

    def log_lines(self, *wanted: str) -> list[str]:
        """The newest lines of the log that have all of ``wanted``."""
        lines = (self.tree / "log").read_text(errors="replace").splitlines()
        return [line for line in lines if all(word in line for word in wanted)]

    def show_log(self, *wanted: str) -> None:
        """Wait for a line with all of ``wanted`` and show the newest."""
        self.wait_for(lambda: self.log_lines(*wanted), f"a line with {' '.join(wanted)} in the log")
        show(f"$ grep '{wanted[-1]}' {self.tree}/log | tail -n 1", self.log_lines(*wanted)[-1])


def show(*lines: str) -> None:
    """Print lines of a step."""
    for line in lines:
        print(f"    {line}", flush=True)


class ShownClient(smtplib.SMTP):
    """A client whose conversation can be read along, while ``shown``; what proves who it is cannot."""

    def __init__(self, port: int, *, shown: bool = True) -> None:
        self.shown = shown
        super().__init__(ADDRESS, port, "localhost", timeout=PATIENCE_S)

    def putcmd(self, cmd: str, args: str = "") -> None:
        """Show the command and send it."""
        hidden = " ".join([*args.split()[:1], "***"]) if cmd.upper() == "AUTH" else args
        if self.shown:
            show(f"C: {cmd} {hidden}".rstrip())
        super().putcmd(cmd, args)

    def getreply(self) -> tuple[int, bytes]:
        """Show the reply."""
        code, text = super().getreply()
        lines = text.decode("ascii", "replace").split("\n")
        if self.shown:
            show(*(f"S: {code}-{line}" for line in lines[:-1]), f"S: {code} {lines[-1]}")
        return code, text


def certificate(tour: Tour) -> None:
    """The certificate that clients are shown"""
    tour.run("qmail-cert", "show")


def user(tour: Tour) -> None:
    """A user with a password and no account of the system"""
    if not (tour.tree / "domains" / DOMAIN).exists():
        tour.run("qmail-vuser", "add-domain", DOMAIN)
    known = USER in tour.run("qmail-vuser", "list", DOMAIN)
    tour.run("qmail-vuser", "passwd" if known else "add", USER, given=tour.password + "\n", secret=True)
    tour.reload()
    show("$ qmailctl reload")


def submission(tour: Tour) -> None:
    """Submission: STARTTLS, AUTH, a message, and where it lies"""
    show("$ qmail-authd        (where there is control/authd, qmail-start runs it)")
    words = ["tcpserver", "-H", "-R", "-l", "0", ADDRESS, str(tour.submission), "qmail-smtpd"]
    show("$ " + " ".join([*(f"{name}='{value}'" for name, value in SUBMISSION.items()), *words]))
    tour.start("submission", [tour.tree / "bin" / words[0], *words[1:]], SUBMISSION)
    tour.wait_for(lambda: connects(tour.tree / "run" / "qmail-authd.sock"), "qmail-authd")
    tour.wait_for(lambda: connects(tour.submission), f"submission on port {tour.submission}")
    show(f"$ swaks -s {ADDRESS}:{tour.submission} -tls -a PLAIN -au {USER} -f {USER} -t {USER}")
    mailbox = tour.tree / "domains" / DOMAIN / "ann" / "Maildir" / "new"
    before = set(mailbox.glob("*"))
    with logged_in(tour) as client:
        client.sendmail(USER, [USER], f"From: {USER}\r\nTo: {USER}\r\nSubject: by submission\r\n\r\nIt works.\r\n")
    tour.wait_for(lambda: set(mailbox.glob("*")) - before, "the message")
    path = (set(mailbox.glob("*")) - before).pop()
    show(f"$ cat {path}", *path.read_text(errors="replace").splitlines())
    tour.show_log("auth: auth-success")


def refused(tour: Tour) -> None:
    """What is refused, and what the log says of it"""
    show(f"$ swaks -s {ADDRESS}:{tour.submission} -tls -a PLAIN -au {USER} -f {ELSEWHERE} -t {USER}")
    with logged_in(tour, shown=False) as client:
        client.shown = True
        client.mail(ELSEWHERE)
    tour.show_log("refused", f"from=<{ELSEWHERE}>")
    for recipient in (f"nobody@{DOMAIN}", ELSEWHERE):
        show(f"$ swaks -s {ADDRESS}:{tour.port} -f {ELSEWHERE} -t {recipient}")
        with ShownClient(tour.port) as plain:
            plain.helo()
            plain.mail(ELSEWHERE)
            plain.rcpt(recipient)
        tour.show_log("refused", f"to=<{recipient}>")


def explained(tour: Tour) -> None:
    """Where mail for an address would go, and why"""
    tour.run("qmail-explain", USER)


def signed(tour: Tour) -> None:
    """A key for DKIM, its record for DNS, and a signature"""
    keys = tour.tree / "control" / "domainkeys" / DOMAIN
    if not keys.exists():
        tour.run("qmail-dkimkey", "make", "-t", "ed25519", DOMAIN)
    tour.record = tour.run("qmail-dkimkey", "record", DOMAIN)
    key = min(path.name for path in keys.iterdir())
    message = f"From: {USER}\nTo: {ELSEWHERE}\nSubject: signed\n\nIt works.\n"
    told = (f"DKIMSIGN=control/domainkeys/%/{key}", "RELAYCLIENT=", "DKIMQUEUE=/bin/cat")
    tour.message = tour.run("env", *told, "qmail-dkim", given=message)
    if "DKIM-Signature: " not in tour.message:
        raise TourFailure("qmail-dkim: the message was not signed")


def verified(tour: Tour) -> None:
    """The same message as it comes from outside: verified, and once changed refused"""
    key = next(path.name for path in sorted((tour.tree / "control" / "domainkeys" / DOMAIN).iterdir()))
    texts = {f"{key}._domainkey.{DOMAIN}": "".join(re.findall('"([^"]*)"', tour.record))}
    texts[f"_dmarc.{DOMAIN}"] = "v=DMARC1; p=reject"
    show(f'(a name server of the tour\'s own says: _dmarc.{DOMAIN} TXT "v=DMARC1; p=reject", and has the key)')
    told = names({name.encode(): text.encode() for name, text in texts.items()})
    with told as port, controls(tour, dnsservers=f"{ADDRESS}:{port}\n", dmarcbehavior="3\n"):
        show("$ qmail-verifyd        (where there is control/dmarcbehavior, qmail-start runs it)")
        if not connects(tour.tree / "run" / "qmail-verifyd.sock"):
            tour.start("qmail-verifyd", [tour.tree / "bin" / "qmail-verifyd"], {})
        tour.wait_for(lambda: connects(tour.tree / "run" / "qmail-verifyd.sock"), "qmail-verifyd")
        for body in (tour.message, tour.message.replace("It works.", "It works not.")):
            show(f"$ swaks -s {ADDRESS}:{tour.port} -f {USER} -t {USER} -d message")
            with ShownClient(tour.port, shown=False) as client:
                client.ehlo()
                client.mail(USER)
                client.rcpt(USER)
                client.shown = True
                client.data(body)
        tour.show_log("dkim=pass", "dmarc=pass")
        tour.show_log("refused", "dmarc=fail")


def watched(tour: Tour) -> None:
    """The log as JSON too, and what is going on"""
    with controls(tour, logformat="both\n"):
        with ShownClient(tour.port, shown=False) as client:
            client.helo()
            client.mail(ELSEWHERE)
            client.rcpt(f"nobody@{DOMAIN}")
        tour.show_log(f"nobody@{DOMAIN}", '"event"')
    tour.run("qmail-top", "--once", f"{tour.tree}/log")


STEPS: tuple[Callable[[Tour], None], ...] = (
    certificate,
    user,
    submission,
    refused,
    explained,
    signed,
    verified,
    watched,
)


def take(tour: Tour) -> None:
    """Every step in order. Raises TourFailure."""
    for number, step in enumerate(STEPS, 1):
        print(f"\n{number}. {step.__doc__}", flush=True)
        try:
            step(tour)
        except (OSError, smtplib.SMTPException) as error:
            raise TourFailure(f"{step.__doc__}: {error}") from error


@contextlib.contextmanager
def controls(tour: Tour, **files: str) -> Iterator[None]:
    """Control files for a step; afterwards they are as they were. Raises OSError."""
    paths = {tour.tree / "control" / name: text for name, text in files.items()}
    before = {path: path.read_bytes() if path.exists() else None for path in paths}
    try:
        for path, text in paths.items():
            show(f"$ echo {text.strip()} >{path}")
            path.write_text(text)
        yield
    finally:
        for path, old in before.items():
            path.unlink(missing_ok=True) if old is None else path.write_bytes(old)


def logged_in(tour: Tour, *, shown: bool = True) -> ShownClient:
    """A client that is the user. Raises OSError and SMTPException."""
    client = ShownClient(tour.submission, shown=shown)
    client.starttls(context=trusting(tour.tree))
    client.login(USER, tour.password)
    return client


def trusting(tree: Path) -> ssl.SSLContext:
    """What a client needs that trusts the tree's own certificate, under whatever name."""
    context = ssl.create_default_context(cafile=str(tree / "control" / "servercert.pem"))
    context.check_hostname = False
    return context


def connects(where: int | Path) -> bool:
    """Whether the port, or the socket of a helper, accepts connections."""
    local = isinstance(where, Path)
    kind = (socket.AF_UNIX, socket.SOCK_SEQPACKET) if local else (socket.AF_INET, socket.SOCK_STREAM)
    with socket.socket(*kind) as sock:
        sock.settimeout(PATIENCE_S)
        try:
            sock.connect(str(where) if local else (ADDRESS, where))
        except OSError:
            return False
    return True
