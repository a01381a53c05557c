"""A name server for the tour: it knows a few TXT records, and that there is nothing else (RFC 1035)."""

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator, Mapping

ADDRESS = "127.0.0.1"
TXT = 16
TTL_S = 60
FOUND, NO_SUCH_NAME = 0x8580, 0x8583  # an answer, by who knows and asks for others


@contextlib.contextmanager
def names(records: Mapping[bytes, bytes]) -> Iterator[int]:
    """A server on 127.0.0.1 that knows ``records``, a text for each name in small letters; its port. Raises OSError."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((ADDRESS, 0))
        server = threading.Thread(target=_serve, args=(sock, records), daemon=True)
        server.start()
        try:
            yield sock.getsockname()[1]
        finally:
            sock.sendto(b"", sock.getsockname())
            server.join()


def _serve(sock: socket.socket, records: Mapping[bytes, bytes]) -> None:
    while True:
        query, peer = sock.recvfrom(512)
        if not query:  # the end
            return
        with contextlib.suppress(IndexError, struct.error, OSError):
            sock.sendto(reply(query, records), peer)


def reply(query: bytes, records: Mapping[bytes, bytes]) -> bytes:
    """The answer to a query. Raises IndexError and struct.error for what is none."""
    labels, at = [], 12
    while size := query[at]:
        labels.append(query[at + 1 : at + 1 + size].lower())
        at += 1 + size
    (kind,) = struct.unpack_from("!H", query, at + 1)
    text = records.get(b".".join(labels))
    found = text if kind == TXT else None
    head = query[:2] + struct.pack("!HHHHH", NO_SUCH_NAME if text is None else FOUND, 1, int(found is not None), 0, 0)
    question = query[12 : at + 5]
    if found is None:
        return head + question
    pieces = [found[start : start + 255] for start in range(0, len(found), 255)]
    data = b"".join(b"%c%b" % (len(piece), piece) for piece in pieces)
    return head + question + struct.pack("!HHHIH", 0xC00C, TXT, 1, TTL_S, len(data)) + data
