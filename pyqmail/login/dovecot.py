"""A password that Dovecot knows: what is said to its auth socket, and what that answers (Dovecot's auth protocol 1.1).

Lines of fields with a TAB between them. Both begin: the server says version and mechanisms, up to DONE; a request is
answered by OK, FAIL or, where a mechanism needs more, CONT.
"""

import os
import socket
from binascii import b2a_base64

from pyqmail.login.answer import Answer
from pyqmail.protocol.sasl import Credentials

ANSWER_S = 60.0  # for each line
GREETING_MAX = 65536  # bytes up to DONE
ANSWER_MAX = 8192  # bytes of lines up to the answer
REQUEST = 1  # our only one
_ADDRESS = frozenset(b"0123456789abcdefABCDEF.:")
_TEMPORARY = (b"temp", b"code=temp_fail")


class UnknownServer(Exception):
    """What answers is no Dovecot of this protocol, takes no passwords, or has gone."""


def plain_request(user: bytes, password: bytes, ip: bytes) -> bytes:
    """The request to check a password; neither may have a NUL. Whether it came in clear was for our door to judge."""
    rip = b"\trip=" + ip if ip and set(ip) <= _ADDRESS else b""
    response = b2a_base64(b"\0%b\0%b" % (user, password), newline=False)
    return b"AUTH\t%d\tPLAIN\tservice=smtp\tnologin\tsecured%b\tresp=%b\n" % (REQUEST, rip, response)


def check_greeting(lines: list[bytes]) -> None:
    """Whether the lines up to DONE promise what we need. Raises UnknownServer."""
    fields = [tuple(line.split(b"\t")[:2]) for line in lines]
    if (b"VERSION", b"1") not in fields or (b"MECH", b"PLAIN") not in fields:
        raise UnknownServer


def parse_answer(line: bytes) -> Answer | None:
    """The answer to the request; None for a line about something else.

    Whatever is neither OK nor a plain FAIL cannot be known: a password is wrong only by the server's own word.
    """
    verb, *fields = line.split(b"\t")
    if verb not in (b"OK", b"FAIL", b"CONT") or fields[:1] != [b"%d" % REQUEST]:
        return None
    if verb == b"OK":
        return Answer.YES
    return Answer.NO if verb == b"FAIL" and not any(one in _TEMPORARY for one in fields) else Answer.LATER


class _Lines:
    """The lines of a server. Raises UnknownServer where there is none, and OSError."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._data = b""

    def next(self, most: int) -> bytes:
        """The next line without its end."""
        while b"\n" not in self._data:
            chunk = self._sock.recv(4096)
            if not chunk or len(self._data) + len(chunk) > most:
                raise UnknownServer
            self._data += chunk
        line, _, self._data = self._data.partition(b"\n")
        return line

    def greeting(self) -> list[bytes]:
        """All lines up to DONE."""
        found: list[bytes] = []
        size = 0
        while found[-1:] != [b"DONE"]:
            found.append(self.next(GREETING_MAX))
            size += len(found[-1]) + 1
            if size > GREETING_MAX:
                raise UnknownServer
        return found


def ask_dovecot(path: bytes, credentials: Credentials, ip: bytes) -> Answer:
    """What the server at socket ``path`` says of a user and a password. Never raises.

    A digest is no answer to a challenge that is Dovecot's own: CRAM-MD5 is LATER here.
    """
    if credentials.challenge and credentials.method == b"cram-md5":
        return Answer.LATER
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(ANSWER_S)
            sock.connect(path)
            lines = _Lines(sock)
            sock.sendall(b"VERSION\t1\t1\nCPID\t%d\n" % os.getpid())  # Dovecot 2.4 ends its greeting after ours
            check_greeting(lines.greeting())
            sock.sendall(plain_request(credentials.user, credentials.secret, ip))
            heard = 0
            while heard < ANSWER_MAX:
                line = lines.next(ANSWER_MAX)
                heard += len(line) + 1
                answer = parse_answer(line)
                if answer is not None:
                    return answer
    except (OSError, ValueError, UnknownServer):
        pass
    return Answer.LATER
