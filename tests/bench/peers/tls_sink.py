"""A sink that takes mail in TLS, a process for each connection; it notes each recipient and whether DKIM signed."""

import os
import shutil
import signal
import socket
import ssl
import tempfile

from tests.bench.peers.common import HOST, SHM, BenchError, sink_port

PROCESSES = 40  # more than a server has connections here
HELLO = b"250-sink\r\n250-PIPELINING\r\n250-SIZE 10000000\r\n250 8BITMIME\r\n"
REPLIES = {b"DATA": b"354 go\r\n", b"QUIT": b"221 bye\r\n", b"STAR": b"220 go\r\n", b"EHLO": HELLO}


def converse(sock, context, note):
    """One connection: STARTTLS first, nothing else without it."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # or each reply waits 40 ms for who commands by lot
    sock.sendall(b"220 sink ESMTP\r\n")
    sock.recv(1000)
    sock.sendall(HELLO.replace(b"250 8BITMIME", b"250-8BITMIME\r\n250 STARTTLS"))
    if sock.recv(1000).upper() != b"STARTTLS\r\n":
        raise BenchError("the server does without TLS")
    sock.sendall(b"220 go\r\n")
    with context.wrap_socket(sock, server_side=True) as secured, secured.makefile("rb") as lines:
        recipients = []
        for line in lines:
            verb = line[:4].upper()
            secured.sendall(REPLIES.get(verb, b"250 ok\r\n"))
            if verb == b"RCPT":
                recipients.append(line[9 : line.index(b">")])
            elif verb == b"DATA":
                signed = False
                while (text := next(lines)) != b".\r\n":
                    signed |= text.lower().startswith(b"dkim-signature:")
                note(b"".join(b"%b %d\n" % (recipient, signed) for recipient in recipients))
                recipients.clear()
                secured.sendall(b"250 ok\r\n")


class TlsSink:
    """It listens on the port of the other sinks until ``close``, which says what processor time it took, in seconds."""

    def __init__(self, certificate):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        self.base = tempfile.mkdtemp(prefix="mta-bench-sink.", dir=SHM)
        self.notes = os.open(f"{self.base}/notes", os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        self.listener = socket.create_server((HOST, sink_port()), backlog=512)
        self.pids = [self._child(context) for _ in range(PROCESSES)]

    def _child(self, context):
        pid = os.fork()
        if pid:
            return pid
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        while True:
            sock, _ = self.listener.accept()
            try:
                converse(sock, context, lambda line: os.write(self.notes, line))
            except BaseException as error:
                if not isinstance(error, OSError | StopIteration):
                    os.write(self.notes, b"error %b\n" % repr(error).encode())
            sock.close()

    def taken(self):
        """[(recipient, whether signed)], of all messages until now. Raises BenchError."""
        size = os.fstat(self.notes).st_size
        lines = os.pread(self.notes, size, 0).splitlines()
        if wrong := [line for line in lines if line.startswith(b"error ")]:
            raise BenchError(wrong[0].decode())
        return [(recipient, signed == b"1") for recipient, signed in (line.split(b" ") for line in lines)]

    def messages(self):
        return len(self.taken())

    def close(self):
        cpu_s = 0.0
        for pid in self.pids:
            os.kill(pid, signal.SIGTERM)
            usage = os.wait4(pid, 0)[2]
            cpu_s += usage.ru_utime + usage.ru_stime
        self.listener.close()
        os.close(self.notes)
        shutil.rmtree(self.base, ignore_errors=True)
        return cpu_s
