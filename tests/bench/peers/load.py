"""A load of sessions in TLS: mail by SMTP after STARTTLS and AUTH, and mail read by POP3S. smtp-source has no TLS.

Each session is a process of its own that waits for the peer and for nothing else; all are there before the clock
starts, and take the numbers of their messages from one pipe. What they cost is counted from the kernel's word about
each process that ended, so that a run says how much of the machine was the load's.
"""

import base64
import os
import socket
import ssl
import struct
import time
from collections import namedtuple

from tests.bench.peers.common import DOMAIN, HOST, BenchError

NUMBER = struct.Struct("!I")  # read from the pipe in one piece
TIMEOUT_S = 60
BODY = (b"x" * 70 + b"\r\n") * 56  # with its header about 4 KiB

# seconds: from the first message's number until the last session ended; cpu_s: processor time of all sessions
Load = namedtuple("Load", "seconds cpu_s")


def client_context():
    """One context for all sessions of a load; none resumes, and nobody looks at the certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


class Line:
    """A connection, and the replies that come on it."""

    def __init__(self, port, source=HOST):
        self.sock = socket.create_connection((HOST, port), timeout=TIMEOUT_S, source_address=(source, 0))
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def secure(self, context):
        """TLS from here on."""
        self.sock = context.wrap_socket(self.sock, server_hostname=f"mx.{DOMAIN}")

    def read(self, whole):
        """What has come once ``whole(it)``."""
        data = b""
        while not whole(data):
            piece = self.sock.recv(65536)
            if not piece:
                raise BenchError(f"the connection ended after {data[-200:]!r}")
            data += piece
        return data

    def ask(self, data, wanted, whole):
        """Send ``data`` and read a reply that begins with ``wanted``."""
        if data:
            self.sock.sendall(data)
        reply = self.read(whole)
        if not reply.startswith(wanted):
            raise BenchError(f"{data[:60]!r}: wanted {wanted!r}, got {reply!r}")


def smtp_whole(data):
    """Whether a reply of SMTP is complete: its last line has no hyphen."""
    return data.endswith(b"\n") and data[data.rfind(b"\n", 0, -1) + 1 :][3:4] != b"-"


def line_whole(data):
    return data.endswith(b"\n")


def text_whole(data):
    """Whether an answer of POP3 with several lines is complete."""
    return data.endswith(b"\r\n.\r\n") or (data.startswith(b"-ERR") and data.endswith(b"\n"))


class Smtp:
    """Sessions of SMTP. letter(number): the sender, the recipient, and the text of a message."""

    def __init__(self, port, letter, *, tls=True, login=None, reuse=False, source=HOST):
        self.port, self.letter, self.reuse, self.source = port, letter, reuse, source
        self.context = client_context() if tls else None
        self.auth = b"" if login is None else base64.b64encode(b"\0%b\0%b" % login)

    def open(self):
        line = Line(self.port, self.source)
        hello = f"EHLO client.{DOMAIN}\r\n".encode()
        line.ask(b"", b"220", smtp_whole)
        line.ask(hello, b"250", smtp_whole)
        if self.context:
            line.ask(b"STARTTLS\r\n", b"220", smtp_whole)
            line.secure(self.context)
            line.ask(hello, b"250", smtp_whole)
        if self.auth:
            line.ask(b"AUTH PLAIN " + self.auth + b"\r\n", b"235", smtp_whole)
        return line

    def send(self, line, number):
        sender, recipient, text = self.letter(number)
        line.ask(b"MAIL FROM:<%b>\r\n" % sender, b"250", smtp_whole)
        line.ask(b"RCPT TO:<%b>\r\n" % recipient, b"250", smtp_whole)
        line.ask(b"DATA\r\n", b"354", smtp_whole)
        line.ask(text + b".\r\n", b"250", smtp_whole)

    def close(self, line):
        line.ask(b"QUIT\r\n", b"221", smtp_whole)
        line.sock.close()

    def __call__(self, numbers):
        """One session's work: all on one connection, or each on its own."""
        line = None
        for number in numbers:
            line = line or self.open()
            self.send(line, number)
            if not self.reuse:
                self.close(line)
                line = None
        if line:
            self.close(line)


class Pop3s:
    """Sessions of POP3 in TLS from the start: log in, look how much there is, fetch a message, leave."""

    def __init__(self, port, login):
        self.port, self.context = port, client_context()
        self.login = login

    def __call__(self, numbers):
        user, password = self.login
        for _ in numbers:
            line = Line(self.port)
            line.secure(self.context)
            line.ask(b"", b"+OK", line_whole)
            line.ask(b"USER %b\r\n" % user, b"+OK", line_whole)
            line.ask(b"PASS %b\r\n" % password, b"+OK", line_whole)
            line.ask(b"STAT\r\n", b"+OK", line_whole)
            line.ask(b"RETR 1\r\n", b"+OK", text_whole)
            line.ask(b"QUIT\r\n", b"+OK", line_whole)
            line.sock.close()


def letter_to(recipient, sender=f"sender@{DOMAIN}"):
    """Letters of about 4 KiB to one recipient, each with its own Message-Id."""
    sender, recipient, run = sender.encode(), recipient.encode(), time.time_ns()

    def letter(number):
        head = b"From: %b\r\nTo: %b\r\nSubject: bench\r\nDate: Sat, 28 Nov 2026 12:00:00 +0000\r\n"
        head += b"Message-Id: <%d.%d@%b>\r\n\r\n"
        return sender, recipient, head % (sender, recipient, number, run, DOMAIN.encode()) + BODY

    return letter


def numbers_from(fd):
    """The numbers in the pipe, until it is empty and closed."""
    while word := os.read(fd, NUMBER.size):
        yield NUMBER.unpack(word)[0]


def _session(work, numbers, complaints):
    """A child that does its share of the ``work``; never returns."""
    code = 1
    try:
        work(numbers_from(numbers))
        code = 0
    except BaseException as error:
        os.write(complaints, f"{error!r}\n".encode()[:500])
    os._exit(code)


def load(work, count, sessions):
    """Let ``sessions`` processes do ``work`` with the numbers below ``count``: a Load. Raises BenchError."""
    numbers, give = os.pipe()
    complaints, complain = os.pipe()
    children = []
    for _ in range(sessions):
        pid = os.fork()
        if pid == 0:
            os.close(give)
            _session(work, numbers, complain)
        children.append(pid)
    os.close(numbers)
    os.close(complain)
    start = time.monotonic()
    try:
        for number in range(count):
            os.write(give, NUMBER.pack(number))
    except BrokenPipeError:
        pass  # every session has failed, and says why
    os.close(give)
    cpu_s = 0.0
    for pid in children:
        usage = os.wait4(pid, 0)[2]
        cpu_s += usage.ru_utime + usage.ru_stime
    seconds = time.monotonic() - start
    with open(complaints, "rb") as source:
        said = source.read()
    if said:
        raise BenchError(f"load: {said[:500]!r}")
    return Load(seconds, cpu_s)
