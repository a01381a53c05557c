"""Asking qmail-authd who somebody is (qmail-authd(8))."""

import _socket
import os
import struct

from pyqmail.login.answer import Answer
from pyqmail.protocol.logins import ANSWER_MAX, SOCKET, format_question
from pyqmail.protocol.sasl import Credentials
from pyqmail.system.peer import peer_credentials

ANSWER_S = 150  # to wait for: the longest back-off, and the longest check
_LIMIT = struct.pack("ll", ANSWER_S, 0)  # a struct timeval


def ask(home: str, credentials: Credentials, ip: bytes) -> tuple[Answer, bytes]:
    """The answer of the service of ``home``, and the name that the user is known by. Never raises.

    Only what root or we ourselves have bound is told a password: run/ is not root's directory.
    """
    sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC)
    try:
        sock.connect(home + SOCKET)
        uid = peer_credentials(sock)[1]
        if uid != 0 and uid != os.geteuid():
            return Answer.LATER, b""
        sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_RCVTIMEO, _LIMIT)
        # the first record of a connection, for which there is room
        sock.send(format_question(credentials, ip), _socket.MSG_NOSIGNAL | _socket.MSG_DONTWAIT)
        record = sock.recv(ANSWER_MAX)
        return Answer(record[:1]), record[1:]
    except (OSError, ValueError):
        return Answer.LATER, b""
    finally:
        sock.close()
