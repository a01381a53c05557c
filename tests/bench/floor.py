#!/usr/bin/python3
"""The floor under workload w1: a mail server that makes a message's system calls and does nothing else.

    tests/bench/floor.py QUEUE MAILDIR PORT          until it is ended
    tests/bench/compare.py run -s pyqmail,floor -w w1         the same load as for the real one, in one run

It speaks enough SMTP on 127.0.0.1:PORT for a load generator and puts each message into MAILDIR. The processes are those
of the real one, because it is the design that a message passes through all of them, and so are what each of them asks
of the kernel and who waits for whom (PERFORMANCE.md, "What a message costs"):

    qmail-smtpd      accept, a read and a write for each line of the dialogue, the body through a pipe
    qmail-queued     hands the message to a worker
    qmail-queue (2)  two unnamed files, written, synced, linked to mess/S and todo; mess/S and todo synced. What has
                     come in the meantime is done together, step by step, so that the syncs of directories are shared
    qmail-send       reads the todo file, gives out the delivery, sees to the removal; log lines through a pipe
    its thread       todo synced before mess/N is removed, shared by what waits
    qmail-lspawn     hands the delivery to a worker
    qmail-local (10) reads the message; an unnamed file in tmp, written, synced, linked to new, new synced
    qmail-clean      removes todo/N, and then mess/N
    multilog         writes the log

No sync of the real one is left out. The calls that are made here are fewer than the real ones (no change of directory,
no timer, no look at a control file); PAD makes up the number of each process with stat, which costs about what those
do. Nothing is parsed, checked, scheduled or remembered. It is written in Python as well: the interpreter adds about
half a microsecond to a call, a tenth of a millisecond to a message.
"""

import itertools
import os
import signal
import socket
import struct
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from pyqmail.admin.installing import spread  # noqa: E402 - the checkout's own, wherever this was started

ENDS = {signal.SIGTERM, signal.SIGINT, signal.SIGCHLD}
SESSIONS, QUEUES, LOCALS, SPLIT = 40, 2, 10, 23
ENVELOPE = b"u1000\0p77\0Fann@client.test\0Tbob@example.test\0"
RECORD = struct.Struct("=cxxxIQ")  # a kind, a session, a message number
PAD = {"smtpd": 48, "queued": 13, "queue": 16, "send": 17, "lspawn": 15, "local": 25, "clean": 1, "log": 3}
REPLIES = {b"D": b"354 go\r\n", b"Q": b"221 bye\r\n"}
NEW, DELIVERED, TODO, MESS, TODO_GONE, MESS_GONE = b"N", b"D", b"T", b"M", b"t", b"m"


class Pipes:
    """The way into each process, and for each session that of its message and that of the answer."""

    def __init__(self) -> None:
        self.queued, self.send, self.sync, self.lspawn, self.clean, self.log = (os.pipe() for _ in range(6))
        self.queues = [os.pipe() for _ in range(QUEUES)]
        self.locals = [os.pipe() for _ in range(LOCALS)]
        self.bodies = [os.pipe() for _ in range(SESSIONS)]
        self.answers = [os.pipe() for _ in range(SESSIONS)]


def tell(pipe: tuple[int, int], kind: bytes, session: int, number: int) -> None:
    """One record."""
    os.write(pipe[1], RECORD.pack(kind, session, number))


def heard(pipe: tuple[int, int]) -> list[tuple[bytes, int, int]]:
    """All records that are there, at least one."""
    return list(RECORD.iter_unpack(os.read(pipe[0], 65536)))


def pad(process: str, messages: int = 1) -> None:
    """The calls that are not made here."""
    for _ in range(PAD[process] * messages):
        os.stat("/")


def unnamed(folder: str, data: bytes) -> int:
    """A file without a name."""
    fd = os.open(folder, os.O_TMPFILE | os.O_RDWR, 0o600)
    os.write(fd, data)
    return fd


def linked(fd: int, path: str) -> None:
    """The unnamed file's name."""
    os.link(f"/proc/self/fd/{fd}", path, src_dir_fd=fd, follow_symlinks=True)


def synced(folder: str) -> None:
    """A directory's names on disk."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    os.fsync(fd)
    os.close(fd)


def smtpd(pipes: Pipes, number: int, listener: socket.socket) -> None:
    """One session after another."""
    while True:
        client, _ = listener.accept()
        with client:
            client.sendall(b"220 floor\r\n")
            while line := client.recv(65536):
                verb = line[:1].upper()
                client.sendall(REPLIES.get(verb, b"250 ok\r\n"))
                if verb == b"Q":
                    break
                if verb == b"D":
                    receive(pipes, number, client)


def receive(pipes: Pipes, number: int, client: socket.socket) -> None:
    """One message."""
    body = b""
    while not body.endswith(b"\r\n.\r\n"):
        body += client.recv(65536)
    tell(pipes.queued, NEW, number, len(body) - 3)
    os.write(pipes.bodies[number][1], body[:-3])
    pad("smtpd")
    heard(pipes.answers[number])
    client.sendall(b"250 ok\r\n")


def queued(pipes: Pipes) -> None:
    """The queue's parent."""
    workers = itertools.cycle(pipes.queues)
    while True:
        for record in heard(pipes.queued):
            tell(next(workers), *record)
            pad("queued")


