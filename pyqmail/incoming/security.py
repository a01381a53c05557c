"""TLS at the door: whether a session has it, needs it, and how it begins (RFC 3207, RFC 8314, qmail-smtpd(8)).

control/servercert.pem switches it on. $SMTPS: TLS before the greeting. $DISABLETLS: none. $UCSPITLS: ``!`` no mail
without it, ``@`` no mail without a verified certificate of the client, ``-`` none, anything else as if it were unset.
"""

from collections.abc import Callable, Mapping
from operator import methodcaller

from pyqmail.control import Control, ControlUnreadable
from pyqmail.incoming.client import by_sendmail
from pyqmail.incoming.site import CERTIFICATE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyqmail.stream.stream import Stream
    from pyqmail.stream.tls import TlsStream
    from pyqmail.tcp.certificates import TlsSettings

OTHER = frozenset(("tlsserverciphers", "tlsclients"))  # control files that ask for settings of TLS
# What tells programs of the queue about the connection is set here, and is nobody else's to say.
OWN_VARIABLES = (b"SSL_PROTOCOL", b"SSL_CIPHER", b"SSL_CIPHER_ALGKEYSIZE", b"SSL_CLIENT_S_DN_Email")


CLAIMS = (b"SSL_", b"SMTPAUTHUSER", b"SMTPAUTHMETHOD", b"SMTP_AUTH_", b"AUTH", b"QMAILFACTS")
_claims = methodcaller("startswith", CLAIMS)
SETTINGS = frozenset((b"UCSPITLS", b"DISABLETLS", b"SMTPS", b"POP3S"))


class TlsUnavailable(Exception):
    """There is no certificate that could be shown; the log has heard why."""


def set_and_on(environ: Mapping[bytes, bytes], name: bytes) -> bool:
    """Whether a variable is there and neither empty nor 0."""
    return environ.get(name, b"") not in (b"", b"0")


class Security:
    """What one session does about TLS."""

    implicit = False  # before the greeting
    required = False
    needs_client_certificate = False

    def __init__(
        self,
        control: Control,
        environ: Mapping[bytes, bytes],
        *,
        from_start: bytes = b"SMTPS",
        there: bool | None = None,
    ) -> None:
        """``from_start`` is the variable that asks for TLS before the greeting. ``there``: whether the certificate is,
        where that is known. Raises ControlUnreadable."""
        self._control = control
        self._environ = environ
        off = by_sendmail(environ)  # a local user, who may not read the key
        if not off and not SETTINGS.isdisjoint(environ):
            word = environ.get(b"UCSPITLS", b"")
            off = word == b"-" or set_and_on(environ, b"DISABLETLS")
            self.implicit = set_and_on(environ, from_start) and not off
            self.required = word in (b"!", b"@")
            self.needs_client_certificate = word == b"@"
        self.offered = not off and not self.implicit and (control.exists(CERTIFICATE) if there is None else there)

    def start(
        self, stream: "Stream", alert: Callable[[str], None], ready: bytes = b""
    ) -> "tuple[TlsStream, list[bytes]]":
        """Say ``ready`` and shake hands: the stream to talk on, and the addresses in the client's verified certificate.

        Raises TlsUnavailable before anything was said, and StreamEnded.
        """
        from pyqmail.tcp.certificates import NAMED, NoCertificate, certificates_of

        control = self._control
        try:
            # only where files are kept are their names: then one look tells what is missing
            names = None if control.cache is None else control.names()
            settings = None if names is not None and self._usual(names) else self._settings()
            certificates = certificates_of(control.directory.removesuffix("/control"))
            context = certificates.context(settings, alert, named=names is None or NAMED in names)
        except NoCertificate:
            raise TlsUnavailable from None
        except (ControlUnreadable, ValueError) as error:
            alert(str(error))
            raise TlsUnavailable from None
        stream.write(ready)
        secured = stream.start_tls(context, server_side=True)
        return secured, verified_addresses(secured)

    def may_relay(self, addresses: list[bytes]) -> bool:
        """Whether control/tlsclients has one of them. Raises ControlUnreadable."""
        allowed = {entry.lower() for entry in self._control.lines("tlsclients") or ()} if addresses else ()
        return any(one.lower() in allowed for one in addresses)

    def _usual(self, names: frozenset[str]) -> bool:
        """Whether nothing asks for other settings than all servers have."""
        return not self.needs_client_certificate and OTHER.isdisjoint(names) and b"TLSCIPHERS" not in self._environ

    def _settings(self) -> "TlsSettings":
        """What the control files ask for. Raises ControlUnreadable and ValueError."""
        from pyqmail.tcp.certificates import TlsSettings

        control = self._control
        ciphers = self._environ.get(b"TLSCIPHERS") or b":".join(control.lines("tlsserverciphers") or ())
        asks = self.needs_client_certificate or control.exists("tlsclients")
        authorities = (control.read("clientca.pem") or b"") if asks else b""
        revoked = (control.read("clientcrl.pem") or b"") if authorities else b""
        found = {"ciphers": ciphers, "authorities": authorities, "revoked": revoked}
        # bundles of authorities have comments in every script
        return TlsSettings(
            **{name: value.decode("ascii", "backslashreplace") for name, value in found.items() if value}
        )


def verified_addresses(stream: "TlsStream") -> list[bytes]:
    """The e-mail addresses in the certificate that the client has proved to own in this very handshake."""
    if stream.secured is None or stream.secured.certificate is None or stream.ssl_object.session_reused:
        return []
    found: dict[str, Any] = stream.ssl_object.getpeercert() or {}
    names = [value for kind, value in found.get("subjectAltName", ()) if kind == "email"]
    names += [value for part in found.get("subject", ()) for kind, value in part if kind == "emailAddress"]
    return [name.encode("utf-8", "replace") for name in names]


def tls_variables(stream: "Stream", addresses: list[bytes]) -> dict[bytes, bytes]:
    """What programs of the queue are told of the connection (tcp-environ(5))."""
    secured = stream.secured
    if secured is None:
        return {}
    found = {
        b"SSL_PROTOCOL": secured.version.encode("ascii"),
        b"SSL_CIPHER": secured.cipher.encode("ascii"),
        b"SSL_CIPHER_ALGKEYSIZE": b"%d" % secured.bits,
    }
    if addresses:
        found[b"SSL_CLIENT_S_DN_Email"] = addresses[0]
    return found


def without_claims(environ: Mapping[bytes, bytes]) -> Mapping[bytes, bytes]:
    """``environ`` without what only this session may say: who its client is, how the connection is, what is said
    of its mail."""
    if not any(map(_claims, environ)):
        return environ
    return {name: value for name, value in environ.items() if not _claims(name)}
