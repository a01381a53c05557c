"""Tells systemd that a service is ready (sd_notify(3)): one datagram to the socket that NOTIFY_SOCKET names."""

import socket
from collections.abc import Mapping

VARIABLE = b"NOTIFY_SOCKET"


def tell_ready(environ: Mapping[bytes, bytes]) -> None:
    """Say READY=1 where somebody asked for it; who cannot be told is not told."""
    address = environ.get(VARIABLE, b"")
    if address[:1] not in (b"/", b"@"):
        return
    if address[:1] == b"@":
        address = b"\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
            line.connect(address)
            line.send(b"READY=1")
    except OSError:
        return


def without_request(environ: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
    """``environ`` for those who have nothing to tell: users' programs must not inherit the socket."""
    return {name: value for name, value in environ.items() if name != VARIABLE}
