"""What the network says about the other end of a connection: its name by DNS, its user by IDENT (RFC 1413)."""

import select
import socket
import time

import dns.exception
import dns.rdtypes.ANY.PTR
import dns.rdtypes.IN.A
import dns.rdtypes.IN.AAAA
import dns.resolver
import dns.reversename

LOOKUP_S = 30.0
IDENT_PORT = 113
ANSWER_MAX = 1000

__all__ = ["Names", "ident_user"]


class Names:
    """The system's name servers, read once before the workers are forked."""

    def __init__(self) -> None:
        try:
            self._resolver: dns.resolver.Resolver | None = dns.resolver.Resolver()
        except dns.exception.DNSException:
            self._resolver = None

    def name_of(self, ip: str, *, paranoid: bool = False) -> bytes | None:
        """The lower-cased PTR name of ``ip``; None without one, or when ``paranoid`` and it does not lead back."""
        if self._resolver is None:
            return None
        try:
            answer = self._resolver.resolve(dns.reversename.from_address(ip), "PTR", lifetime=LOOKUP_S, search=False)
            name = answer[0].target
            if paranoid and not self._leads_to(name.to_text(), ip):
                return None
        except (dns.exception.DNSException, OSError, ValueError):
            return None
        return b".".join(name.labels).rstrip(b".").replace(b"\0", b"?").lower() or None

    def _leads_to(self, name: str, ip: str) -> bool:
        assert self._resolver is not None
        kind = "AAAA" if ":" in ip else "A"
        answer = self._resolver.resolve(name, kind, lifetime=LOOKUP_S, search=False)
        return any(record.address == ip for record in answer)


def ident_user(connection: socket.socket, timeout_s: float) -> bytes | None:
    """The user that the client's IDENT server names, without blanks; None when it names nobody in time."""
    deadline = time.monotonic() + timeout_s
    local, remote = connection.getsockname(), connection.getpeername()
    with socket.socket(connection.family, socket.SOCK_STREAM) as asking:
        try:
            asking.settimeout(max(0.01, timeout_s))
            asking.bind((local[0], 0))
            asking.connect((remote[0], IDENT_PORT))
            asking.sendall(b"%d , %d\r\n" % (remote[1], local[1]))
            answer = b""
            while b"\n" not in answer and len(answer) < ANSWER_MAX:
                left = deadline - time.monotonic()
                if left <= 0 or not select.select([asking], [], [], left)[0]:
                    return None
                data = asking.recv(ANSWER_MAX)
                if not data:
                    break
                answer += data
        except OSError:
            return None
    parts = answer.partition(b"\n")[0].split(b":", 3)
    user = parts[3].translate(None, b" \t\r\n") if len(parts) == 4 else b""
    return user or None
