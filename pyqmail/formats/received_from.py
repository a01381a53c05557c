"""The Received line that qmail-smtpd, qmail-qmtpd and qmail-qmqpd put on top of a message (qmail-smtpd(8))."""

import time
from collections.abc import Mapping

from pyqmail.formats.received import MONTHS

_SAFE_BYTES = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789.@%+/=:-[]"
_SAFE = bytes(byte if byte in _SAFE_BYTES else ord("?") for byte in range(256))


def format_received_from(environ: Mapping[bytes, bytes], helo: bytes | None, protocol: bytes, seconds: int) -> bytes:
    """Both lines, newlines included. ``helo`` None, or equal to the client's name, leaves its part out.

    A stranger chooses most of these bytes: all but a safe few become `?`.
    """
    host = environ.get(b"TCPREMOTEHOST", b"unknown")
    info = environ.get(b"TCPREMOTEINFO")
    local = environ.get(b"TCPLOCALHOST", environ.get(b"TCPLOCALIP", b"unknown"))
    when = time.gmtime(seconds)
    return b"Received: from %b %b(%b%b)\n  by %b with %b; %d %b %d %02d:%02d:%02d -0000\n" % (
        host.translate(_SAFE),
        b"" if helo is None or helo.lower() == host.lower() else b"(HELO %b) " % helo.translate(_SAFE),
        b"" if info is None else info.translate(_SAFE) + b"@",
        environ.get(b"TCPREMOTEIP", b"unknown").translate(_SAFE),
        local.translate(_SAFE),
        protocol,
        when.tm_mday,
        MONTHS[when.tm_mon - 1],
        when.tm_year,
        when.tm_hour,
        when.tm_min,
        when.tm_sec,
    )