def queue(pipes: Pipes, inbox: tuple[int, int], path: str) -> None:
    """A worker of the queue."""
    turns = itertools.cycle(range(SPLIT))
    while True:
        drafts = []
        for _, session, size in heard(inbox):
            mess = unnamed(f"{path}/mess/{next(turns)}", os.read(pipes.bodies[session][0], size))
            drafts.append((session, mess, unnamed(f"{path}/mess/{next(turns)}", ENVELOPE), os.fstat(mess).st_ino))
            pad("queue")
        for _, mess, todo, _ in drafts:
            os.fsync(mess)
            os.fsync(todo)
        for _, mess, _, number in drafts:
            linked(mess, f"{path}/mess/{number % SPLIT}/{number}")
        for folder in {number % SPLIT for *_, number in drafts}:
            synced(f"{path}/mess/{folder}")
        for *_, todo, number in drafts:
            linked(todo, f"{path}/todo/{number}")
        synced(f"{path}/todo")
        for session, mess, todo, number in drafts:
            tell(pipes.answers[session], NEW, session, number)
            tell(pipes.send, NEW, session, number)
            os.close(mess)
            os.close(todo)


def send(pipes: Pipes, path: str) -> None:
    """What knows each message from its todo file to its end."""
    while True:
        for kind, session, number in heard(pipes.send):
            if kind == NEW:
                fd = os.open(f"{path}/todo/{number}", os.O_RDONLY)
                os.read(fd, 4096)
                os.close(fd)
                tell(pipes.lspawn, NEW, session, number)
                pad("send")
            elif kind == DELIVERED:
                tell(pipes.clean, TODO, session, number)
            elif kind == TODO_GONE:
                tell(pipes.sync, NEW, session, number)
            else:
                tell(pipes.log, MESS_GONE, session, number)


def sync(pipes: Pipes, path: str) -> None:
    """The thread that waits for the disk."""
    while True:
        waiting = heard(pipes.sync)
        synced(f"{path}/todo")
        for _, session, number in waiting:
            tell(pipes.clean, MESS, session, number)


def lspawn(pipes: Pipes) -> None:
    """The parent of local deliveries."""
    workers = itertools.cycle(pipes.locals)
    while True:
        for kind, session, number in heard(pipes.lspawn):
            if kind == NEW:
                tell(next(workers), kind, session, number)
                pad("lspawn")
            else:
                tell(pipes.send, kind, session, number)


def local(pipes: Pipes, inbox: tuple[int, int], path: str, maildir: str) -> None:
    """A worker that delivers."""
    names = itertools.count()
    while True:
        for _, session, number in heard(inbox):
            fd = os.open(f"{path}/mess/{number % SPLIT}/{number}", os.O_RDONLY)
            copy = unnamed(f"{maildir}/tmp", os.read(fd, 65536))
            os.close(fd)
            os.fsync(copy)
            linked(copy, f"{maildir}/new/{os.getpid()}.{next(names)}")
            synced(f"{maildir}/new")
            os.close(copy)
            pad("local")
            tell(pipes.lspawn, DELIVERED, session, number)


def clean(pipes: Pipes, path: str) -> None:
    """What removes files."""
    while True:
        for kind, session, number in heard(pipes.clean):
            if kind == TODO:
                os.unlink(f"{path}/todo/{number}")
                tell(pipes.send, TODO_GONE, session, number)
            else:
                os.unlink(f"{path}/mess/{number % SPLIT}/{number}")
                tell(pipes.send, MESS_GONE, session, number)
                pad("clean")


def log(pipes: Pipes, path: str) -> None:
    """The logger."""
    fd = os.open(f"{path}/log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    while True:
        ended = heard(pipes.log)
        os.write(fd, b"x" * 300 * len(ended))
        pad("log", len(ended))


def main() -> None:
    """Start all, and end them all by SIGTERM or SIGINT, or when one has failed."""
    path, maildir, port = str(Path(sys.argv[1]).absolute()), str(Path(sys.argv[2]).absolute()), int(sys.argv[3])
    os.makedirs(f"{path}/mess", exist_ok=True)
    os.makedirs(f"{path}/todo", exist_ok=True)
    spread(Path(path), "mess")
    for folder in range(SPLIT):
        os.makedirs(f"{path}/mess/{folder}", exist_ok=True)
    pipes = Pipes()
    with socket.create_server(("127.0.0.1", port), backlog=128) as listener:
        listener.setblocking(True)
        work = [(smtpd, pipes, number, listener) for number in range(SESSIONS)]
        work += [(queue, pipes, inbox, path) for inbox in pipes.queues]
        work += [(local, pipes, inbox, path, maildir) for inbox in pipes.locals]
        work += [(queued, pipes), (lspawn, pipes), (send, pipes, path), (sync, pipes, path)]
        work += [(clean, pipes, path), (log, pipes, path)]
        children = []
        signal.pthread_sigmask(signal.SIG_BLOCK, ENDS)
        for function, *arguments in work:
            child = os.fork()
            if child == 0:
                signal.pthread_sigmask(signal.SIG_SETMASK, ())
                signal.signal(signal.SIGINT, signal.SIG_DFL)
                function(*arguments)
            children.append(child)
    end = signal.sigwait(ENDS)
    for child in children:
        os.kill(child, signal.SIGTERM)
    sys.exit("floor: a process has failed" if end == signal.SIGCHLD else 0)


if __name__ == "__main__":
    main()
