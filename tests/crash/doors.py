"""The programs at the doors, each with a fault: what takes mail in, sends it out, knows recipients, starts the rest.

A sender that gave up, or was told something that begins with 5, is wrong; so is one that is left without an answer.
"""

import os
import select
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pyqmail.policy.classify import Routing
from pyqmail.policy.routing_wire import format_routing
from pyqmail.programs import qmail_lspawn, qmail_rcptd, qmail_rspawn, qmail_start, tcpserver
from pyqmail.protocol.recipients import ACCEPT, NOBODY, SOCKET, format_question
from pyqmail.send.start import Start
from tests.crash.mail import Ledger, text, whole
from tests.crash.trip import Trip

if TYPE_CHECKING:
    from tests.crash.faults import Bench

PIPED = 36_000  # bytes of header before a message that is not large but too long for a request
LARGE = 100_000  # bytes of header before a message that is to be large
PATIENCE_S = 60.0  # as in faults.py
SESSIONS = ("one", "two", "three")
Scene = Callable[["Bench", Trip], list[str]]


def running(pid: int, seconds: float = 0.0) -> bool:
    """Whether ``pid`` has not ended within ``seconds``; it is not collected."""
    watch = os.pidfd_open(pid)
    try:
        return not select.select([watch], [], [], seconds)[0]
    finally:
        os.close(watch)


