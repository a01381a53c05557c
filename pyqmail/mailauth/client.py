"""Asking qmail-verifyd (qmail-verifyd(8)). Light: qmail-smtpd imports it once a check is on."""

import _socket
import array
import os
import struct

from pyqmail.protocol.verification import MESSAGE, RECORD_MAX, SENDER, SOCKET, Pairs, format_pairs, parse_pairs
from pyqmail.system.peer import peer_credentials

ANSWER_S = 45  # to wait for: longer than qmail-verifyd looks things up


def ask_about_sender(home: str, pairs: Pairs) -> Pairs | None:
    """What is known of a client and its sender; None where nobody says. Never raises."""
    return _ask(home, [(b"about", SENDER), *pairs], ())


def ask_about_message(home: str, pairs: Pairs, fd: int) -> Pairs | None:
    """What is known of the text in ``fd``, which is handed on read-only; None where nobody says. Never raises."""
    try:
        copy = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return _ask(home, [(b"about", MESSAGE), *pairs], (copy,))
    finally:
        os.close(copy)


def _ask(home: str, pairs: Pairs, fds: "tuple[int, ...]") -> Pairs | None:
    sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC)
    try:
        limit = struct.pack("ll", ANSWER_S, 0)
        sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_RCVTIMEO, limit)
        sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_SNDTIMEO, limit)
        sock.connect(home + SOCKET)
        if peer_credentials(sock)[1] not in (0, os.geteuid()):  # whoever bound it; run/ is not root's directory
            return None
        rights = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, array.array("i", fds).tobytes())] if fds else []
        sock.sendmsg([format_pairs(pairs)], rights, _socket.MSG_NOSIGNAL)
        return parse_pairs(sock.recv(RECORD_MAX + 1))
    except (OSError, ValueError):
        return None
    finally:
        sock.close()
