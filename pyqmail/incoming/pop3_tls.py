"""The handshakes of POP3 clients, in the half of a connection that has the key (qmail-popup(8), tcp/tls_half)."""

from collections.abc import Mapping

import pyqmail.tcp.certificates  # noqa: F401  here, before a connection is split, so that its halves share it
from pyqmail.formats.logline import safe
from pyqmail.incoming.decisions import DecisionLog
from pyqmail.incoming.security import Security, TlsUnavailable
from pyqmail.stream.stream import Stream, StreamEnded, TlsFailed
from pyqmail.stream.tls import TlsStream
from pyqmail.system.alert_clock import AlertClock

NO_CLIENT_CERTIFICATE = "no certificate of the client"


class Handshakes:
    """What ``Security`` decides, with lines in the log of qmail-popup."""

    def __init__(self, security: Security, environ: Mapping[bytes, bytes]) -> None:
        self._security = security
        self._ip = environ.get(b"TCPREMOTEIP", b"unknown")[:64]
        self._log = DecisionLog(b"qmail-popup", environ)
        if AlertClock.inherited is None:  # nobody above us shares one: at least once for this connection
            AlertClock.inherited = AlertClock()

    def begin(self, stream: Stream, ready: bytes) -> TlsStream | None:
        """Say ``ready`` and shake hands; None, and nothing was said, without a certificate. Raises StreamEnded."""
        try:
            secured, _ = self._security.start(stream, self.alert, ready)
        except TlsUnavailable:
            return None
        except TlsFailed as failure:
            self._failed(str(failure))
            raise
        assert isinstance(secured, TlsStream)
        if self._security.needs_client_certificate and not secured.ssl_object.getpeercert(True):
            self._failed(NO_CLIENT_CERTIFICATE)
            secured.close()
            raise StreamEnded
        return secured

    def alert(self, text: str) -> None:
        """A line for the administrator."""
        self._log.say(b"alert: " + text.encode("utf-8", "replace"))

    def alert_once(self, text: str) -> None:
        """The same, once a minute for all processes of a server."""
        if AlertClock.inherited is None or AlertClock.inherited.due():
            self.alert(text)

    def _failed(self, why: str) -> None:
        self._log.say(b"tls-failed ip=%b reason=%b" % (safe(self._ip), safe(why.encode("utf-8", "replace"))))
