"""A real name server (nsd), and a scripted IDENT server; root, unless at a port that anybody may have."""

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tests.waiting import wait_for

DEADLINE_S = 60.0
ENVIRON = dict(os.environ, PATH=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
CONF = """server:
  ip-address: {address}@{port}
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
HEAD = "$ORIGIN {name}.\n$TTL 60\n@ SOA ns hostmaster 1 60 60 60 60\n@ NS ns\n"


def own_network() -> str:
    """Three bytes of a loopback network that no other test run uses."""
    pid = os.getpid()
    return f"127.{100 + pid // 256 % 100}.{pid % 256}"


@contextlib.contextmanager
def nameserver(
    address: str, zones: Mapping[str, Sequence[str]], *, port: int = 53, within: Sequence[str] = ()
) -> Iterator[str]:
    """nsd on ``address`` with the lines of each zone; ``within`` begins a command that is to be run in its network."""
    base = Path(tempfile.mkdtemp(prefix="pyqmail-nsd-"))
    text = CONF.format(address=address, port=port, base=base)
    for number, (name, lines) in enumerate(zones.items()):
        (base / str(number)).write_text(HEAD.format(name=name) + "\n".join(lines) + "\n")
        text += ZONE.format(name=name, file=base / str(number))
    (base / "nsd.conf").write_text(text)
    question = ["dig", "+short", "+time=1", "+tries=1", f"-p{port}", f"@{address}", next(iter(zones)), "NS"]

    def answers() -> bool:
        assert server.poll() is None, (base / "log").read_text()
        return subprocess.run([*within, *question], capture_output=True, check=False).stdout.startswith(b"ns.")

    with (base / "log").open("wb") as log:
        command = [*within, "nsd", "-d", "-c", str(base / "nsd.conf")]
        server = subprocess.Popen(command, env=ENVIRON, stdout=log, stderr=log)
    try:
        wait_for(answers, "the name server", DEADLINE_S)
        yield address
    finally:
        server.terminate()
        server.wait(DEADLINE_S)
        shutil.rmtree(base)


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
