"""tcprulescheck: shows what a rules database says of the client in TCPREMOTEIP, TCPREMOTEHOST and TCPREMOTEINFO."""

import os
from collections.abc import Mapping, Sequence

from pyqmail.formats.cdb import Cdb, CdbCorrupt
from pyqmail.system.files import write_all
from pyqmail.tcp.tcprules import Decision, decide


def _shown(decision: Decision) -> bytes:
    lines = [b"default:" if decision.key is None else b"rule " + decision.key + b":"]
    if decision.deny:
        return b"\n".join([*lines, b"deny connection", b""])
    lines += [b"set environment variable " + name + b"=" + value for name, value in decision.variables]
    return b"\n".join([*lines, b"allow connection", b""])


def main(argv: Sequence[bytes], environ: Mapping[bytes, bytes]) -> int:
    """0; 100 for a bad call, 111 for a database that cannot be read."""
    if len(argv) < 2:
        write_all(2, b"tcprulescheck: usage: tcprulescheck rules.cdb\n")
        return 100
    try:
        fd = os.open(argv[1], os.O_RDONLY | os.O_CLOEXEC)
        try:
            ip = environ.get(b"TCPREMOTEIP", b"")
            decision = decide(Cdb(fd).get, ip, environ.get(b"TCPREMOTEHOST"), environ.get(b"TCPREMOTEINFO"))
        finally:
            os.close(fd)
    except (OSError, CdbCorrupt) as error:
        reason = (error.strerror or "error").lower() if isinstance(error, OSError) else "not a whole database"
        write_all(2, b"tcprulescheck: fatal: unable to read " + argv[1] + b": " + reason.encode() + b"\n")
        return 111
    write_all(1, _shown(decision))
    return 0
