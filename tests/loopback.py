"""Connections within a test: a free port, a server in a thread, and all that the other side says."""

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator

DEADLINE_S = 60.0


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def everything(line: socket.socket) -> bytes:
    """What comes until the other side has ended."""
    heard = b""
    while True:
        try:
            chunk = line.recv(65536)
        except ConnectionResetError:
            continue  # it left something of ours unread; what it said comes after this
        if not chunk:
            return heard
        heard += chunk


def talk(line: socket.socket, wire: bytes) -> bytes:
    """What the other side says to ``wire`` and the end after it."""
    line.settimeout(DEADLINE_S)
    try:
        line.sendall(wire)
        line.shutdown(socket.SHUT_WR)
    except OSError:
        pass  # it has ended already
    return everything(line)


def ask(port: int, wire: bytes) -> bytes:
    """What the server at ``port`` says to ``wire`` and the end after it."""
    with socket.create_connection(("127.0.0.1", port), DEADLINE_S) as line:
        return talk(line, wire)


@contextlib.contextmanager
def serving(
    serve: Callable[[socket.socket], None], address: str = "127.0.0.1", port: int = 0, *, together: bool = False
) -> Iterator[int]:
    """The port of a server that lets ``serve`` have each connection, one after another or all ``together``."""
    listener = socket.create_server((address, port), family=socket.AF_INET6 if ":" in address else socket.AF_INET)

    def converse(line: socket.socket) -> None:
        with contextlib.suppress(OSError), line:
            line.settimeout(DEADLINE_S)
            serve(line)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                line, _ = listener.accept()
                if together:
                    threading.Thread(target=converse, args=(line,), daemon=True).start()
                else:
                    converse(line)

    accepting = threading.Thread(target=accept, daemon=True)
    accepting.start()
    try:
        yield listener.getsockname()[1]
    finally:
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        accepting.join(DEADLINE_S)
