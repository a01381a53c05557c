"""tcpserver: accepts TCP connections and runs a program for each (tcpserver(1), contract of ucspi-tcp).

A chain of our own programs (rblsmtpd, qmail-smtpd, qmail-qmtpd, qmail-qmqpd) is not executed: workers hold it in memory
(warm/chain) and accept connections themselves (warm/connections), so that an ordinary connection costs this process
nothing, and with -v two records to log. qmail-popup is run from memory too, in a child of its own for each connection.
Anything else is forked and executed, as ucspi-tcp does. Names, IDENT and rules are looked up by whoever serves the
connection (policy/admission): this process never waits for a client.

Host `0` is every IPv4 address of the machine, `::` every address of both kinds.
"""

import errno
import gc
import os
import signal
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module

from pyqmail.control import home_of
from pyqmail.options import UsageError
from pyqmail.options import parse_options as options_and_words
from pyqmail.policy.admission import Admission, Dropped, Terms
from pyqmail.system.alert_clock import AlertClock
from pyqmail.system.files import write_all
from pyqmail.system.loop import Loop
from pyqmail.system.process import HIGHEST, find_program, plug_standard_descriptors, reset_signals, schedule_as_batch
from pyqmail.system.readiness import tell_ready, without_request
from pyqmail.warm.chain import Chain, find_chain
from pyqmail.warm.connections import Children, Peer, Voice, Workers, dead_children, write_log

USAGE = 100
FAILED = 111
DENIED = 100  # what a connection that the rules deny ends with
# What our programs import only when they need it; a worker finds everything in memory, since it imports nothing.
PRELOADED = (
    "fcntl", "traceback", "setproctitle", "pyqmail.envelope", "pyqmail.formats.cdb", "pyqmail.policy.interfaces",
    "pyqmail.system.files", "pyqmail.system.process",
)  # fmt: skip
RETRY_ACCEPT_S = 0.1
REASONS = {errno.ENOENT: "file does not exist", errno.EADDRINUSE: "address already used"}  # where ours differ
LETTERS = b"qQvhHpPrRoOdDUX1c:x:B:g:u:b:l:t:"
VERBOSITY = (b"q", b"Q", b"v")
NUMBERS = {b"c": "limit", b"g": "gid", b"u": "uid", b"b": "backlog"}
TERMS = {b"x": "rules", b"B": "banner", b"l": "local_host"}
FLAGS = {
    b"h": ("remote_host", True),
    b"H": ("remote_host", False),
    b"p": ("paranoid", True),
    b"P": ("paranoid", False),
    b"r": ("ident", True),
    b"R": ("ident", False),
    b"o": ("keep_options", True),
    b"O": ("keep_options", False),
    b"d": ("no_delay", False),
    b"D": ("no_delay", True),
    b"X": ("rules_optional", True),
}
USAGE_TEXT = (
    b"tcpserver: usage: tcpserver [ -1UXpPhHrRoOdDqQv ] [ -c limit ] [ -x rules.cdb ] [ -B banner ] [ -g gid ] "
    b"[ -u uid ] [ -b backlog ] [ -l localname ] [ -t timeout ] host port program\n"
)


class Fatal(Exception):
    """The server cannot start."""


@dataclass
class Options:
    """The command line."""

    host: bytes = b""
    port: bytes = b""
    program: tuple[bytes, ...] = ()
    verbosity: int = 1
    limit: int = 40
    uid: int | None = None
    gid: int | None = None
    ids_from_environ: bool = False
    print_port: bool = False
    backlog: int = 20
    terms: Terms = field(default_factory=Terms)


def parse_options(argv: Sequence[bytes]) -> Options:
    """The options of a command line. Raises UsageError."""
    options = Options()
    found, words = options_and_words(argv[1:], LETTERS)
    for letter, value in found:
        if letter in FLAGS:
            setattr(options.terms, *FLAGS[letter])
        elif letter in TERMS:
            setattr(options.terms, TERMS[letter], value)
        elif letter in NUMBERS:
            setattr(options, NUMBERS[letter], _digits(value, letter))
        elif letter == b"t":
            options.terms.ident_timeout_s = _digits(value, letter)
        elif letter in VERBOSITY:
            options.verbosity = VERBOSITY.index(letter)
        elif letter == b"U":
            options.ids_from_environ = True
        elif letter == b"1":
            options.print_port = True
    if len(words) < 3:
        raise UsageError(b"")
    options.host, options.port, options.program = words[0], words[1], tuple(words[2:])
    return options


