"""A stand-in for qmail-queued, for one submission at a time: it takes both descriptors, reads them and answers."""

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
            _data, ancillary, _flags, _address = client.recvmsg(64, 256)
            descriptors = array.array("i")
            for level, kind, data in ancillary:
                if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                    descriptors.frombytes(data)
            message, envelope = descriptors
            self.message_bytes = 0
            while chunk := os.read(message, 1 << 16):
                self.message_bytes += len(chunk)
            with open(envelope, "rb") as file:
                self.envelope = file.read()
            os.close(message)
            client.send(queued.format_answer(code, 1))
        return process.wait(60)

    def close(self) -> None:
        """Stop listening."""
        self.listener.close()
