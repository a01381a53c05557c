"""Peers with a script, on loopback: an SMTP server that says what it is told, and a DNS server over UDP and TCP."""

import contextlib
import os
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset

from tests.loopback import serving

REPO = Path(__file__).resolve().parent.parent
DEADLINE_S = 60
ACCEPTING = (b"220 hi\r\n", b"250 hello\r\n", b"250 sender\r\n", b"250 rcpt\r\n", b"354 go\r\n", b"250 taken\r\n")

_RUN = (
    "import sys; sys.path.insert(0, sys.argv[1]); module = sys.argv[2]; del sys.argv[0:3]\n"
    "sys.argv.insert(0, module)\nfrom pyqmail.launch import run\nrun(module)"
)


def run_program(
    module: str, arguments: Sequence[bytes], home: Path, message: bytes = b"", *, facts: bytes = b""
) -> tuple[int, bytes]:
    """The exit code and standard output of a program's own process."""
    done = subprocess.run(
        [sys.executable, "-c", _RUN, str(REPO), module, *arguments],
        input=message,
        stdout=subprocess.PIPE,
        env={"QMAIL_HOME": str(home), **({"PYQMAIL_FACTS": facts} if facts else {})},
        timeout=DEADLINE_S,
        check=False,
    )
    return done.returncode, done.stdout


@dataclass
class SmtpPeer:
    """What an SMTP server heard: every byte, and how many connections there were."""

    port: int = 0
    heard: bytes = b""
    connections: int = 0


def _converse(line: socket.socket, replies: Sequence[bytes | None], peer: SmtpPeer) -> None:
    """Say each reply after what asks for it; None hangs up. After a 3xx the final dot asks."""
    end = b"\n"
    for number, reply in enumerate(replies):
        start = len(peer.heard)
        while number and not (peer.heard[start - (2 if end == b"\r\n.\r\n" else 0) :].endswith(end)):
            data = line.recv(65536)
            if not data:
                return
            peer.heard += data
        if reply is None:
            return
        line.sendall(reply)
        end = b"\r\n.\r\n" if reply.startswith(b"3") and number >= 4 else b"\n"
    while data := line.recv(65536):
        peer.heard += data


@contextlib.contextmanager
def smtp_peer(replies: Sequence[bytes | None], address: str = "127.0.0.1", port: int = 0) -> Iterator[SmtpPeer]:
    """A server that takes connections one after another and says ``replies`` in each."""
    peer = SmtpPeer()

    def serve(line: socket.socket) -> None:
        peer.connections += 1
        _converse(line, replies, peer)

    with serving(serve, address, port) as peer.port:
        yield peer


Handler = Callable[[dns.message.Message, str], bytes | None]


@dataclass
class DnsPeer:
    """A scripted DNS server: ``zone`` has (name, type) -> records; ``handlers`` take precedence, by the same key.

    ``unknown`` is the answer to questions for names that it does not have.
    """

    zone: dict[tuple[str, str], list[str]]
    handlers: dict[tuple[str, str], Handler] = field(default_factory=dict)
    unknown: int = dns.rcode.NXDOMAIN
    port: int = 0
    asked: list[tuple[str, str, str]] = field(default_factory=list)  # name, type, "udp" or "tcp"

    def reply(self, wire: bytes, via: str) -> bytes | None:
        """What to answer; None for silence."""
        query = dns.message.from_wire(wire)
        name, kind = query.question[0].name.to_text(), dns.rdatatype.to_text(query.question[0].rdtype)
        self.asked.append((name, kind, via))
        name = name.lower()
        handler = self.handlers.get((name, kind))
        if handler:
            return handler(query, via)
        code = 0 if any(known == name for known, _ in self.zone) else self.unknown
        return answer(query, self.zone.get((name, kind)), code=code)


def answer(query: dns.message.Message, records: Sequence[str] | None, *, code: int = 0, flags: int = 0) -> bytes:
    """A reply with ``records``, each "type data" or data of the type asked for."""
    reply = dns.message.make_response(query, recursion_available=True)
    reply.flags |= flags
    reply.set_rcode(dns.rcode.Rcode(code))
    name, kind = query.question[0].name, dns.rdatatype.to_text(query.question[0].rdtype)
    for record in records or ():
        word, _, rest = record.partition(" ")
        of, data = (word, rest) if word.isupper() else (kind, record)
        reply.answer.append(dns.rrset.from_text(name, 60, "IN", of, data))
    return reply.to_wire(max_size=65535)


def _serve_stream(listener: socket.socket, peer: DnsPeer) -> None:
    held = []
    with contextlib.suppress(OSError):
        while True:
            line, _ = listener.accept()
            (size,) = struct.unpack("!H", line.recv(2, socket.MSG_WAITALL))
            reply = peer.reply(line.recv(size, socket.MSG_WAITALL), "tcp")
            if reply is None:
                held.append(line)  # stall: the client has to give up by itself
                continue
            line.sendall(struct.pack("!H", len(reply)) + reply)
            line.close()
    for line in held:
        line.close()


def _serve_datagrams(line: socket.socket, peer: DnsPeer) -> None:
    with contextlib.suppress(OSError):
        while True:
            wire, client = line.recvfrom(65535)
            if not wire:
                return
            reply = peer.reply(wire, "udp")
            if reply is not None:
                line.sendto(reply, client)


def _both_at_one_port() -> tuple[socket.socket, socket.socket]:
    """Sockets for TCP and for UDP; somebody may have a port that is free for one of them for the other."""
    for _ in range(100):
        listener, datagrams = socket.create_server(("127.0.0.1", 0)), socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with contextlib.suppress(OSError):
            datagrams.bind(listener.getsockname())
            return listener, datagrams
        listener.close()
        datagrams.close()
    raise AssertionError("no port is free for both")


@contextlib.contextmanager
def dns_peer(
    zone: dict[tuple[str, str], list[str]], *, tcp: bool = True, unknown: int = dns.rcode.NXDOMAIN
) -> Iterator[DnsPeer]:
    """A DNS server on a port of its own; without ``tcp`` connections are refused."""
    listener, datagrams = _both_at_one_port()
    peer = DnsPeer(zone, unknown=unknown, port=listener.getsockname()[1])
    threads = [threading.Thread(target=_serve_datagrams, args=(datagrams, peer), daemon=True)]
    if tcp:
        threads.append(threading.Thread(target=_serve_stream, args=(listener, peer), daemon=True))
    else:
        listener.close()
    for thread in threads:
        thread.start()
    try:
        yield peer
    finally:
        with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as end:
            end.sendto(b"", ("127.0.0.1", peer.port))
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join(DEADLINE_S)
        listener.close()
        datagrams.close()


def remote_home(directory: Path, **controls: str) -> Path:
    """A qmail home with what qmail-remote looks at: control files by name, and an empty tcpto."""
    (directory / "control").mkdir()
    (directory / "queue" / "lock").mkdir(parents=True)
    (directory / "queue" / "lock" / "tcpto").write_bytes(bytes(1024))
    for name, text in {"me": "me.test", **controls}.items():
        (directory / "control" / name).write_text(text + "\n")
    os.chmod(directory, 0o755)
    return directory