def _digits(value: bytes, letter: bytes) -> int:
    """A number and nothing else: ``-u name`` taken for 0 would leave the server root."""
    if not value.isdigit():
        raise UsageError(b"not a number -- " + letter)
    return int(value[:9])


def _number(value: bytes) -> int:
    """The leading digits, 0 without any, as scan_ulong reads them."""
    digits = value[: len(value) - len(value.lstrip(b"0123456789"))]
    return int(digits[:9]) if digits else 0


class Front:
    """What happens to one connection, in the process that serves it."""

    def __init__(
        self, options: Options, environ: Mapping[bytes, bytes], admission: Admission, chain: Chain | None
    ) -> None:
        self._program = options.program
        self._path = environ.get(b"PATH")
        self._verbosity = options.verbosity
        self._admission = admission
        self._chain = chain

    def serve(self, connection: socket.socket, peer: Peer, voice: Voice) -> int:
        """Serve ``connection``, which is also on 0 and 1; the exit code."""
        try:
            environ = self._admission.admit(connection, peer, voice.log if self._verbosity >= 2 else None)
        except Dropped as error:
            self._warn(voice, f"dropping connection, {error}")
            return FAILED
        except OSError as error:
            self._warn(voice, f"dropping connection, {_reason(error)}")
            return FAILED
        finally:
            connection.close()
        if environ is None:
            return DENIED
        chain = self._chain
        if chain is None or not chain.unchanged(environ):
            if chain is not None:
                voice.outdated()
            return self._execute(environ, voice)
        try:
            return chain.run(environ)
        except BaseException:  # a bug ends this process, loudly, and nothing else
            import traceback

            write_log(traceback.format_exc().encode("utf-8", "replace"))
            os._exit(FAILED)

    def _execute(self, environ: dict[bytes, bytes], voice: Voice) -> int:
        """Become the program, found by the server's own PATH."""
        path = find_program(self._program[0], self._path)
        reason = "file does not exist"
        if path is not None:
            try:
                reset_signals()
                os.closerange(3, HIGHEST)
                os.execve(path, self._program, environ)
            except OSError as error:
                reason = _reason(error)
        name = os.fsdecode(self._program[0])
        if self._verbosity >= 1:
            write_log(warning(f"dropping connection, unable to run {name}: {reason}"))
        os._exit(FAILED)

    def _warn(self, voice: Voice, text: str) -> None:
        if self._verbosity >= 1:
            voice.log(warning(text))


class Server:
    """The parent: keeps count and log. Workers accept by themselves; where there is no chain, it does."""

    def __init__(
        self, loop: Loop, listener: socket.socket, options: Options, environ: Mapping[bytes, bytes], chain: Chain | None
    ) -> None:
        self._loop = loop
        self._listener = listener
        self._limit = options.limit
        self._verbosity = options.verbosity
        self._active = 0
        self._accepting = False
        self._outmoded = False
        admission = Admission(options.terms, environ)
        front = Front(options, environ, admission, chain)
        self._children = Children(front.serve, self._ended)
        self._workers = None
        if chain is not None and chain.pooled:
            self._workers = Workers(
                loop,
                listener,
                front.serve,
                limit=options.limit,
                title=os.fsdecode(options.program[0]).rpartition("/")[2],
                logs=options.verbosity >= 2,
                began=self._began,
                said=write_log,
                ended=self._ended,
                outdated=self._outdated,
                troubled=self._no_process,
            )

    def start(self) -> None:
        """Begin to serve."""
        self._listener.setblocking(False)
        self._loop.add_signal(signal.SIGCHLD, self._reap)
        self._log(self._status())
        if self._workers is not None and self._limit > 0:
            self._workers.start()
        else:
            self._listen()

    def close(self) -> None:
        """Give up the port: nobody waits for it until the last worker has gone."""
        try:
            self._listener.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass

    def _listen(self) -> None:
        """Accept here, as long as there is room."""
        if self._serving() < self._limit and not self._accepting:
            self._accepting = True
            self._loop.add_reader(self._listener.fileno(), self._accept)

    def _pause(self) -> None:
        self._accepting = False
        self._loop.remove_reader(self._listener.fileno())

    def _serving(self) -> int:
        return self._children.count() + (0 if self._workers is None else self._workers.count())

    def _accept(self) -> None:
        while self._serving() < self._limit:
            try:
                connection, address = self._listener.accept()
            except (BlockingIOError, ConnectionError):
                return
            except OSError:  # no descriptor or no memory: look again soon, without spinning
                self._pause()
                self._loop.call_later(RETRY_ACCEPT_S, self._listen)
                return
            with connection:
                self._active += 1
                self._log(self._status())
                try:
                    self._children.start(connection, address[:2])
                except OSError as error:
                    self._active -= 1
                    self._warn(f"dropping connection, unable to fork: {_reason(error)}")
                    self._log(self._status())
        self._pause()

    def _reap(self) -> None:
        for pid, status in dead_children():
            if not self._children.reap(pid, status) and self._workers is not None:
                self._workers.reap(pid, status)
        if self._workers is None or self._outmoded:
            self._listen()

    def _began(self, text: bytes) -> None:
        self._active += 1
        self._log(self._status() + text)

    def _ended(self, pid: int, status: int) -> None:
        self._active -= 1
        self._log(b"tcpserver: end %d status %d\n" % (pid, status) + self._status())

    def _outdated(self) -> None:
        """Serve from memory no more: workers finish what they have."""
        if self._workers is not None and not self._outmoded:
            self._outmoded = True
            self._warn("the program has changed: it is executed from now on")
            self._workers.stop()
            self._listen()

    def _no_process(self, error: OSError) -> None:
        self._warn(f"unable to fork: {_reason(error)}")

    def _status(self) -> bytes:
        return b"tcpserver: status: %d/%d\n" % (self._active, self._limit)

    def _log(self, text: bytes) -> None:
        if self._verbosity >= 2:
            write_log(text)

    def _warn(self, text: str) -> None:
        if self._verbosity >= 1:
            write_log(warning(text))


