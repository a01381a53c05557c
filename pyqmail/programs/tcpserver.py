"""tcpserver: accepts TCP connections and runs a program for each (tcpserver(1), contract of ucspi-tcp).

A chain of our own programs (rblsmtpd, qmail-smtpd, qmail-qmtpd, qmail-qmqpd) is not executed: workers hold it in memory
(tcp/chain) and accept connections themselves (tcp/workers), so that an ordinary connection costs this process
nothing, and with -v two records to log. qmail-popup is run from memory too, in a child of its own for each connection.
Anything else is forked and executed, as ucspi-tcp does. Names, IDENT and rules are looked up by whoever serves the
connection (tcp/admission): this process never waits for a client.

Host `0` is every IPv4 address of the machine, `::` every address of both kinds.
"""

import gc
import os
import signal
import socket
from collections.abc import Mapping, Sequence

from pyqmail.options import UsageError
from pyqmail.system.files import write_all
from pyqmail.system.loop import Loop
from pyqmail.system.process import plug_standard_descriptors, schedule_as_batch
from pyqmail.system.readiness import tell_ready, without_request
from pyqmail.tcp.chain import Chain, find_chain
from pyqmail.tcp.command_line import USAGE_TEXT, Options, digits, parse_options
from pyqmail.tcp.connection_log import write_log
from pyqmail.tcp.connection_server import reason
from pyqmail.tcp.listener import Fatal, listening_socket
from pyqmail.tcp.server import Server

USAGE = 100
FAILED = 111


def drop_privileges(options: Options, environ: Mapping[bytes, bytes]) -> None:
    """Take -g and -u, or $GID and $UID, the group first; 0 changes nothing. Raises Fatal and UsageError."""
    if options.ids_from_environ:
        options.gid, options.uid = digits(environ.get(b"GID", b"0"), b"U"), digits(environ.get(b"UID", b"0"), b"U")
    try:
        if options.gid:
            if os.geteuid() == 0:
                os.setgroups([options.gid])
            os.setgid(options.gid)
    except OSError as error:
        raise Fatal(f"unable to set gid: {reason(error)}") from error
    try:
        if options.uid:
            os.setuid(options.uid)
    except OSError as error:
        raise Fatal(f"unable to set uid: {reason(error)}") from error


def prepare(options: Options, environ: Mapping[bytes, bytes]) -> tuple[socket.socket, Chain | None]:
    """The listening socket and the chain, with everything in memory that needs the first identity. Raises Fatal."""
    chain = find_chain(options.program, environ)
    listener = listening_socket(options)
    if chain is not None:
        schedule_as_batch()
    drop_privileges(options, environ)
    if chain is not None:
        from pyqmail.incoming.in_memory import share_tls  # which a foreign program has no use for

        share_tls(environ)
    if options.print_port:
        write_all(1, b"%d\n" % listener.getsockname()[1])
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.close(null)
    return listener, chain


def main(argv: Sequence[bytes], environ: Mapping[bytes, bytes]) -> int:
    """Serve until a signal."""
    plug_standard_descriptors()
    try:
        options = parse_options(argv)
        listener, chain = prepare(options, environ)
    except UsageError as error:
        if error.text:
            write_log(b"tcpserver: " + error.text + b"\n")
        write_log(USAGE_TEXT)
        return USAGE
    except Fatal as error:
        write_log(f"tcpserver: fatal: {error}\n".encode("utf-8", "surrogateescape"))
        return FAILED
    loop = Loop()
    server = Server(loop, listener, options, without_request(environ), chain)
    gc.collect()
    gc.freeze()

    def end(_signum: int, _frame: object) -> None:
        server.close()
        os._exit(0)

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    server.start()
    tell_ready(environ)
    loop.run()
    return FAILED
