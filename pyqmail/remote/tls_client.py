"""TLS with an exchanger: contexts, and whether its certificate is one that was asked for (RFC 8446, RFC 9525).

Imported only where a handshake is about to be made, or by a parent before it forks workers.
"""

import _ssl  # the chain as it was shown, before Python 3.13
import os
import re
import ssl
from collections import OrderedDict

from pyqmail.failure import TemporaryFailure
from pyqmail.protocol.certificate_names import matches
from pyqmail.protocol.dns import parse_literal
from pyqmail.remote.security import Level, Security
from pyqmail.stream.stream import Stream, TlsFailed
from pyqmail.stream.tls import reason
from pyqmail.system.stamp import Stamp, stamp_of
from pyqmail.tcp.certificates import read_secret
from pyqmail.tcp.pem import PemError

CONTEXTS_MAX = 32
_HOST = re.compile(rb"(?=.{1,253}\Z)[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*\Z")
# Where nothing is verified, a weak key or an old server is still better than clear text.
_LENIENT = "DEFAULT:@SECLEVEL=1"


class TlsClient:
    """The contexts of one process, by what they are made of; a changed file makes a new one."""

    def __init__(self) -> None:
        self._contexts: OrderedDict[tuple[object, ...], ssl.SSLContext] = OrderedDict()

    def shake_hands(self, stream: Stream, security: Security, exchanger: bytes) -> Stream:
        """The conversation on ``stream`` under TLS, with a server that is as ``security`` asks.

        Raises TlsFailed, StreamEnded, and TemporaryFailure where a file of ours cannot be used.
        """
        try:
            context = self._context(security)
        except (OSError, ValueError, PemError) as error:  # SSLError is an OSError
            words = reason(error) if isinstance(error, ssl.SSLError) else _words(error)
            raise TemporaryFailure(
                b"TLS cannot be used as control files ask: " + words.encode() + b" (#4.3.5)"
            ) from None
        name = security.names[0] if security.records else exchanger.lower().removesuffix(b".")
        literal = parse_literal(name) is not None
        stream = stream.start_tls(context, server_side=False, name=_sni(name) if not literal else None)
        if security.records:
            _compare(stream, security)
        elif security.names and not any(_is_for(stream, each) for each in security.names):
            raise TlsFailed("certificate: it is for another name")
        return stream

    def _context(self, security: Security) -> ssl.SSLContext:
        verify = security.level is Level.VERIFY
        paths = (security.authorities if verify else "", security.certificate)
        stamps: list[Stamp | None] = [stamp_of(os.stat(path)) if path else None for path in paths]
        key = (verify, security.level is Level.MAY, security.ciphers, *paths, *stamps)
        context = self._contexts.pop(key, None) or _new_context(security, verify=verify)
        self._contexts[key] = context
        if len(self._contexts) > CONTEXTS_MAX:
            self._contexts.popitem(last=False)
        return context


def _new_context(security: Security, *, verify: bool) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = False  # the names that count are not only the one that is asked for
    if verify:
        if security.authorities:
            context.load_verify_locations(cafile=security.authorities)
        else:
            context.load_default_certs()
    else:
        context.verify_mode = ssl.CERT_NONE
    if security.level is Level.MAY:
        context.options |= getattr(ssl, "OP_LEGACY_SERVER_CONNECT", 0x4)
    if security.ciphers or security.level is Level.MAY:
        context.set_ciphers(security.ciphers or _LENIENT)
    if security.certificate:
        read_secret(security.certificate)  # others must not be able to read a key
        context.load_cert_chain(security.certificate, password=_no_password)
    return context


def _no_password() -> str:
    raise ValueError("the key is encrypted")


def _words(error: Exception) -> str:
    return (error.strerror or "trouble") if isinstance(error, OSError) else str(error)


def _sni(name: bytes) -> str | None:
    """The name to ask the server for; none where it is no host name (RFC 6066 section 3)."""
    return name.decode("ascii") if _HOST.match(name) else None


def _compare(stream: Stream, security: Security) -> None:
    """Raise TlsFailed where the server's certificates are not what its TLSA records describe."""
    from pyqmail.remote.dane_match import matches_any

    try:
        if matches_any(security.records, _chain(stream), security.names):
            return
    except ValueError:
        raise TlsFailed("certificate: it cannot be read") from None
    raise TlsFailed("certificate: it is not what TLSA records say")


def _chain(stream: Stream) -> list[bytes]:
    """The certificates that the server has shown, in DER, its own first."""
    ssl_object = stream.ssl_object  # type: ignore[attr-defined]
    if hasattr(ssl_object, "get_unverified_chain"):  # Python 3.13
        return list(ssl_object.get_unverified_chain())
    shown = ssl_object._sslobj.get_unverified_chain() or ()
    return [each.public_bytes(_ssl.ENCODING_DER) for each in shown]


def _is_for(stream: Stream, name: bytes) -> bool:
    """Whether the verified certificate of ``stream`` is for ``name``, a host or an address."""
    found = stream.ssl_object.getpeercert() or {}  # type: ignore[attr-defined]
    return matches(found, name)
