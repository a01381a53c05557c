"""Who is at the other end, as far as is known by now (tcp-environ(5))."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from pyqmail.stream.stream import Secured


class Client:
    """One client at one moment. It never changes: what a session learns makes another Client of it.

    So nothing that was learnt in clear is believed after STARTTLS, by construction: ``secured_by`` keeps only what the
    connection itself says.
    """

    __slots__ = ("helo", "host", "ident", "ip", "relay", "secured", "user")

    ip: bytes  # "unknown" where nobody says
    host: bytes
    ident: bytes | None
    helo: bytes | None  # None: it has not greeted
    relay: bytes | None  # it may send anywhere, with this appended to each recipient; None: it may not
    secured: "Secured | None"
    user: bytes | None  # who has proved in this session to be that user, and by nothing else

    def __init__(
        self,
        ip: bytes,
        host: bytes,
        ident: bytes | None,
        *,
        helo: bytes | None = None,
        relay: bytes | None = None,
        secured: "Secured | None" = None,
        user: bytes | None = None,
    ) -> None:
        for name, value in zip(self.__slots__, (helo, host, ident, ip, relay, secured, user), strict=True):
            object.__setattr__(self, name, value)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"a Client does not change: {name}")

    @classmethod
    def from_environ(cls, environ: "Mapping[bytes, bytes]") -> "Client":
        """The client as tcpserver describes it, before it has said anything."""
        return cls(
            environ.get(b"TCPREMOTEIP", b"unknown"),
            environ.get(b"TCPREMOTEHOST", b"unknown"),
            environ.get(b"TCPREMOTEINFO"),
            relay=environ.get(b"RELAYCLIENT"),
        )

    def greeted(self, helo: bytes) -> "Client":
        """After HELO or EHLO."""
        return Client(self.ip, self.host, self.ident, helo=helo, relay=self.relay, secured=self.secured, user=self.user)

    def secured_by(self, secured: "Secured", environ: "Mapping[bytes, bytes]") -> "Client":
        """After a TLS handshake: the greeting is forgotten."""
        return Client(self.ip, self.host, self.ident, relay=environ.get(b"RELAYCLIENT"), secured=secured)

    def known_as(self, user: bytes) -> "Client":
        """After a user has proved to be one; that user may send anywhere."""
        relay = b"" if self.relay is None else self.relay
        return Client(self.ip, self.host, self.ident, helo=self.helo, relay=relay, secured=self.secured, user=user)

    def trusted(self) -> "Client":
        """After it has shown a certificate that lets it send anywhere."""
        relay = b"" if self.relay is None else self.relay
        return Client(self.ip, self.host, self.ident, helo=self.helo, relay=relay, secured=self.secured, user=self.user)

    @property
    def received_with(self) -> bytes:
        """What stands behind "with" in Received: the word, and how the connection is encrypted."""
        cipher = b" (%b encrypted)" % self.secured.cipher.encode("ascii") if self.secured else b""
        return self.protocol + cipher

    @property
    def protocol(self) -> bytes:
        """The word for Received (RFC 3848); in clear and without a user it is SMTP, EHLO or not, as in qmail."""
        letters = (b"S" if self.secured else b"") + (b"A" if self.user is not None else b"")
        return b"ESMTP" + letters if letters else b"SMTP"
