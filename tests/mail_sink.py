"""An SMTP server on loopback that remembers what it took: every transaction, by connection."""

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from tests.loopback import serving

DEADLINE_S = 30

Answer = Callable[[bytes, "Transaction"], bytes | None]  # command line and transaction so far -> reply, None: hang up


@dataclass
class Transaction:
    """One message: on which connection, by whom and for whom, and its bytes as they came, dots still doubled."""

    connection: int
    sender: bytes = b""
    recipients: list[bytes] = field(default_factory=list)
    body: bytes = b""


def accept_all(line: bytes, transaction: Transaction) -> bytes | None:
    """The replies of a server that likes everything."""
    verb = line[:4].upper()
    return {b"DATA": b"354 go\r\n", b"QUIT": b"221 bye\r\n", b"STAR": b"220 go\r\n"}.get(verb, b"250 ok\r\n")


@dataclass
class MailSink:
    """What the server took, and what it heard that was no transaction."""

    answer: Answer = accept_all
    context: ssl.SSLContext | None = None  # for STARTTLS, or with ``immediate`` for TLS from the start
    immediate: bool = False
    port: int = 0
    connections: int = 0
    open: int = 0
    taken: list[Transaction] = field(default_factory=list)
    lines: list[bytes] = field(default_factory=list)
    secured: list[ssl.SSLSocket] = field(default_factory=list)
    clients: list[str] = field(default_factory=list)  # their addresses, a connection each
    changed: threading.Condition = field(default_factory=threading.Condition)

    def wait(self, condition: Callable[[], bool], what: str) -> None:
        """Return once ``condition`` holds; fail after a deadline."""
        with self.changed:
            assert self.changed.wait_for(condition, DEADLINE_S), f"no {what}"

    def _note(self, change: Callable[[], None]) -> None:
        with self.changed:
            change()
            self.changed.notify_all()

    def serve(self, line: socket.socket) -> None:
        """One connection, to its end."""
        with self.changed:  # other connections are counted at the same time
            if line.family != socket.AF_UNIX:
                self.clients.append(line.getpeername()[0])
            number = self.connections
            self.connections += 1
            self.open += 1
            self.changed.notify_all()
        with contextlib.suppress(OSError):
            if self.context and self.immediate:
                line = self._secured(line)
            line.sendall(b"220 sink\r\n")
            while self._converse(line, line.makefile("rb"), number):  # until STARTTLS
                line = self._secured(line)
            line.close()
        self._note(lambda: setattr(self, "open", self.open - 1))

    def _secured(self, line: socket.socket) -> socket.socket:
        assert self.context is not None
        secured = self.context.wrap_socket(line, server_side=True)
        self.secured.append(secured)
        return secured

    def _converse(self, line: socket.socket, lines: "Iterator[bytes]", number: int) -> bool:
        """Talk; whether it ends in STARTTLS."""
        transaction = Transaction(number)
        for command in lines:
            self.lines.append(command)
            verb = command[:4].upper()
            reply = self.answer(command, transaction)
            if reply is None:
                return False
            if verb == b"MAIL":
                transaction = Transaction(number, command[10:].strip())
            if verb == b"RCPT" and reply[:1] == b"2":
                transaction.recipients.append(command[8:].strip())
            line.sendall(reply)
            if command.upper() == b"STARTTLS\r\n" and reply[:1] == b"2":
                return True
            if verb == b"QUIT":
                return False
            if verb == b"DATA" and reply[:1] == b"3":
                body = []
                while (text := next(lines, None)) != b".\r\n":
                    if text is None:
                        return False
                    body.append(text)
                transaction.body = b"".join(body)
                done, transaction = transaction, Transaction(number)
                reply = self.answer(b".\r\n", done)
                if reply is None:
                    return False
                if reply[:1] == b"2":
                    self._note(lambda done=done: self.taken.append(done))  # type: ignore[misc]
                line.sendall(reply)
        return False


@contextlib.contextmanager
def mail_sink(
    answer: Answer = accept_all,
    address: str = "127.0.0.1",
    port: int = 0,
    *,
    context: ssl.SSLContext | None = None,
    immediate: bool = False,
) -> Iterator[MailSink]:
    """A running server, on a port of its own unless told otherwise."""
    sink = MailSink(answer, context, immediate)
    with serving(sink.serve, address, port, together=True) as sink.port:
        yield sink