def warning(text: str) -> bytes:
    """A line for the log."""
    return f"tcpserver: warning: {text}\n".encode("utf-8", "surrogateescape")


def port_number(text: bytes) -> int:
    """The port: a number, or the name of a service. Raises Fatal."""
    if text[:1].isdigit():
        return min(_number(text), 65535)
    try:
        return socket.getservbyname(text.decode("latin-1"), "tcp")
    except (OSError, ValueError) as error:
        raise Fatal(f"unable to figure out port number for {os.fsdecode(text)}") from error


def addresses(host: bytes) -> Iterator[tuple[socket.AddressFamily, str]]:
    """What to bind to, best first."""
    if host in (b"", b"0"):
        yield socket.AF_INET, "0.0.0.0"
        return
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, ValueError) as error:
        raise Fatal(f"no IP address for {os.fsdecode(host)}") from error
    for family, _, _, _, sockaddr in found:
        yield family, str(sockaddr[0])


def listening_socket(options: Options) -> socket.socket:
    """Bound and listening. Raises Fatal."""
    port = port_number(options.port)
    family, ip = next(addresses(options.host))
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    try:
        listener.bind((ip, port))
        listener.listen(options.backlog)
    except OSError as error:
        raise Fatal(f"unable to bind: {_reason(error)}") from error
    return listener


def drop_privileges(options: Options, environ: Mapping[bytes, bytes]) -> None:
    """Take -g and -u, or $GID and $UID, the group first; 0 changes nothing. Raises Fatal and UsageError."""
    if options.ids_from_environ:
        options.gid, options.uid = _digits(environ.get(b"GID", b"0"), b"U"), _digits(environ.get(b"UID", b"0"), b"U")
    try:
        if options.gid:
            if os.geteuid() == 0:
                os.setgroups([options.gid])
            os.setgid(options.gid)
    except OSError as error:
        raise Fatal(f"unable to set gid: {_reason(error)}") from error
    try:
        if options.uid:
            os.setuid(options.uid)
    except OSError as error:
        raise Fatal(f"unable to set uid: {_reason(error)}") from error


def _reason(error: OSError) -> str:
    return REASONS.get(error.errno or 0) or os.strerror(error.errno or 0).lower()


def preload() -> None:
    """Bring into memory what workers may need, and what they share."""
    AlertClock.inherited = AlertClock()
    for name in PRELOADED:
        try:
            import_module(name)
        except ImportError:
            if name != "setproctitle":
                raise


def prepare(options: Options, environ: Mapping[bytes, bytes]) -> tuple[socket.socket, Chain | None]:
    """The listening socket and the chain, with everything in memory that needs the first identity. Raises Fatal."""
    listener = listening_socket(options)
    chain = find_chain(options.program, environ)
    if chain is not None:
        preload()
        schedule_as_batch()
    drop_privileges(options, environ)
    if chain is not None and os.path.lexists(home_of(environ) + "/control/servercert.pem"):
        import_module("pyqmail.tcp.certificates")  # ssl once for all workers, and only where it is used
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
