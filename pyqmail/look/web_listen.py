"""Where qmail-metrics listens: control/metricslisten as sockets (qmail-metrics(8)).

127.0.0.1:9925          in clear
[2001:db8::1]:9925 tls  with the certificate in control/metricscert.pem
/run/metrics GROUP      a Unix socket, for members of a group
"""

import os
import socket
import ssl
import stat
from collections.abc import Callable

from pyqmail.look.web import Way
from pyqmail.look.web_server import BACKLOG, Listening
from pyqmail.stream.tls import reason
from pyqmail.system.files import unlink_if_present
from pyqmail.system.stamp import Seen
from pyqmail.tcp.certificates import TlsSettings, load
from pyqmail.tcp.pem import PEM_MAX, PemError

DEFAULT = (b"127.0.0.1:9925",)
CERTIFICATE, TOKEN = "metricscert.pem", "metricstoken"
TOKEN_MIN = 20  # characters


class CannotListen(Exception):
    """The program cannot start; the text is the line to print."""


def listen(line: bytes, uid: int) -> Listening:
    """The socket of a line of control/metricslisten; a Unix socket belongs to ``uid``. Raises CannotListen."""
    place, *more = os.fsdecode(line).split()
    try:
        if place.startswith("/"):
            return Listening(_unix_socket(place, uid, *more), Way.LOCAL)
        if more not in ([], ["tls"]):
            raise CannotListen(f"{os.fsdecode(line)}: there is ADDRESS:PORT, ADDRESS:PORT tls, and PATH [GROUP]")
        return Listening(_tcp_socket(place), Way.TLS if more else Way.CLEAR)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise CannotListen(f"{os.fsdecode(line)}: {getattr(error, 'strerror', None) or error}") from None


def _tcp_socket(place: str) -> socket.socket:
    host, _, port = place.rpartition(":")
    family, _, _, _, address = socket.getaddrinfo(
        host.strip("[]"), int(port), type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST
    )[0]
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(address)
    sock.listen(BACKLOG)
    return sock


def _unix_socket(path: str, uid: int, group: str = "") -> socket.socket:
    import grp

    gid = grp.getgrnam(group).gr_gid if group else -1
    if os.path.exists(path) and not stat.S_ISSOCK(os.stat(path).st_mode):
        raise ValueError("there is something else")
    unlink_if_present(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        sock.bind(path)
    finally:
        os.umask(before)
    os.chmod(path, 0o660 if group else 0o600)  # first: without CAP_FOWNER root may not once it is another's
    if os.geteuid() == 0:
        os.chown(path, uid, gid)
    sock.listen(BACKLOG)
    return sock


def read_token(home: str) -> str:
    """The token in control/metricstoken; empty where there is none. Raises CannotListen."""
    path = f"{home}/control/{TOKEN}"
    try:
        with open(path, "rb") as file:
            mode, data = os.fstat(file.fileno()).st_mode, file.read(4096)
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise CannotListen(f"control/{TOKEN}: {error.strerror}") from None
    token = data.split(b"\n", 1)[0].strip()
    if not token:
        return ""
    if mode & (stat.S_IRWXO | stat.S_IWGRP):
        raise CannotListen(f"control/{TOKEN}: others can read or write it")
    if len(token) < TOKEN_MIN or not token.isascii() or not token.decode("ascii").isprintable():
        raise CannotListen(f"control/{TOKEN}: a token has at least {TOKEN_MIN} printable characters")
    return token.decode("ascii")


class Certificate:
    """control/metricscert.pem for clients who come by TLS, taken anew when it has changed.

    One that is broken, or that the user whom the process has become may not read, leaves the one before it in force.
    """

    def __init__(self, home: str, say: Callable[[str], None]) -> None:
        """``say`` prints a line. Raises CannotListen."""
        self._home = home
        self._say = say
        self._seen = self._look()
        self._context = read_context(home)

    def _look(self) -> Seen:
        return Seen((f"{self._home}/control/{CERTIFICATE}",))

    def context(self) -> ssl.SSLContext:
        """The context of the file as it is now."""
        if not self._seen.unchanged():
            self._seen = self._look()
            try:
                self._context = read_context(self._home)
            except CannotListen as error:
                self._say(f"alert: {error}: the certificate before it stays in force")
        return self._context


def read_context(home: str) -> ssl.SSLContext:
    """What clients are shown who come by TLS. Raises CannotListen."""
    path = f"{home}/control/{CERTIFICATE}"
    try:
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_mode & (stat.S_IRWXO | stat.S_IWGRP):
                raise CannotListen(f"control/{CERTIFICATE}: others can read or write it")
            return load(file.read(PEM_MAX + 1), TlsSettings())
    except OSError as error:
        why = reason(error) if isinstance(error, ssl.SSLError) else error.strerror
        raise CannotListen(f"control/{CERTIFICATE}: {why}") from None
    except PemError as error:
        raise CannotListen(f"control/{CERTIFICATE}: {error}") from None
