"""What tcpserver does with a connection before its program runs: names, IDENT, rules, environment and log lines.

In this order (tcpserver(1)): local name, IP options, banner, remote name, IDENT, rules, log line. It runs in the
process that serves the connection, so that a slow name server holds up nobody else.
"""

import _socket
import errno
import os
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pyqmail.formats.cdb import Cdb, CdbCorrupt
from pyqmail.system.stamp import Stamp, stamp_of
from pyqmail.tcp.tcprules import NO_RULE, Decision, decide
from pyqmail.values import value

IN_MEMORY_MAX = 65536  # a rules file up to this size is kept as a mapping


FIELD_MAX = 100  # of a name in a log line; what is cut off is shown by three dots


class Dropped(Exception):
    """The connection cannot be served; the text says why."""


class Unannounced(Exception):
    """A connection through a proxy ended before its header, as a plain health check does: nothing is to be said."""


@value
class Ends:
    """Both ends of a connection, address and port, as its program will hear of them.

    ``proxied``: a proxy has said so (tcp/proxy). ``check``: it is the proxy's own connection, which may relay nothing
    and is not logged.
    """

    local: tuple[str, int]
    remote: tuple[str, int]
    proxied: bool = False
    check: bool = False


def ends_of(connection: _socket.socket, peer: tuple[str, int]) -> Ends:
    """The ends that the kernel names. Raises OSError when the client has gone."""
    local = connection.getsockname()
    return Ends((plain_address(local[0]), local[1]), (plain_address(peer[0]), peer[1]))


@dataclass(slots=True)
class Terms:
    """What the command line of tcpserver says about each connection."""

    rules: bytes | None = None
    rules_optional: bool = False
    banner: bytes = b""
    keep_options: bool = False
    no_delay: bool = False
    remote_host: bool = True
    paranoid: bool = False
    local_host: bytes | None = None
    ident: bool = True
    ident_timeout_s: int = 26


class Rules:
    """The rules file, looked at for each connection and read again when it is another."""

    def __init__(self, path: bytes, *, optional: bool) -> None:
        self._name = path
        self._path = os.path.abspath(path)  # a worker's directory may be another later
        self._optional = optional
        self._seen: Stamp | None = None
        self._fd = -1
        self._look_up: Callable[[bytes], bytes | None] | None = None

    def decide(self, ip: bytes, host: bytes | None, info: bytes | None) -> Decision:
        """What the rules say. Raises Dropped when nobody can: a missing rule must not open the door."""
        try:
            seen = stamp_of(os.stat(self._path))
            if self._look_up is None or seen != self._seen:
                self._look_up = self._open()
                self._seen = seen
            return decide(self._look_up, ip, host, info)
        except OSError as error:
            if error.errno != errno.ENOENT:
                raise self._unreadable(os.strerror(error.errno or 0).lower()) from error
            if self._optional:
                return NO_RULE
            raise self._unreadable("file does not exist") from error
        except CdbCorrupt as error:
            self._look_up = None
            raise self._unreadable("protocol error") from error

    def _unreadable(self, reason: str) -> Dropped:
        return Dropped(f"unable to read {os.fsdecode(self._name)}: {reason}")

    def _open(self) -> Callable[[bytes], bytes | None]:
        if self._fd >= 0:
            os.close(self._fd)
        self._fd, self._look_up = -1, None
        self._fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        database = Cdb(self._fd)
        if os.fstat(self._fd).st_size > IN_MEMORY_MAX:
            return database.get
        return dict(reversed(list(database.records()))).get  # of equal keys the first counts


def visible(text: bytes | None) -> bytes:
    """``text`` for one field of a log line; nothing for an unset name."""
    if text is None:
        return b""
    shown = bytes(byte if 33 <= byte <= 126 and byte not in b"%:" else 0x3F for byte in text[:FIELD_MAX])
    return shown if len(text) < FIELD_MAX else shown + b"..."


def plain_address(ip: str) -> str:
    """The address of a socket: dotted for IPv4, also when it came in on an IPv6 socket, without a zone."""
    if ":" not in ip:
        return ip
    ip = ip.partition("%")[0]
    return ip[7:] if ip.lower().startswith("::ffff:") and "." in ip else ip


