"""A daemon that knows one MTA-STS policy, and a server that offers STARTTLS."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager

from tests.loopback import serving
from tests.mail_sink import Transaction, accept_all

Answers = tuple[bytes, bytes, bool]  # of the daemon; the exchanger; whether its certificate is trusted


@contextmanager
def daemon(answer: bytes, asked: list[bytes] | None = None) -> Iterator[int]:
    """The port of a daemon that has one answer, in two pieces."""

    def serve(sock: socket.socket) -> None:
        heard = sock.recv(1000)
        if asked is not None:
            asked.append(heard)
        wire = b"%d:%s," % (len(answer), answer)
        sock.sendall(wire[:3])
        sock.sendall(wire[3:])

    with serving(serve) as port:
        yield port


def offers(line: bytes, transaction: Transaction) -> bytes | None:
    return b"250-x\r\n250 STARTTLS\r\n" if line[:4] == b"EHLO" else accept_all(line, transaction)