def padded(token: str, padding: int) -> bytes:
    """The message of ``token`` after so many bytes of header."""
    line = b"X-Padding: " + b"x" * 68 + b"\n"
    return line * (padding // len(line)) + text(token)


# programs that are given a message and say by their exit code what became of it


def given(
    bench: "Bench", trip: Trip, *argv: str, padding: int = 0, service: bool = False, queue: bool = False
) -> list[str]:
    """``argv`` with a message: to a running qmail-queued, else to the queue itself, or by an executed QMAILQUEUE."""
    bench.restart.empty()
    ledger, wrong = Ledger(), []
    pid = bench.serve(None) if service else 0
    environ = {"QMAILQUEUE": os.fsencode(bench.home / "bin/qmail-queue")} if queue else {}
    for token, fault in (("one", trip), ("two", None)):
        code = _give(bench, fault, ledger, token, argv, padding, environ)
        if code not in ((0, 111, -signal.SIGKILL) if fault else (0,)):
            wrong.append(f"{token}: exit {code}")
    if pid:
        os.kill(pid, signal.SIGTERM)
        if bench.ended(pid) is None:
            wrong.append("qmail-queued does not end")
    return wrong + bench.deliver_rest(ledger)


def _give(
    bench: "Bench",
    fault: Trip | None,
    ledger: Ledger,
    token: str,
    argv: tuple[str, ...],
    padding: int,
    environ: dict[str, bytes],
) -> int | None:
    """The exit code of ``argv``."""
    ledger.note(["try", token, "ann@here.example"])
    sender = f"sender-{token}@far.example"
    more = {**environ, "DTLINE": b"Delivered-To: somebody\n", "NEWSENDER": sender.encode()}
    with tempfile.TemporaryFile() as message:
        message.write(padded(token, padding))
        message.seek(0)
        words = [word.format(sender).encode() for word in argv]
        run = bench.launched("pyqmail.programs." + argv[0].replace("-", "_"), 111, words, **more)
        code = bench.ended(bench.child(fault, run, {0: message.fileno()}))
    if code == 0:
        ledger.note(["ack", token])
    return code


def queued(bench: "Bench", trip: Trip, *, padding: int = 0) -> list[str]:
    """qmail-queued, whose clients are programs: whatever becomes of it, they end with 0 or 111."""
    bench.restart.empty()
    ledger, wrong = Ledger(), []
    pid = bench.serve(trip)
    for token, argv in (("one", INJECT), ("two", SENDMAIL), ("three", FORWARD), ("four", INJECT)):
        before = trip.fired
        sock = bench.connect(pid)  # it has begun, or ended: then they write the queue themselves
        if sock is not None:
            sock.close()
        code = _give(bench, None, ledger, token, argv, padding, {})
        if code not in (0, 111) or (code and before and running(pid, 0.2)):
            wrong.append(f"{token}: exit {code}")
    os.kill(pid, signal.SIGTERM)
    if bench.ended(pid) is None:
        wrong.append("it does not end")
    return wrong + bench.deliver_rest(ledger)


# SMTP


def _replies(sock: socket.socket, token: str, padding: int) -> tuple[list[bytes], bool]:
    """One session as far as it goes: the replies that did not come as hoped, and whether the message was taken."""
    message = padded(token, padding).replace(b"\n", b"\r\n") + b".\r\n"
    commands = (
        (b"", b"220"),
        (b"EHLO client.example\r\n", b"250"),
        (b"MAIL FROM:<sender-%b@far.example>\r\n" % token.encode(), b"250"),
        (b"RCPT TO:<ann@here.example>\r\n", b"250"),
        (b"DATA\r\n", b"354"),
        (message, b"250"),
        (b"QUIT\r\n", b"221"),
    )
    taken = False
    sock.settimeout(PATIENCE_S)
    try:
        with sock.makefile("rb") as lines:
            for command, wanted in commands:
                sock.sendall(command)
                reply = lines.readline()
                while reply[3:4] == b"-":
                    reply = lines.readline()
                if not reply.startswith(wanted):
                    return [reply], taken
                taken = taken or command is message
    except TimeoutError:
        return [b"no answer"], taken
    except OSError as error:
        return [b"closed: " + str(error).encode()], taken
    return [], taken


def _session(sock: socket.socket, ledger: Ledger, token: str, padding: int, wrong: list[str]) -> bytes:
    """Why the message was not taken, empty if it was."""
    ledger.note(["try", token, "ann@here.example"])
    replies, taken = _replies(sock, token, padding)
    wrong += [f"{token}: {reply!r}" for reply in replies if reply[:1] in (b"5", b"n")]
    if taken:
        ledger.note(["ack", token])
    return b"" if taken else b" ".join(replies) or b"closed"


def smtpd(bench: "Bench", trip: Trip, *, padding: int = 0, service: bool = False) -> list[str]:
    """qmail-smtpd as tcpserver of another make would run it."""
    bench.restart.empty()
    ledger, wrong = Ledger(), []
    queued = bench.serve(None) if service else 0
    for token, fault in (("one", trip), ("two", None)):
        ours, theirs = socket.socketpair()
        run = bench.launched("pyqmail.programs.qmail_smtpd", 1, [b"qmail-smtpd"], TCPREMOTEIP=b"192.0.2.1")
        pid = bench.child(fault, run, {0: theirs.fileno(), 1: theirs.fileno()})
        theirs.close()
        with ours:
            reason = _session(ours, ledger, token, padding, wrong)
        if bench.ended(pid) is None:
            wrong.append(f"{token}: it does not end")
        if reason and not fault:
            wrong.append(f"{token}: not taken: {reason!r}")
    if queued:
        os.kill(queued, signal.SIGTERM)
        bench.ended(queued)
    return wrong + bench.deliver_rest(ledger)


class Door:
    """A tcpserver that serves qmail-smtpd from memory."""

    def __init__(self, bench: "Bench", trip: Trip | None, options: list[bytes]) -> None:
        reader, writer = os.pipe()
        argv = [*options, b"-1RHl0", b"127.0.0.1", b"0", b"qmail-smtpd"]
        self.pid = bench.child(trip, lambda: bench.program(tcpserver.main, "tcpserver", *argv), {1: writer})
        os.close(writer)
        with os.fdopen(reader, "rb") as port:
            self.port = int(port.readline() or b"0")

    def session(self, ledger: Ledger, token: str, padding: int, wrong: list[str]) -> bytes:
        """Why the message was not taken, empty if it was."""
        try:
            sock = socket.create_connection(("127.0.0.1", self.port), PATIENCE_S)
        except OSError as error:
            return str(error).encode()
        with sock:
            return _session(sock, ledger, token, padding, wrong)


def served(bench: "Bench", trip: Trip, *options: bytes, padding: int = 0) -> list[str]:
    """tcpserver with qmail-smtpd in its workers, and a qmail-queued behind them."""
    bench.restart.empty()
    ledger, wrong = Ledger(), []
    queued = bench.serve(None)
    door = Door(bench, trip, [*options])
    for token in SESSIONS:
        before = trip.fired
        reason = door.session(ledger, token, padding, wrong)
        if not reason or not before:
            continue
        if running(door.pid, 1):
            wrong.append(f"{token}: not taken after the fault: {reason!r}")
            continue
        bench.ended(door.pid)
        bench.restarts += 1
        door = Door(bench, None, [*options])
        if reason := door.session(ledger, "again", padding, wrong):
            wrong.append(f"not taken by a new tcpserver: {reason!r}")
    for pid in (door.pid, queued):
        os.kill(pid, signal.SIGTERM)
        if bench.ended(pid) is None:
            wrong.append("a server does not end")
    return wrong + bench.deliver_rest(ledger)


# out


class Sink:
    """An SMTP server in a process of its own that writes what it takes into files; it ends when this process does."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        listener = socket.create_server(("127.0.0.1", 0))
        self.port = listener.getsockname()[1]
        reader, self._alive = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                os.close(self._alive)
                self._serve(listener, reader)
            finally:
                os._exit(0)
        listener.close()
        os.close(reader)

    def _serve(self, listener: socket.socket, alive: int) -> None:
        while alive not in select.select([listener, alive], [], [])[0]:
            line, _ = listener.accept()
            try:
                with line, line.makefile("rb") as lines:
                    line.settimeout(PATIENCE_S)
                    self._converse(line, lines)
            except OSError:
                continue

    def _converse(self, line: socket.socket, lines: "object") -> None:
        line.sendall(b"220 sink\r\n")
        body = None
        for command in lines:  # type: ignore[attr-defined]
            if body is None:
                verb = command[:4].upper()
                line.sendall({b"DATA": b"354 go\r\n", b"QUIT": b"221 bye\r\n"}.get(verb, b"250 ok\r\n"))
                body = [] if verb == b"DATA" else None
            elif command == b".\r\n":
                self._keep(b"".join(body))
                line.sendall(b"250 taken\r\n")
                body = None
            else:
                body.append(command.removeprefix(b".").replace(b"\r\n", b"\n"))

    def _keep(self, message: bytes) -> None:
        number = len(os.listdir(self.folder))
        (self.folder / f"{number}.new").write_bytes(message)
        (self.folder / f"{number}.new").rename(self.folder / str(number))

    def take(self) -> list[bytes]:
        """What came since the last time."""
        found = [path.read_bytes() for path in sorted(self.folder.iterdir())]
        for path in self.folder.iterdir():
            path.unlink()
        return found


def _route(bench: "Bench") -> Sink:
    """The sink, to which all mail for elsewhere goes."""
    if bench.sink is None:
        bench.sink = Sink(bench.home / "sink")
    (bench.home / "control/smtproutes").write_text(f":127.0.0.1:{bench.sink.port}\n")
    bench.sink.take()
    return bench.sink


def remote(bench: "Bench", trip: Trip, *, padding: int = 0) -> list[str]:
    """qmail-remote, executed for one delivery."""
    sink, wrong = _route(bench), []
    for token, fault in (("one", trip), ("two", None)):
        reader, writer = os.pipe()
        with tempfile.TemporaryFile() as message, os.fdopen(reader, "rb") as reports:
            message.write(padded(token, padding))
            message.seek(0)
            words = [b"qmail-remote", b"far.example", b"a@here.example", b"ann@far.example"]
            run = bench.launched("pyqmail.programs.qmail_remote", 111, words)
            pid = bench.child(fault, run, {0: message.fileno(), 1: writer})
            os.close(writer)
            code = bench.ended(pid)
            letters = [report[:1] for report in reports.read().split(b"\0") if report]
        taken = [data for data in sink.take() if whole(data) and token.encode() in data]
        sent = code == 0 and letters == [b"r", b"K"]
        if b"h" in letters or b"D" in letters or code not in (0, 111, -signal.SIGKILL):
            wrong.append(f"{token}: exit {code} with {letters}")
        if (sent or not fault) and not (sent and taken):
            wrong.append(f"{token}: {letters}, {len(taken)} taken")
    return wrong


def rspawn(bench: "Bench", trip: Trip) -> list[str]:
    """qmail-rspawn with its workers, and a server that takes the mail."""
    sink = _route(bench)
    wrong, letters = bench.reports(trip, qmail_rspawn.main, b"ann@far.example", b"K")
    taken = [data for data in sink.take() if whole(data)]
    return wrong if len(taken) >= letters.count(b"K") else [*wrong, f"{letters}, {len(taken)} taken"]


def lspawn_executing(bench: "Bench", trip: Trip) -> list[str]:
    """qmail-lspawn where bin/qmail-local is not the one that it knows, and has to be executed."""
    program = bench.home / "bin/qmail-local"
    ours = program.read_bytes()
    program.write_text(f'#!/bin/sh\nexec {bench.home}/bin/real-local "$@"\n')
    (bench.home / "bin/real-local").write_bytes(ours)
    (bench.home / "bin/real-local").chmod(0o755)
    try:
        return bench.lspawn(trip)
    finally:
        program.write_bytes(ours)


def lspawn_with_program(bench: "Bench", trip: Trip) -> list[str]:
    """qmail-lspawn, whose worker runs a program and asks for a pipe before that."""
    base = bench.account()
    (base / ".qmail-default").write_text("|cat >/dev/null; echo said\n./Maildir/\n./Mailbox\n")
    wrong, letters = bench.reports(trip, qmail_lspawn.main, b"ann@here.example", b"K", b"./Mailbox")
    return wrong + bench.mailbox(base, killed=True, delivered=b"K" in letters)


def forwarding(bench: "Bench", trip: Trip) -> list[str]:
    """qmail-local with a .qmail that forwards."""
    bench.restart.empty()
    ledger, wrong, base = Ledger(), [], bench.account()
    (base / ".qmail-default").write_text("&ann@here.example\n")
    for token, fault in (("one", trip), ("two", None)):
        ledger.note(["try", token, "ann@here.example"])
        with tempfile.TemporaryFile() as message:
            message.write(text(token))
            message.seek(0)
            words = (b"--", b"user", os.fsencode(base), b"ann", b"-", b"ann", b"here.example")
            argv = [b"qmail-local", *words, b"sender-%b@far.example" % token.encode(), b"./Mailbox"]
            run = bench.launched("pyqmail.programs.qmail_local", 111, argv)
            code = bench.ended(bench.child(fault, run, {0: message.fileno()}))
        if code == 0:
            ledger.note(["ack", token])
        if code not in ((0, 111, -signal.SIGKILL) if fault else (0,)):
            wrong.append(f"{token}: exit {code}")
    return wrong + bench.deliver_rest(ledger)


def bounces(bench: "Bench", trip: Trip) -> list[str]:
    """qmail-send, whose bounces go to a qmail-queued."""
    ledger = bench.messages()
    queued = bench.serve(None)
    bench.restart.service = True
    try:
        return bench.send_all(trip, ledger)
    finally:
        bench.restart.service = False
        os.kill(queued, signal.SIGTERM)
        bench.ended(queued)


# who exists


class Asking:
    """A qmail-rcptd that has the maps, and the questions put to it."""

    def __init__(self, bench: "Bench", trip: Trip | None) -> None:
        self._home = bench.home
        ours, theirs = socket.socketpair()
        (bench.home / "run/qmail-rcptd.sock").unlink(missing_ok=True)
        self.pid = bench.child(trip, lambda: bench.program(qmail_rcptd.main, "qmail-rcptd"), {0: theirs.fileno()})
        theirs.close()
        self._maps = ours
        self.tell()

    def tell(self) -> None:
        """The maps."""
        locals_ = frozenset({b"here.example"})
        routing = Routing(default_host=b"mx.example", locals=locals_, percent_hack=frozenset(), virtual={})
        try:
            self._maps.sendall(format_routing(routing))
        except OSError:
            pass

    def answer(self, recipient: bytes) -> bytes:
        """The letter, empty for none; asked again when none comes soon."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline and running(self.pid):
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                try:
                    sock.connect(f"{self._home}{SOCKET}")
                    sock.bind(b"")
                    sock.settimeout(0.3)
                    sock.send(format_question(7, recipient))
                    return sock.recv(64)[8:]
                except OSError:
                    select.select([], [], [], 0.002)
        return b""

    def end(self) -> None:
        """As qmail-send ends."""
        self._maps.close()


def rcptd(bench: "Bench", trip: Trip) -> list[str]:
    """qmail-rcptd: whoever exists is never refused, and after the fault it knows who does not, or has ended."""
    wrong = []
    asking = Asking(bench, trip)
    for turn in range(3):
        before = trip.fired
        somebody = asking.answer(b"ann@here.example")
        nobody = asking.answer(b"void-ann@here.example")
        if somebody == NOBODY:
            wrong.append(f"{turn}: ann was refused")
        if before and (somebody, nobody) != (ACCEPT, NOBODY) and running(asking.pid, 0.2):
            wrong.append(f"{turn}: {somebody!r} and {nobody!r} after the fault")
        asking.tell()
    if not running(asking.pid, 0.01):
        bench.restarts += 1
    asking.end()
    if bench.ended(asking.pid) is None:
        wrong.append("it does not end")
    return wrong


# what starts the rest


def start_all(bench: "Bench", trip: Trip | None) -> int:
    """The pid of a qmail-start."""

    def run() -> int:
        if trip is not None:
            whole_run = Start.run

            def go_on(self: Start, argv: list[bytes]) -> int:
                trip.over = True  # from here on it is another program
                return whole_run(self, argv)

            Start.run = go_on  # type: ignore[method-assign,assignment]
        return bench.program(qmail_start.main, "qmail-start", b"./Mailbox")

    null = os.open("/dev/null", os.O_RDWR)
    try:
        return bench.child(trip, run, {0: null, 1: null})
    finally:
        os.close(null)


def _arrived(folder: Path, tokens: list[str]) -> bool:
    return {path.read_bytes().rpartition(b"end of ")[2].strip().decode() for path in folder.iterdir()} >= set(tokens)


def start(bench: "Bench", trip: Trip) -> list[str]:
    """qmail-start: everything runs, or it ends and its supervisor starts it again."""
    ledger, wrong, kept = Ledger(), [], bench.offspring()
    bench.restart.empty()
    folder = bench.account() / "Maildir/new"
    (bench.home / "queue/lock/tcpto").write_bytes(bytes(1024))
    shutil.rmtree(bench.home / "run", ignore_errors=True)
    (bench.home / "run/send").mkdir(parents=True)
    bench.restart.submit(ledger, 301, "one", "ann@here.example")
    pid = start_all(bench, trip)
    deadline = time.monotonic() + PATIENCE_S
    while not _arrived(folder, ["one"]) and time.monotonic() < deadline:
        if not running(pid, 0.01):
            bench.ended(pid)
            bench.restarts += 1
            pid = start_all(bench, None)
    if not _arrived(folder, ["one"]):
        wrong.append("not delivered")
    sock = bench.connect(pid)
    if sock is None:
        wrong.append("nobody takes new mail")
    else:
        sock.close()
    os.kill(pid, signal.SIGTERM)
    if bench.ended(pid) is None:
        wrong.append("it does not end")
    bench.end_offspring(kept)
    return wrong


INJECT = ("qmail-inject", "-f{}", "ann@here.example")
SENDMAIL = ("sendmail", "-f{}", "ann@here.example")
FORWARD = ("forward", "ann@here.example")


def _given(argv: tuple[str, ...], *, padding: int = 0, service: bool = False, queue: bool = False) -> Scene:
    return lambda bench, trip: given(bench, trip, *argv, padding=padding, service=service, queue=queue)


DOORS: dict[str, Scene] = {
    "qmail-inject": _given(INJECT, service=True),
    "qmail-inject, large": _given(INJECT, service=True, padding=LARGE),
    "sendmail": _given(SENDMAIL),
    "sendmail, QMAILQUEUE": _given(SENDMAIL, queue=True, padding=LARGE),
    "forward": _given(FORWARD, service=True),
    "forward, piped": _given(FORWARD, service=True, padding=PIPED),
    "qmail-queued, clients": queued,
    "qmail-queued, large": partial(queued, padding=LARGE),
    "qmail-smtpd": smtpd,
    "qmail-smtpd, large": partial(smtpd, padding=LARGE, service=True),
    "tcpserver": served,
    "tcpserver, large": lambda bench, trip: served(bench, trip, b"-v", padding=LARGE),
    "qmail-remote": remote,
    "qmail-remote, large": partial(remote, padding=LARGE),
    "qmail-rspawn, sending": rspawn,
    "qmail-lspawn, executing": lspawn_executing,
    "qmail-lspawn, a program": lspawn_with_program,
    "qmail-local, forwarding": forwarding,
    "qmail-send, bouncing": bounces,
    "qmail-rcptd": rcptd,
    "qmail-start": start,
}