class Admission:
    """Who may come in, and what the program is told about them. ``environ`` is what each program starts from."""

    def __init__(self, terms: Terms, environ: Mapping[bytes, bytes]) -> None:
        self._terms = terms
        self._environ = dict(environ)
        for name in (b"TCPLOCALHOST", b"TCPREMOTEHOST", b"TCPREMOTEINFO"):
            self._environ.pop(name, None)
        self._environ[b"PROTO"] = b"TCP"
        self._rules = None
        if terms.rules is not None:
            self._rules = Rules(terms.rules, optional=terms.rules_optional)
        self._asks = terms.remote_host or terms.local_host is None or terms.ident
        if self._asks:
            import pyqmail.tcp.remote_name  # noqa: F401 - here, once, rather than in each worker

    def admit(self, line: _socket.socket, ends: Ends, say: Callable[[bytes], None] | None) -> dict[bytes, bytes] | None:
        """The environment for the program, None if the rules deny; log lines go to ``say``.

        Raises Dropped, and OSError when the client has gone.
        """
        terms = self._terms
        environ = self._environ.copy()
        remote_ip = ends.remote[0]
        ip = remote_ip.encode()
        environ[b"TCPLOCALIP"], environ[b"TCPLOCALPORT"] = ends.local[0].encode(), b"%d" % ends.local[1]
        environ[b"TCPREMOTEIP"], environ[b"TCPREMOTEPORT"] = ip, b"%d" % ends.remote[1]
        start = b""
        if say is not None:
            start = b"tcpserver: pid %d from %b\n" % (os.getpid(), ip)
            if self._asks or terms.banner:  # it may take long until there is more to say
                say(start)
                start = b""
        local_host = self._name(ends.local[0]) if terms.local_host is None else terms.local_host
        self._prepare(line)
        remote_host = self._name(remote_ip, paranoid=terms.paranoid) if terms.remote_host else None
        info = self._user(line) if terms.ident and not ends.proxied else None
        for name, found in (
            (b"TCPLOCALHOST", local_host),
            (b"TCPREMOTEHOST", remote_host),
            (b"TCPREMOTEINFO", info),
        ):
            if found is not None:
                environ[name] = found
        try:
            decision = self._rules.decide(ip, remote_host, info) if self._rules else NO_RULE
        except Dropped:
            if say is not None and start:
                say(start)
            raise
        if say is not None:
            say(start + self._verdict(decision, environ))
        if decision.deny:
            return None
        environ.update(decision.variables)
        if ends.check:
            environ.pop(b"RELAYCLIENT", None)
        return environ

    def trusts(self, ip: str) -> bool:
        """Whether the rules, by its address alone, let a client relay; no limit of connections is for those."""
        try:
            decision = self._rules.decide(plain_address(ip).encode(), None, None) if self._rules else NO_RULE
        except Dropped:
            return False
        return b"RELAYCLIENT" in dict(decision.variables)

    def _prepare(self, line: _socket.socket) -> None:
        """Options of the socket, as far as the kernel lets us, and the banner. Raises Dropped."""
        terms = self._terms
        try:
            if not terms.keep_options and line.family == socket.AF_INET:
                line.setsockopt(socket.IPPROTO_IP, socket.IP_OPTIONS, b"")
            if terms.no_delay:
                line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError:
            pass
        try:
            if terms.banner:
                line.sendall(terms.banner)
        except OSError as error:
            raise Dropped(f"unable to print banner: {os.strerror(error.errno or 0).lower()}") from error

    def _verdict(self, decision: Decision, environ: Mapping[bytes, bytes]) -> bytes:
        return b"tcpserver: %b %d %b:%b:%b %b:%b:%b:%b\n" % (
            b"deny" if decision.deny else b"ok",
            os.getpid(),
            visible(environ.get(b"TCPLOCALHOST")),
            environ[b"TCPLOCALIP"],
            environ[b"TCPLOCALPORT"],
            visible(environ.get(b"TCPREMOTEHOST")),
            environ[b"TCPREMOTEIP"],
            visible(environ.get(b"TCPREMOTEINFO")),
            environ[b"TCPREMOTEPORT"],
        )

    def _name(self, ip: str, *, paranoid: bool = False) -> bytes | None:
        from pyqmail.tcp.remote_name import SoftFailure, name_of

        try:
            return name_of(ip, self._environ, paranoid=paranoid)
        except SoftFailure:
            return None

    def _user(self, line: _socket.socket) -> bytes | None:
        from pyqmail.tcp.remote_name import ident_user

        return ident_user(line, self._terms.ident_timeout_s)
