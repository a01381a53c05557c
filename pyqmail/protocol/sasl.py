"""AUTH without descriptors: PLAIN (RFC 4616), LOGIN, CRAM-MD5 (RFC 2195), as SMTP carries them (RFC 4954).

An exchange is a generator: it yields what the client is to be asked, is sent the client's line as it came, and returns
the Credentials. Nothing here knows whether they are right.
"""

from binascii import Error, a2b_base64, b2a_base64

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    Exchange = Generator[bytes, bytes, "Credentials"]

RESPONSE_MAX = 12288  # bytes of a line, its end included (RFC 4954 section 4)
REQUEST_MAX = 512  # bytes that a checker is given, with a NUL behind each field (cr.yp.to/checkpwd/interface.html)
CRAM_MD5 = b"CRAM-MD5"


class Cancelled(Exception):
    """The client has thought better of it."""


class Malformed(Exception):
    """What the client says is not in the form of its mechanism."""


class Credentials:
    """Who somebody claims to be, and what is to prove it: a password, or with ``challenge`` a digest of both."""

    __slots__ = ("challenge", "method", "secret", "user")

    def __init__(self, method: bytes, user: bytes, secret: bytes, challenge: bytes = b"") -> None:
        self.method = method  # in lower case, for logs and variables
        self.user = user
        self.secret = secret
        self.challenge = challenge

    @property
    def possible(self) -> bool:
        """Whether anybody could have them: a name, a secret, no control characters in the name, not too long."""
        size = len(self.user) + len(self.secret) + len(self.challenge) + 3
        clean = min(self.user, default=0) >= 0x20 and 0x7F not in self.user
        return clean and bool(self.secret) and b"\0" not in self.secret and size <= REQUEST_MAX


def decode(line: bytes) -> bytes:
    """The bytes of a client's line. Raises Cancelled and Malformed."""
    line = line.removesuffix(b"\r")
    if line == b"*":
        raise Cancelled
    if len(line) > RESPONSE_MAX:
        raise Malformed
    try:
        return a2b_base64(line, strict_mode=True)
    except (Error, ValueError):
        raise Malformed from None


def encode(challenge: bytes) -> bytes:
    """The line that asks for it."""
    return b"334 " + b2a_base64(challenge, newline=False) + b"\r\n"


def _first(initial: bytes | None, challenge: bytes) -> "Generator[bytes, bytes, bytes]":
    """What came with the command; else the answer to ``challenge``."""
    if initial is None:
        return decode((yield challenge))
    return b"" if initial == b"=" else decode(initial)


def plain(initial: bytes | None, challenge: bytes) -> "Exchange":
    """PLAIN: an identity to act as, which can only be the same, the name and the password."""
    fields = (yield from _first(initial, b"")).split(b"\0")
    if len(fields) != 3 or fields[0] not in (b"", fields[1]):
        raise Malformed
    return Credentials(b"plain", fields[1], fields[2])


def login(initial: bytes | None, challenge: bytes) -> "Exchange":
    """LOGIN: two questions, of which clients know the answers by heart."""
    user = yield from _first(initial, b"Username:")
    return Credentials(b"login", user, decode((yield b"Password:")))


def cram_md5(initial: bytes | None, challenge: bytes) -> "Exchange":
    """CRAM-MD5: the name, and a digest of ``challenge`` under the password."""
    if initial is not None:
        raise Malformed
    user, blank, digest = decode((yield challenge)).rpartition(b" ")
    if not blank:
        raise Malformed
    return Credentials(b"cram-md5", user, digest.lower(), challenge)


MECHANISMS: "dict[bytes, Callable[[bytes | None, bytes], Exchange]]" = {
    b"LOGIN": login,
    b"PLAIN": plain,
    CRAM_MD5: cram_md5,
}


def begin(argument: bytes, offered: bytes, challenge: bytes) -> "Exchange | None":
    """The exchange that the argument of AUTH begins; None for a mechanism that is not among ``offered``."""
    name, blank, initial = argument.strip(b" ").partition(b" ")
    if name.upper() not in offered.split():
        return None
    return MECHANISMS[name.upper()](initial if blank else None, challenge)
