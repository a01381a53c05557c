"""tcpserver: accepts TCP connections and runs a program for each (tcpserver(1)).

A program that is our own qmail-smtpd, found by PATH, is not executed: workers that have it in memory serve connections
one after another, each with an environment of its own.  Anything else is forked and executed for each connection.
The server itself never blocks on a client: names, IDENT and rules are looked up by whoever serves the connection.

Host `0` is every IPv4 address of the machine, `::` every address of both kinds.
"""

import errno
import gc
import os
import signal
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module

from pyqmail.formats.cdb import Cdb, CdbCorrupt
from pyqmail.launch import identify
from pyqmail.policy.tcprules import Decision, decide
from pyqmail.system.loop import Loop
from pyqmail.system.process import HIGHEST, find_program, plug_standard_descriptors
from pyqmail.warm.connections import Connections

USAGE = 100
FAILED = 111
DENIED = 100  # what a connection that the rules deny ends with
WARM = ("pyqmail.programs.qmail_smtpd", "pyqmail.programs.qmail_qmtpd", "pyqmail.programs.qmail_qmqpd")
# What those import only when they need it; a worker finds everything in memory, since it imports nothing.
PRELOADED = (
    "fcntl", "traceback", "setproctitle", "pyqmail.envelope", "pyqmail.formats.cdb", "pyqmail.policy.interfaces",
    "pyqmail.system.files", "pyqmail.system.process",
)  # fmt: skip
RETRY_ACCEPT_S = 0.1
FLAGS = b"qQvhHpPrRoOdDUX1"
VALUED = b"cxBgublt"


class UsageError(Exception):
    """The arguments make no sense; the text says why, if there is more to say than the usage."""


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
    rules: bytes | None = None
    rules_optional: bool = False
    banner: bytes = b""
    uid: int | None = None
    gid: int | None = None
    ids_from_environ: bool = False
    print_port: bool = False
    backlog: int = 20
    keep_options: bool = False
    no_delay: bool = False
    remote_host: bool = True
    paranoid: bool = False
    local_host: bytes | None = None
    ident: bool = True
    ident_timeout_s: int = 26


def parse_options(argv: Sequence[bytes]) -> Options:
    """The options of a command line: letters may be bundled, the first other word ends them. Raises UsageError."""
    options = Options()
    words = list(argv[1:])
    while words and words[0].startswith(b"-") and words[0] != b"-":
        word = words.pop(0)
        if word == b"--":
            break
        letters = word[1:]
        while letters:
            letter, letters = letters[:1], letters[1:]
            if letter in FLAGS:
                _flag(options, letter)
                continue
            if letter not in VALUED:
                raise UsageError(f"illegal option -- {letter.decode('latin-1')}")
            if not letters and not words:
                raise UsageError(f"option requires an argument -- {letter.decode('latin-1')}")
            _value(options, letter, letters or words.pop(0))
            break
    if len(words) < 3:
        raise UsageError("")
    options.host, options.port, options.program = words[0], words[1], tuple(words[2:])
    return options


def _flag(options: Options, letter: bytes) -> None:
    match letter:
        case b"q" | b"Q" | b"v":
            options.verbosity = b"qQv".index(letter)
        case b"h" | b"H":
            options.remote_host = letter == b"h"
        case b"p" | b"P":
            options.paranoid = letter == b"p"
        case b"r" | b"R":
            options.ident = letter == b"r"
        case b"o" | b"O":
            options.keep_options = letter == b"o"
        case b"d" | b"D":
            options.no_delay = letter == b"D"
        case b"U":
            options.ids_from_environ = True
        case b"X":
            options.rules_optional = True
        case b"1":
            options.print_port = True


def _value(options: Options, letter: bytes, value: bytes) -> None:
    match letter:
        case b"c":
            options.limit = _digits(value, letter)
        case b"x":
            options.rules = value
        case b"B":
            options.banner = value
        case b"g":
            options.gid = _digits(value, letter)
        case b"u":
            options.uid = _digits(value, letter)
        case b"b":
            options.backlog = _digits(value, letter)
        case b"l":
            options.local_host = value
        case b"t":
            options.ident_timeout_s = _digits(value, letter)


def _digits(value: bytes, letter: bytes) -> int:
    """A number and nothing else: ``-u name`` taken for 0 would leave the server root."""
    if not value.isdigit():
        raise UsageError(f"not a number -- {letter.decode('latin-1')}")
    return int(value[:9])


