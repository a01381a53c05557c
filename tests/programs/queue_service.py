"""A stand-in for qmail-queued, for one submission at a time: it reads both descriptors, if it gets any, and answers."""

import array
import os
import socket
import subprocess
from pathlib import Path

from pyqmail.protocol import queued


class QueueService:
    """Listens below ``home``; ``serve`` plays the service for one client."""

    def __init__(self, home: Path) -> None:
        (home / "run").mkdir(exist_ok=True)
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.listener.bind(str(home / "run" / "qmail-queued.sock"))
        self.listener.listen()
        self.listener.settimeout(60)
        self.message_bytes = 0
        self.envelope = b""

    def serve(self, process: "subprocess.Popen[bytes]", code: int = 0) -> int:
        """Take the submission of ``process``, answer ``code``, and return the exit code of ``process``."""
        with self.listener.accept()[0] as client:
            client.settimeout(60)
            data, ancillary, _flags, _address = client.recvmsg(queued.REQUEST_MAX, 256)
            descriptors = array.array("i")
            for level, kind, rights in ancillary:
                if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                    descriptors.frombytes(rights)
            request = queued.parse_request(data)
            assert request is not None
            if request[2] is not None:
                self.message_bytes, self.envelope = len(request[2][0]), request[2][1]
            else:
                self._read(*descriptors)
            client.send(queued.format_answer(code, 1))
        return process.wait(60)

    def _read(self, message: int, envelope: int) -> None:
        self.message_bytes = 0
        while chunk := os.read(message, 1 << 16):
            self.message_bytes += len(chunk)
        with open(envelope, "rb") as file:
            self.envelope = file.read()
        os.close(message)

    def close(self) -> None:
        """Stop listening."""
        self.listener.close()
