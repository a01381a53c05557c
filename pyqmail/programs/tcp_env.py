"""tcp-env: tells a program under inetd what tcpserver would have told it (tcp-env(1), tcp-environ(5)).

Where PROTO is TCP already, it runs the program and looks at nothing. Every failure is exit code 111, without a word.
"""

import socket
from collections.abc import Mapping, Sequence

from pyqmail.options import UsageError, parse_options
from pyqmail.system.process import execute
from pyqmail.tcp.admission import plain_address
from pyqmail.tcp.remote_name import SoftFailure, ident_user, name_of

FAILED = 111
IDENT_TIMEOUT_S = 30
SOFT = b"softdnserror"  # in place of a name that nobody could tell


def describe(line: socket.socket, environ: Mapping[bytes, bytes], ident_timeout_s: int | None) -> dict[bytes, bytes]:
    """``environ`` with what is known of the connection; no IDENT without a timeout. Raises OSError if it is none."""
    told = dict(environ)
    told[b"PROTO"] = b"TCP"
    for side, address in ((b"LOCAL", line.getsockname()), (b"REMOTE", line.getpeername())):
        ip = plain_address(address[0])
        told[b"TCP" + side + b"IP"] = ip.encode()
        told[b"TCP" + side + b"PORT"] = b"%d" % address[1]
        told.pop(b"TCP" + side + b"HOST", None)
        try:
            name = name_of(ip, environ)
        except SoftFailure:
            name = SOFT
        if name is not None:
            told[b"TCP" + side + b"HOST"] = name
    told.pop(b"TCPREMOTEINFO", None)
    user = None if ident_timeout_s is None else ident_user(line, ident_timeout_s)
    if user is not None:
        told[b"TCPREMOTEINFO"] = user
    return told


def main(argv: Sequence[bytes], environ: Mapping[bytes, bytes]) -> int:
    """It becomes the program; 111 for whatever goes wrong."""
    ident, timeout_s = True, IDENT_TIMEOUT_S
    try:
        found, program = parse_options(argv[1:], b"rRt:")
        for letter, value in found:
            if letter == b"t":
                timeout_s = int(value[:9]) if value.isdigit() else 0
            else:
                ident = letter == b"r"
        if not program:
            return FAILED
        if environ.get(b"PROTO") != b"TCP":
            line = socket.socket(fileno=0)
            try:
                if line.type != socket.SOCK_STREAM or line.family not in (socket.AF_INET, socket.AF_INET6):
                    return FAILED
                environ = describe(line, environ, timeout_s if ident else None)
            finally:
                line.detach()
        execute(program, environ)
    except (UsageError, OSError):
        return FAILED
    return FAILED
