"""Who is at the other end, as far as is known by now (tcp-environ(5))."""

from typing import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from pyqmail.stream.stream import Secured


def by_sendmail(environ: "Mapping[bytes, bytes]") -> bool:
    """Whether this is ``sendmail -bs`` of a local user (sendmail(8)). The address counts too: a client of the network
    may have an IDENT server that says whatever it likes."""
    return environ.get(b"TCPREMOTEINFO") == b"sendmail-bs" and environ.get(b"TCPREMOTEIP") == b"127.0.0.1"


class Client(NamedTuple):
    """One client at one moment. It never changes: what a session learns makes another Client of it.

    So nothing that was learnt in clear is believed after STARTTLS, by construction: ``secured_by`` keeps only what the
    connection itself says.
    """

    ip: bytes  # "unknown" where nobody says
    host: bytes
    ident: bytes | None
    helo: bytes | None = None  # None: it has not greeted
    relay: bytes | None = None  # it may send anywhere, with this appended to each recipient; None: it may not
    secured: "Secured | None" = None
    user: bytes | None = None  # who has proved in this session to be that user, and by nothing else
    method: bytes = b""  # by which mechanism

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
        # not by _replace, which is Python's: each session says it
        return Client(self.ip, self.host, self.ident, helo, self.relay, self.secured, self.user, self.method)

    def secured_by(self, secured: "Secured", environ: "Mapping[bytes, bytes]") -> "Client":
        """After a TLS handshake: the greeting is forgotten, and the user."""
        return Client(self.ip, self.host, self.ident, relay=environ.get(b"RELAYCLIENT"), secured=secured)

    def known_as(self, user: bytes, method: bytes = b"") -> "Client":
        """After a user has proved to be one; that user may send anywhere."""
        return self._replace(relay=self.relay or b"", user=user, method=method)

    def trusted(self) -> "Client":
        """After it has shown a certificate that lets it send anywhere."""
        return self._replace(relay=self.relay or b"")

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