def _number(value: bytes) -> int:
    """The leading digits, 0 without any, as scan_ulong reads them."""
    digits = value[: len(value) - len(value.lstrip(b"0123456789"))]
    return int(digits[:9]) if digits else 0


class Rules:
    """The rules file, looked at for each connection and read again when it has changed."""

    def __init__(self, path: bytes, *, optional: bool) -> None:
        self._path = path
        self._optional = optional
        self._seen: tuple[int, ...] = ()
        self._fd = -1
        self._database: Cdb | None = None

    def decide(self, ip: bytes, host: bytes | None, info: bytes | None) -> Decision:
        """What the rules say. Raises OSError and CdbCorrupt: then nobody may connect."""
        try:
            found = os.stat(self._path)
        except FileNotFoundError:
            if self._optional:
                return Decision()
            raise
        signature = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
        if self._database is None or signature != self._seen:
            self._open(signature)
        assert self._database is not None
        return decide(self._database.get, ip, host, info)

    def _open(self, signature: tuple[int, ...]) -> None:
        if self._fd >= 0:
            os.close(self._fd)
        self._fd, self._database, self._seen = -1, None, ()
        self._fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        self._database = Cdb(self._fd)
        self._seen = signature


class Target:
    """The program of the command line, and whether it can be served from memory."""

    def __init__(self, program: Sequence[bytes], environ: Mapping[bytes, bytes]) -> None:
        self.argv = tuple(program)
        self._search = environ.get(b"PATH")
        self.path = find_program(program[0], self._search)
        module = identify(self.path) if self.path is not None else None
        self.module = module if module in WARM else None
        self._seen = self._signature()

    def still_ours(self) -> bool:
        """Whether PATH still finds the launcher that it found at the start, unchanged."""
        return find_program(self.argv[0], self._search) == self.path and self._signature() == self._seen

    def look_again(self) -> None:
        """Find the program anew, to be executed."""
        self.path = find_program(self.argv[0], self._search)

    def _signature(self) -> tuple[int, ...]:
        if self.path is None:
            return ()
        try:
            found = os.stat(self.path)
        except OSError:
            return ()
        return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def visible(text: bytes | None) -> bytes:
    """``text`` for one field of a log line; nothing for an unset name."""
    if text is None:
        return b""
    return bytes(byte if 33 <= byte <= 126 and byte not in b"%:" else 0x3F for byte in text)


def plain_address(sockaddr: tuple[object, ...]) -> str:
    """The address of a socket: dotted for IPv4, also when it came in on an IPv6 socket, without a zone."""
    ip = str(sockaddr[0]).partition("%")[0]
    return ip[7:] if ip.lower().startswith("::ffff:") and "." in ip else ip


