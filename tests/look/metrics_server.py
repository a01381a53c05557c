"""A qmail-metrics of a home, and its clients."""

import http.client
import os
import socket
import subprocess
import sys
from pathlib import Path
from types import TracebackType

import prometheus_client

from tests.loopback import free_port
from tests.waiting import wait_for

ROOT = Path(__file__).resolve().parents[2]
MODULES = Path(prometheus_client.__file__).parents[1]  # of the group look, which a checkout does not have
PROGRAM = (
    f"import sys; sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / '.deps')!r}, {str(MODULES)!r}]\n"
    "from pyqmail.launch import run\nrun('pyqmail.programs.qmail_metrics')\n"
)
PATIENCE_S = 60


class LocalConnection(http.client.HTTPConnection):
    """A connection to a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=PATIENCE_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(PATIENCE_S)
        self.sock.connect(str(self._path))


class Metrics:
    """It listens on a port of loopback, and on the Unix socket ``http`` in its home."""

    def __init__(self, home: Path, *words: str, more: str = "", looks_at_dns: bool = False) -> None:
        self.port = free_port()
        self.socket = home / "http"
        listen = f"127.0.0.1:{self.port}\n{self.socket}\n{more}"
        (home / "control" / "metricslisten").write_text(listen)
        environ = {"PATH": os.environ["PATH"], "QMAIL_HOME": str(home)}
        dns = () if looks_at_dns else ("--no-dns",)
        program = [sys.executable, "-ISXutf8", "-c", PROGRAM, *dns, *words]
        self._process = subprocess.Popen(program, env=environ, stderr=subprocess.PIPE, text=True)

    def __enter__(self) -> "Metrics":
        wait_for(lambda: self.listens() or self._process.poll() is not None, "qmail-metrics")
        assert self._process.poll() is None, self._process.stderr and self._process.stderr.read()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._process.kill()
        self._process.communicate()

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    def ended(self) -> tuple[int, str]:
        """Its exit code and what it complained of."""
        complaint = self._process.communicate(timeout=PATIENCE_S)[1]
        return self._process.returncode, complaint

    def listens(self) -> bool:
        """Whether somebody answers."""
        try:
            return self.get("/nothing")[0] == 404
        except OSError:
            return False

    def get(self, path: str, *, local: bool = False, **headers: str) -> tuple[int, str]:
        """The status and the body of a page."""
        connection = LocalConnection(self.socket) if local else http.client.HTTPConnection("127.0.0.1", self.port)
        try:
            connection.request("GET", path, headers=headers)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def samples(self) -> dict[str, float]:
        """All metrics, by name and labels."""
        lines = self.get("/metrics")[1].splitlines()
        found = (line.rpartition(" ") for line in lines if not line.startswith("#"))
        return {name: float(value) for name, _, value in found}
