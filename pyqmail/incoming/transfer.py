"""One session of qmail-xferd: another node's queued messages, with what is known of them (qmail-xferd(8)).

Who may is decided by the client's certificate alone: control/xferca.pem must have signed it, for a name in
control/xferpeers. Then there are no checks: the message was accepted once, and is put off for local trouble alone.
"""

import os
from collections.abc import Mapping

from pyqmail.control import Control
from pyqmail.formats.logline import safe
from pyqmail.formats.netstring import format_netstring
from pyqmail.incoming.client import Client
from pyqmail.incoming.decisions import DecisionLog
from pyqmail.incoming.letter import Letter
from pyqmail.incoming.security import without_claims
from pyqmail.intake.client import FACTS
from pyqmail.launch import is_launcher
from pyqmail.policy.transfer_peers import parse_peers
from pyqmail.protocol.certificate_names import matches
from pyqmail.protocol.netstring_reader import Event, Kind
from pyqmail.protocol.reply import Reply
from pyqmail.protocol.transfer import TransferReader
from pyqmail.stream.stream import Stream, TlsFailed
from pyqmail.stream.tls import TlsStream
from pyqmail.tcp.certificates import NoCertificate, ServerCertificates, TlsSettings

BAD_PROTOCOL, TROUBLE = 100, 111
AUTHORITIES = "xferca.pem"
PEERS = "xferpeers"


class _Unserved(Exception):
    """The client is sent away; the text says why."""


class TransferSession:
    """One client."""

    def __init__(self, home: str, environ: Mapping[bytes, bytes], log: DecisionLog) -> None:
        self._home = home
        self._control = Control(home)
        environ = without_claims(environ)
        # a filter has seen the message already, and would lose what is known of it
        self._environ = {name: value for name, value in environ.items() if name != b"QMAILQUEUE"}
        self._client = Client.from_environ(environ)
        self._log = log
        self._facts = b""
        self._letter: Letter | None = None
        self._unacceptable = False  # an address that no queue takes

    def run(self, stream: Stream) -> int:
        """Serve until the client ends (StreamEnded) or the protocol is broken; the exit code.

        Raises ControlUnreadable, OSError and TooManyRecipients too.
        """
        secured = self._secure(stream)
        if secured is None:
            return TROUBLE
        reader = TransferReader()
        try:
            while reader.fault is None:
                for event in reader.feed(secured.read()):
                    self._take(event, secured)
            secured.close()
            return BAD_PROTOCOL
        finally:
            if self._letter is not None:
                self._letter.abort()

    def _secure(self, stream: Stream) -> TlsStream | None:
        """Shake hands; None where this is no node of ours, of which the log has heard."""
        try:
            return self._shake_hands(stream)
        except _Unserved as error:
            self._log.say(b"dropped ip=%b reason=%b" % (safe(self._client.ip), safe(str(error).encode())))
            return None

    def _shake_hands(self, stream: Stream) -> TlsStream:
        program = self._home + "/bin/qmail-queue"
        if os.path.lexists(program) and not is_launcher(program):
            raise _Unserved("bin/qmail-queue is another program, and loses what comes with a message")
        authorities = self._control.read(AUTHORITIES)
        peers = parse_peers(self._control.lines(PEERS) or ())
        if not authorities or not peers:
            raise _Unserved("no control/xferca.pem or control/xferpeers")
        try:
            settings = TlsSettings(authorities=authorities.decode("ascii"))
            secured = stream.start_tls(ServerCertificates(self._home).context(settings, self._alert), server_side=True)
        except (NoCertificate, ValueError):
            raise _Unserved("control/servercert.pem or control/xferca.pem is of no use") from None
        except TlsFailed as failure:
            raise _Unserved(str(failure)) from None
        assert isinstance(secured, TlsStream)
        shown = secured.ssl_object.getpeercert()
        if not shown or secured.ssl_object.session_reused or not any(matches(dict(shown), peer.name) for peer in peers):
            secured.close()
            raise _Unserved("its certificate is for none of control/xferpeers")
        return secured

    def _alert(self, text: str) -> None:
        self._log.say(b"alert: " + text.encode("utf-8", "replace"))

    def _take(self, event: Event, stream: Stream) -> None:
        kind, data = event
        if kind is Kind.HEADER:
            self._facts = data or b""
            return
        if kind is Kind.BEGIN:
            self._letter = Letter(0)
            self._letter.open(self._home, {**self._environ, FACTS: self._facts}, self._client, b"QMTP")
            self._unacceptable = False
            return
        letter = self._letter
        assert letter is not None
        if kind is Kind.TEXT:
            letter.take(data or b"")
        elif kind is Kind.END:
            self._answer(letter, stream)
            self._letter = None
        elif data is None or b"\0" in data:
            self._unacceptable = True
        elif kind is Kind.SENDER:
            letter.sender = data
        else:
            letter.add(data)

    def _answer(self, letter: Letter, stream: Stream) -> None:
        """Queue it, and say the same of each recipient."""
        if self._unacceptable or not letter.recipients:
            letter.fail()
        answer = letter.close()
        kind, text = answer.letter_text()
        reply = Reply(250 if kind == b"K" else 451, text or b"ok qp %d" % answer.number)
        letter.abort()
        if reply.code == 250:
            self._log.accepted(self._client, letter, answer.number)
        else:
            self._log.refused(self._client, letter, letter.recipients, reply)
        stream.write(format_netstring(reply.letter) * max(1, len(letter.recipients)))
        stream.flush()