class Front:
    """What happens to one connection, in the process that serves it."""

    def __init__(self, options: Options, environ: Mapping[bytes, bytes], target: Target) -> None:
        self._options = options
        self._environ = dict(environ)
        self._target = target
        self._rules = None
        if options.rules is not None:
            self._rules = Rules(options.rules, optional=options.rules_optional)
        self._names = None
        if options.remote_host or options.local_host is None or options.ident:
            from pyqmail.policy import remote_name

            self._names = remote_name.Names()
            self._ident = remote_name.ident_user
        self.warm = target.module is not None
        self._main = import_module(target.module).main if target.module is not None else None

    def serve(self, connection: int) -> int:
        """Serve one connection, which becomes descriptors 0 and 1; the exit code."""
        os.dup2(connection, 0)
        os.dup2(connection, 1)
        os.close(connection)
        with socket.socket(fileno=0) as line:
            try:
                environ = self._admit(line)
            except (OSError, CdbCorrupt) as error:
                self._warn(f"dropping connection, {error}")
                environ = FAILED
            finally:
                line.detach()
        code = environ if isinstance(environ, int) else self._run(environ)
        if self.warm:
            self._clean_up()
        return code

    def _clean_up(self) -> None:
        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        os.dup2(null, 0)
        os.dup2(null, 1)
        os.close(null)

    def _run(self, environ: dict[bytes, bytes]) -> int:
        if self.warm and self._main is not None:
            try:
                return int(self._main(list(self._target.argv), environ))
            except BaseException:  # noqa: BLE001 - a bug ends this worker, loudly, and nothing else
                import traceback

                self._write(traceback.format_exc().encode("utf-8", "replace"))
                os._exit(FAILED)
        self._target.look_again()
        path = self._target.path
        reason = "file does not exist"
        if path is not None:
            try:
                os.closerange(3, HIGHEST)
                os.execve(path, list(self._target.argv), environ)
            except OSError as error:
                if error.errno != errno.ENOENT:
                    reason = error.strerror or "error"
        self._warn(f"dropping connection, unable to run {os.fsdecode(self._target.argv[0])}: {reason}")
        return FAILED

    def _admit(self, line: socket.socket) -> dict[bytes, bytes] | int:
        """The environment of the connection, or the exit code of one that is turned away."""
        options, environ = self._options, dict(self._environ)
        local, remote = line.getsockname(), line.getpeername()
        local_ip, remote_ip = plain_address(local), plain_address(remote)
        if options.verbosity >= 2:
            self._write(b"tcpserver: pid %d from %b\n" % (os.getpid(), remote_ip.encode()))
        names = self._names
        local_host = options.local_host
        if local_host is None and names is not None:
            local_host = names.name_of(local_ip)
        if not options.keep_options and line.family == socket.AF_INET:
            line.setsockopt(socket.IPPROTO_IP, socket.IP_OPTIONS, b"")
        if options.no_delay:
            line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if options.banner:
            line.sendall(options.banner)
        remote_host = info = None
        if options.remote_host and names is not None:
            remote_host = names.name_of(remote_ip, paranoid=options.paranoid)
        if options.ident:
            info = self._ident(line, options.ident_timeout_s)
        environ[b"PROTO"] = b"TCP"
        environ[b"TCPLOCALIP"], environ[b"TCPLOCALPORT"] = local_ip.encode(), b"%d" % local[1]
        environ[b"TCPREMOTEIP"], environ[b"TCPREMOTEPORT"] = remote_ip.encode(), b"%d" % remote[1]
        for name, value in (
            (b"TCPLOCALHOST", local_host),
            (b"TCPREMOTEHOST", remote_host),
            (b"TCPREMOTEINFO", info),
        ):
            environ.pop(name, None)
            if value is not None:
                environ[name] = value
        decision = self._decide(remote_ip.encode(), remote_host, info)
        if options.verbosity >= 2:
            self._log_decision(decision, environ, local_host, remote_host, info)
        if decision.deny:
            return DENIED
        environ.update(decision.variables)
        return environ

    def _decide(self, ip: bytes, host: bytes | None, info: bytes | None) -> Decision:
        if self._rules is None:
            return Decision()
        try:
            return self._rules.decide(ip, host, info)
        except OSError as error:
            reason = "file does not exist" if error.errno == errno.ENOENT else error.strerror
            raise OSError(f"unable to read CDB: {reason}") from error
        except CdbCorrupt as error:
            raise OSError("unable to read CDB: format error") from error

    def _log_decision(
        self,
        decision: Decision,
        environ: Mapping[bytes, bytes],
        local_host: bytes | None,
        remote_host: bytes | None,
        info: bytes | None,
    ) -> None:
        self._write(
            b"tcpserver: %b %d %b:%b:%b %b:%b:%b:%b\n"
            % (
                b"deny" if decision.deny else b"ok",
                os.getpid(),
                visible(local_host),
                environ[b"TCPLOCALIP"],
                environ[b"TCPLOCALPORT"],
                visible(remote_host),
                environ[b"TCPREMOTEIP"],
                visible(info),
                environ[b"TCPREMOTEPORT"],
            )
        )

    def _warn(self, text: str) -> None:
        if self._options.verbosity >= 1:
            self._write(f"tcpserver: warning: {text}\n".encode("utf-8", "surrogateescape"))

    def _write(self, line: bytes) -> None:
        try:
            os.write(2, line)
        except OSError:
            pass


