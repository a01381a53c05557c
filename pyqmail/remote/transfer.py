"""The sending side of a transfer of queued messages to another node (protocol/transfer, qmail-xferd(8)).

TLS both ways: the node shows a certificate for its name in control/xferpeers, which control/xferca.pem has signed, and
so do we, with control/servercert.pem.
"""

import os
import socket
from collections.abc import Iterator, Sequence

from pyqmail.failure import TemporaryFailure
from pyqmail.policy.transfer_peers import TransferPeer
from pyqmail.protocol.netstring_reader import Event
from pyqmail.protocol.transfer import AnswerReader, format_head, format_tail
from pyqmail.remote.security import Level, Security
from pyqmail.remote.tls_client import TlsClient
from pyqmail.stream.descriptors import DescriptorStream
from pyqmail.stream.stream import Stream, StreamEnded

CONNECT_S = 10.0
WAIT_S = 300.0  # for each read and write: the peer syncs a message that may be large
CHUNK = 65536


class PeerUnreachable(Exception):
    """The node cannot be talked to; the text says why."""


class TransferConnection:
    """A connection to ``peer``, TLS begun. Raises PeerUnreachable."""

    def __init__(self, home: str, peer: TransferPeer) -> None:
        directory = home + "/control/"
        security = Security(
            Level.VERIFY,
            names=(peer.name,),
            authorities=directory + "xferca.pem",
            certificate=directory + "servercert.pem",
        )
        self.name = peer.name.decode("ascii")
        try:
            self._sock = socket.create_connection((peer.address.decode("ascii"), peer.port), CONNECT_S)
        except OSError as error:
            raise PeerUnreachable(f"{self.name}: {error.strerror or error}") from None
        self._sock.settimeout(None)
        fd = self._sock.fileno()
        try:
            self._stream: Stream = TlsClient().shake_hands(DescriptorStream(fd, fd, WAIT_S), security, peer.name)
        except (StreamEnded, TemporaryFailure) as error:
            self._sock.close()
            words = error.text.decode() if isinstance(error, TemporaryFailure) else str(error)
            raise PeerUnreachable(f"{self.name}: {words or 'it hangs up'}") from None
        self._reader = AnswerReader()
        self._answers: list[Event] = []

    def send(self, facts: bytes, message: int, size: int, sender: bytes, recipients: Sequence[bytes]) -> list[bytes]:
        """Offer ``size`` bytes of the open ``message``; the answer for each recipient. Raises StreamEnded and OSError.

        After either of these nothing is known of the message, and nothing more can be sent.
        """
        self._stream.write(format_head(facts, size))
        for piece in _pieces(message, size):
            self._stream.write(piece)
        self._stream.write(format_tail(sender, recipients))
        while len(self._answers) < len(recipients):
            self._answers += self._reader.feed(self._stream.read())
            if self._reader.fault is not None:
                raise StreamEnded("its answer is none")
        answers, self._answers = self._answers[: len(recipients)], self._answers[len(recipients) :]
        return [text or b"" for _, text in answers]

    def close(self) -> None:
        """Hang up."""
        self._stream.close()
        self._sock.close()


def _pieces(message: int, size: int) -> Iterator[bytes]:
    """The first ``size`` bytes of an open file. Raises OSError where it is shorter."""
    at = 0
    while at < size:
        piece = os.pread(message, min(CHUNK, size - at), at)
        if not piece:
            raise OSError("the message is shorter than it was")
        at += len(piece)
        yield piece
