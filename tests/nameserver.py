"""A real name server (nsd) on an address of its own, and a scripted IDENT server; both need root for their ports."""

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

DEADLINE_S = 20.0
CONF = """server:
  ip-address: {address}@53
  username: ""
  zonesdir: "{base}"
  pidfile: "{base}/pid"
  xfrdfile: "{base}/xfrd"
  xfrdir: "{base}"
  zonelistfile: "{base}/zones"
  server-count: 1
  verbosity: 0
remote-control:
  control-enable: no
"""
ZONE = 'zone:\n  name: "{name}"\n  zonefile: "{file}"\n'
HEAD = "$ORIGIN {name}.\n$TTL 60\n@ SOA ns.test. hostmaster.test. 1 60 60 60 60\n@ NS ns.test.\n"


def own_network() -> str:
    """Three bytes of a loopback network that no other test run uses."""
    pid = os.getpid()
    return f"127.{100 + pid // 256 % 100}.{pid % 256}"


@contextlib.contextmanager
def nameserver(address: str, zones: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """nsd on ``address``, port 53, with the lines of each zone."""
    base = Path(tempfile.mkdtemp(prefix="pyqmail-nsd-"))
    text = CONF.format(address=address, base=base)
    for number, (name, lines) in enumerate(zones.items()):
        (base / str(number)).write_text(HEAD.format(name=name) + "\n".join(lines) + "\n")
        text += ZONE.format(name=name, file=base / str(number))
    (base / "nsd.conf").write_text(text)
    with (base / "log").open("wb") as log:
        server = subprocess.Popen(["nsd", "-d", "-c", str(base / "nsd.conf")], stdout=log, stderr=log)
    try:
        _wait_for(address, next(iter(zones)), server, base / "log")
        yield address
    finally:
        server.terminate()
        server.wait(DEADLINE_S)
        shutil.rmtree(base)


def _wait_for(address: str, zone: str, server: subprocess.Popen[bytes], log: Path) -> None:
    labels = b"".join(bytes([len(label)]) + label.encode() for label in zone.split("."))
    query = b"\1\2\0\0\0\1\0\0\0\0\0\0" + labels + b"\0\0\6\0\1"
    until = time.monotonic() + DEADLINE_S
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as line:
        line.connect((address, 53))
        line.settimeout(0.1)
        while time.monotonic() < until and server.poll() is None:
            try:
                line.send(query)
                if line.recv(512)[7] == 1:
                    return
            except OSError:
                time.sleep(0.02)
    raise AssertionError(f"nsd does not answer: {log.read_text()}")


class Ident:
    """Answers each question with ``answer`` (None: not at all), and keeps what it was asked."""

    def __init__(self, address: str, answer: bytes | None) -> None:
        self.asked: list[bytes] = []
        self.peers: list[str] = []
        self._answer = answer
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._listener = socket.create_server((address, 113), family=family)
        self._held: list[socket.socket] = []
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                line, peer = self._listener.accept()
                self.peers.append(peer[0])
                self.asked.append(line.recv(1000))
                if self._answer is None:
                    self._held.append(line)
                    continue
                line.sendall(self._answer)
                line.close()

    def close(self) -> None:
        """Stop serving."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for line in self._held:
            line.close()
        self._thread.join(DEADLINE_S)


@contextlib.contextmanager
def ident(address: str, answer: bytes | None) -> Iterator[Ident]:
    """An IDENT server on port 113 of ``address``."""
    server = Ident(address, answer)
    try:
        yield server
    finally:
        server.close()