class Server:
    """The parent: accepts while fewer than the limit are being served."""

    def __init__(self, loop: Loop, listener: socket.socket, front: Front, target: Target, options: Options) -> None:
        self._loop = loop
        self._listener = listener
        self._front = front
        self._target = target
        self._options = options
        self._connections = Connections(loop, front.serve, title=os.fsdecode(target.argv[0]).rpartition("/")[2])
        self._active = 0

    def start(self) -> None:
        """Watch the listener and the children."""
        self._listener.setblocking(False)
        self._loop.add_signal(signal.SIGCHLD, self._connections.reap)
        self._listen()
        self._log_status()

    def _listen(self) -> None:
        self._loop.add_reader(self._listener.fileno(), self._accept)

    def _accept(self) -> None:
        while self._active < self._options.limit:
            try:
                connection, _ = self._listener.accept()
            except (BlockingIOError, ConnectionError):
                return
            except OSError:  # no descriptor or no memory: look again soon, without spinning
                self._loop.remove_reader(self._listener.fileno())
                self._loop.call_later(RETRY_ACCEPT_S, self._listen)
                return
            with connection:
                self._serve(connection.fileno())
        self._loop.remove_reader(self._listener.fileno())

    def _serve(self, connection: int) -> None:
        if self._front.warm and not self._target.still_ours():
            self._front.warm = False
            write_error(f"tcpserver: status: {self._target.path} has changed and is executed from now on\n")
        self._active += 1
        try:
            if self._front.warm:
                self._connections.serve_warm(connection, self._ended)
            else:
                self._connections.serve_cold(connection, self._ended)
        except OSError as error:
            self._active -= 1
            if self._options.verbosity >= 1:
                write_error(f"tcpserver: warning: dropping connection, unable to fork: {error.strerror}\n")
            return
        self._log_status()

    def _ended(self, pid: int, status: int) -> None:
        self._active -= 1
        if self._options.verbosity >= 2:
            write_error(f"tcpserver: end {pid} status {status}\n")
        self._log_status()
        if self._active == self._options.limit - 1:
            self._listen()

    def _log_status(self) -> None:
        if self._options.verbosity >= 2:
            write_error(f"tcpserver: status: {self._active}/{self._options.limit}\n")


def write_error(text: str) -> None:
    """One line on descriptor 2; a log that fails stops no mail."""
    try:
        os.write(2, text.encode("utf-8", "surrogateescape"))
    except OSError:
        pass


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
        reason = "address already used" if error.errno == errno.EADDRINUSE else error.strerror
        raise Fatal(f"unable to bind: {reason}") from error
    return listener


def drop_privileges(options: Options, environ: Mapping[bytes, bytes]) -> None:
    """Take -g and -u, or $GID and $UID, the group first. Raises Fatal."""
    if options.ids_from_environ:
        options.gid, options.uid = _number(environ.get(b"GID", b"0")), _number(environ.get(b"UID", b"0"))
    try:
        if options.gid is not None:
            if os.geteuid() == 0:
                os.setgroups([options.gid])
            os.setgid(options.gid)
        if options.uid is not None:
            os.setuid(options.uid)
    except OSError as error:
        raise Fatal(f"unable to set uid or gid: {error.strerror}") from error


def preload() -> None:
    """Bring into memory what workers may need."""
    for name in PRELOADED:
        try:
            import_module(name)
        except ImportError:
            if name != "setproctitle":
                raise


def main(argv: Sequence[bytes], environ: Mapping[bytes, bytes]) -> int:
    """Serve until a signal."""
    plug_standard_descriptors()
    try:
        options = parse_options(argv)
        listener = listening_socket(options)
        target = Target(options.program, environ)
        drop_privileges(options, environ)
        if options.print_port:
            os.write(1, b"%d\n" % listener.getsockname()[1])
        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        os.dup2(null, 0)
        os.dup2(null, 1)
        os.close(null)
        front = Front(options, environ, target)
    except UsageError as error:
        if str(error):
            write_error(f"tcpserver: {error}\n")
        write_error("tcpserver: usage: tcpserver [ -1UXpPhHrRoOdDqQv ] [ -c limit ] [ -x rules.cdb ] [ -B banner ] ")
        write_error("[ -g gid ] [ -u uid ] [ -b backlog ] [ -l localname ] [ -t timeout ] host port program\n")
        return USAGE
    except Fatal as error:
        write_error(f"tcpserver: fatal: {error}\n")
        return FAILED
    preload()
    gc.collect()
    gc.freeze()
    signal.signal(signal.SIGTERM, lambda _signum, _frame: os._exit(0))
    loop = Loop()
    Server(loop, listener, front, target, options).start()
    loop.run()
    return FAILED
