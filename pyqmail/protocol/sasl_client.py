"""The client's half of AUTH without descriptors: PLAIN (RFC 4616), LOGIN, CRAM-MD5 (RFC 2195), OAUTHBEARER (RFC 7628)
and XOAUTH2, as SMTP carries them (RFC 4954).

An exchange is a generator: it yields what to say, is sent the replies, and returns the last one, or None where the
server offers nothing that the login can use. Only one mechanism is tried: a second guess could lock an account.
"""

from binascii import Error, a2b_base64, b2a_base64
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field

from pyqmail.protocol.smtp_replies import Reply

Exchange = Generator[bytes, Reply, Reply | None]
GO_ON = 334
LINE_MAX = 12288  # bytes of a line, its end included (RFC 4954 section 4)


@dataclass(frozen=True, slots=True)
class Login:
    """Who we are at a relay, and the password; one that begins with ``!`` names the program that prints a token."""

    user: bytes
    password: bytes = field(repr=False)

    @property
    def program(self) -> bytes:
        """The command that prints a token; empty where there is a password."""
        return self.password[1:] if self.password.startswith(b"!") else b""


def exchange(
    login: Login, secret: Callable[[], bytes], mechanisms: Sequence[bytes], host: bytes, port: int
) -> Exchange:
    """Log in by the best of ``mechanisms``; ``secret`` gives the password or token, and may raise MailFailure."""
    offered = {name.upper() for name in mechanisms}
    if login.program:
        if b"OAUTHBEARER" in offered:
            return (yield from _oauthbearer(login.user, secret(), host, port))
        if b"XOAUTH2" in offered:
            return (yield from _xoauth2(login.user, secret()))
    elif b"CRAM-MD5" in offered:
        return (yield from _cram_md5(login.user, secret()))
    elif b"PLAIN" in offered:
        return (yield b"AUTH PLAIN " + _encode(b"\0" + login.user + b"\0" + secret()))
    elif b"LOGIN" in offered:
        return (yield from _login(login.user, secret()))
    return None


def _encode(data: bytes) -> bytes:
    return b2a_base64(data, newline=False)


def _cram_md5(user: bytes, secret: bytes) -> Exchange:
    import hmac  # seldom wanted

    reply = yield b"AUTH CRAM-MD5"
    if reply.code != GO_ON:
        return reply
    try:
        challenge = a2b_base64(reply.text[4:])
    except Error:
        return (yield b"*")  # what is no challenge ends the exchange
    return (yield _encode(user + b" " + hmac.new(secret, challenge, "md5").hexdigest().encode()))


def _login(user: bytes, secret: bytes) -> Exchange:
    reply = yield b"AUTH LOGIN"
    for word in (user, secret):
        if reply.code != GO_ON:
            return reply
        reply = yield _encode(word)
    return reply


def _xoauth2(user: bytes, token: bytes) -> Exchange:
    reply = yield b"AUTH XOAUTH2 " + _encode(b"user=" + user + b"\1auth=Bearer " + token + b"\1\1")
    return (yield b"") if reply.code == GO_ON else reply  # what is wrong stands in a challenge


def _oauthbearer(user: bytes, token: bytes, host: bytes, port: int) -> Exchange:
    name = user.replace(b"=", b"=3D").replace(b",", b"=2C")
    text = b"n,a=%s,\1host=%s\1port=%d\1auth=Bearer %s\1\1" % (name, host, port, token)
    reply = yield b"AUTH OAUTHBEARER " + _encode(text)
    return (yield _encode(b"\1")) if reply.code == GO_ON else reply
