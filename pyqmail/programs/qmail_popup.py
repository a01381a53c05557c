"""qmail-popup: asks a POP3 client for name and password, and has a program check them (qmail-popup(8), RFC 1939).

    qmail-popup HOST SUBPROGRAM [ARGUMENT ...]

The subprogram reads ``NAME \\0 PASSWORD \\0 <PID.TIME@HOST> \\0`` from descriptor 3 and, if they are right, becomes the
user and goes on as qmail-pop3d. One attempt a connection. The exit status is always 1. Where control/servercert.pem
exists the connection is split before a byte is said: TLS is another process's (tcp/tls_half).
"""

import os
import time

from pyqmail.control import Control, ControlUnreadable, home_of
from pyqmail.login.greeter import Greeter, Over
from pyqmail.protocol import pop3
from pyqmail.stream.descriptors import DescriptorStream
from pyqmail.stream.lines import LineTooLong
from pyqmail.stream.stream import StreamEnded

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pyqmail.incoming.security import Security
    from pyqmail.stream.stream import Stream
    from pyqmail.tcp.tls_half import Halves
    from pyqmail.warm.served import Served

TIMEOUT_S = 1200
EXIT = 1
CERTIFICATE = "servercert.pem"


def prepare(environ: "Mapping[bytes, bytes]") -> "Served":
    """What serves connections from tcpserver's memory (warm/served), with what TLS needs, if there is TLS."""
    from pyqmail.incoming.in_memory import server

    home = home_of(environ)
    try:
        there = Control(home).exists(CERTIFICATE)
    except ControlUnreadable:
        there = False  # each connection says so
    if there:
        import pyqmail.incoming.pop3_tls  # noqa: F401
        from pyqmail.tcp.tls_half import know_user

        know_user(home)
    return server(main)


def main(argv: "Sequence[bytes]", environ: "Mapping[bytes, bytes]") -> int:
    """Serve one client on descriptors 0 and 1; always 1."""
    try:
        halves, security = arrange(environ)
    except (OSError, ControlUnreadable) as error:
        os.write(2, f"qmail-popup: alert: {error}\n".encode("utf-8", "replace"))
        return EXIT
    except StreamEnded:
        return EXIT
    stream = DescriptorStream(0, 1, TIMEOUT_S, shared=True)
    try:
        serve(argv, environ, stream, halves, security)
    except StreamEnded:
        pass
    if halves is not None:
        halves.end()
    return EXIT


def serve(
    argv: "Sequence[bytes]",
    environ: "Mapping[bytes, bytes]",
    stream: "Stream",
    halves: "Halves | None",
    security: "Security | None",
) -> None:
    """The whole conversation. Raises StreamEnded."""
    try:
        if len(argv) < 3:
            raise Over(b"-ERR usage: popup hostname subprogram\r\n")
        stamp = b"<%d.%d@%b>" % (os.getpid(), int(time.time()), argv[1])
        greeter = Greeter(stamp, argv[2:], environ, stream)
        greeter.note = lambda *words: note(environ, *words)
        greeter.apop = environ.get(b"DISABLEAPOP", b"") in (b"", b"0")
        if security is not None:
            greeter.needs_tls = security.required and not security.implicit
            greeter.tls = None if security.implicit else halves
        try:
            greeter.converse(b"+OK " + (stamp if greeter.apop else b"ready") + b"\r\n")
        except (LineTooLong, MemoryError):
            raise Over(pop3.NO_MEMORY) from None
    except Over as over:
        stream.write(over.reply)
    stream.close()


def note(environ: "Mapping[bytes, bytes]", result: bytes, method: bytes, user: bytes) -> None:
    """A line of the log, as qmail-smtpd has it, for an attempt that came to nothing."""
    from pyqmail.formats.logline import safe
    from pyqmail.incoming.decisions import DecisionLog

    words = (result, method, safe(user), safe(environ.get(b"TCPREMOTEIP", b"unknown")[:64]))
    DecisionLog(b"qmail-popup", environ).say(b"auth: auth-%b type=%b user=<%b> ip=%b" % words)


def arrange(environ: "Mapping[bytes, bytes]") -> "tuple[Halves | None, Security | None]":
    """Split the connection, if there is a certificate and nothing forbids it. Raises OSError and ControlUnreadable, and
    StreamEnded where TLS is to begin at once and cannot."""
    home = home_of(environ)
    control = Control(home)
    if not control.exists(CERTIFICATE) and not (b"POP3S" in environ or b"UCSPITLS" in environ):
        return None, None
    from pyqmail.incoming.security import Security

    security = Security(control, environ, from_start=b"POP3S")
    if not (security.offered or security.implicit):
        return None, security
    from pyqmail.incoming.pop3_tls import Handshakes
    from pyqmail.tcp.tls_half import can_split, split

    handshakes = Handshakes(security, environ)
    there = can_split() and (security.offered or control.exists(CERTIFICATE))
    if there:
        return split(home, handshakes.begin, pop3.BEGIN_TLS, implicit=security.implicit), security
    if security.implicit:
        handshakes.alert_once("no TLS without control/servercert.pem and sockets on descriptors 0 and 1")
        raise StreamEnded
    return None, security
