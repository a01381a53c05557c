"""MTA-STS (RFC 8461), by asking a daemon that knows the policies: postfix-mta-sts-resolver or postfix-tlspol.

Both speak Postfix's socketmap: a netstring ``NAME DOMAIN`` there, a netstring ``OK VALUE``, ``NOTFOUND `` or an error
back. The value is that of a TLS policy table, such as ``secure match=mx.example:.example servername=hostname``. A
policy in testing mode is not found.
"""

import socket
from collections.abc import Callable
from dataclasses import dataclass

from pyqmail.failure import TemporaryFailure
from pyqmail.protocol.host_names import ascii_host

ANSWER_S = 15.0  # for the daemon, which may have to ask the domain's web server
ANSWER_MAX = 65_536
NAME = "postfix"  # of the map, where the control file gives none

NO_ANSWER = b"Unable to learn the MTA-STS policy of that domain. (#4.7.5)"


@dataclass(frozen=True, slots=True)
class Sts:
    """A policy in force: the patterns of exchangers, a leading dot for any one label; none: any, under TLS."""

    patterns: tuple[bytes, ...]

    def lists(self, exchanger: bytes) -> bool:
        """Whether ``exchanger``, in lower case, may have the mail."""
        return not self.patterns or any(
            pattern == exchanger or (pattern[:1] == b"." and exchanger.partition(b".")[2] == pattern[1:])
            for pattern in self.patterns
        )


Lookup = Callable[[bytes], Sts | None]


def ask_policy(where: str, domain: bytes) -> Sts | None:
    """The policy of ``domain`` in force; None where it has none. Raises TemporaryFailure.

    ``where`` is ``unix:PATH`` or ``inet:HOST:PORT``, and maybe ``:NAME`` behind it.
    """
    try:
        address, name = _parse(where)
        with _connect(address) as sock:
            query = name.encode() + b" " + ascii_host(domain)
            sock.sendall(b"%d:%s," % (len(query), query))
            answer = _receive(sock)
    except (OSError, ValueError) as error:
        raise TemporaryFailure(NO_ANSWER) from error
    word, _, value = answer.partition(b" ")
    if word == b"NOTFOUND":
        return None
    if word != b"OK":
        raise TemporaryFailure(NO_ANSWER)
    return _policy(value)


def _parse(where: str) -> tuple[str | tuple[str, int], str]:
    kind, _, rest = where.partition(":")
    if kind == "unix" and rest.startswith("/"):
        path, _, name = rest.partition(":")
        return path, name or NAME
    host, _, rest = rest.partition(":")
    port, _, name = rest.partition(":")
    if kind != "inet" or not host:
        raise ValueError(where)
    return (host, int(port)), name or NAME


def _connect(address: str | tuple[str, int]) -> socket.socket:
    if isinstance(address, tuple):
        return socket.create_connection(address, ANSWER_S)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.settimeout(ANSWER_S)
        sock.connect(address)
    except BaseException:
        sock.close()
        raise
    return sock


def _receive(sock: socket.socket) -> bytes:
    """What is in the netstring that comes. Raises OSError and ValueError."""
    data = b""
    while len(data) < ANSWER_MAX:
        size, colon, rest = data.partition(b":")
        if colon and len(rest) > int(size):
            return rest[: int(size)]
        piece = sock.recv(ANSWER_MAX)
        if not piece:
            break
        data += piece
    raise ValueError("no netstring")


def _policy(value: bytes) -> Sts | None:
    """The policy in the value of a TLS policy table. Raises TemporaryFailure where it cannot be kept."""
    level, *attributes = value.split() or [b""]
    if level in (b"none", b"may", b"dane"):  # nothing that a domain without DANE must have
        return None
    if level in (b"encrypt", b"dane-only"):
        return Sts(())
    found = next((word[6:] for word in attributes if word.startswith(b"match=")), b"")
    patterns = tuple(pattern.lower().removesuffix(b".") for pattern in found.split(b":") if pattern)
    if level not in (b"secure", b"verify") or not patterns:
        raise TemporaryFailure(NO_ANSWER)
    return Sts(patterns)
