"""A descriptor that a stranger may pass, and whose last close makes whoever does it wait."""

import socket
import struct

LINGER_SECONDS = 3600


def lingering() -> int:
    """A TCP socket whose last close waits an hour: what was sent on it will never be taken."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=1)
    sock = socket.create_connection(listener.getsockname())
    accepted = listener.accept()[0].detach()  # open, and never read, as long as this process lives
    assert accepted >= 0
    sock.setblocking(False)
    try:
        while True:
            sock.send(bytes(65536))
    except BlockingIOError:
        pass
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, LINGER_SECONDS))
    return sock.detach()
