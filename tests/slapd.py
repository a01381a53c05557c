"""Debian's slapd in a directory of its own, with the overlay that tells of changes."""

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.waiting import wait_for

SUFFIX, MANAGER, PASSWORD = "dc=example,dc=org", "cn=qmail,dc=example,dc=org", "seven words"
CONFIGURATION = """\
include /etc/ldap/schema/core.schema
include /etc/ldap/schema/cosine.schema
include /etc/ldap/schema/inetorgperson.schema
include /etc/ldap/schema/misc.schema
modulepath /usr/lib/ldap
moduleload back_mdb
moduleload syncprov
pidfile {base}/pid
database mdb
suffix {suffix}
rootdn {manager}
rootpw "{password}"
directory {base}/data
overlay syncprov
"""


class Slapd:
    """One server on a socket in ``base``, and at ``more``, a URI. It keeps its data from one start to the next."""

    def __init__(self, base: Path, ldif: Path, more: str = "") -> None:
        self.base = base
        self.uri = "ldapi://" + str(base / "socket").replace("/", "%2F")
        self._uris = f"{self.uri} {more}"
        self._process: subprocess.Popen[bytes] | None = None
        self._configuration = base / "slapd.conf"
        self._configuration.write_text(
            CONFIGURATION.format(base=base, suffix=SUFFIX, manager=MANAGER, password=PASSWORD)
        )
        (base / "data").mkdir()
        words = ["slapadd", "-q", "-f", str(self._configuration), "-l", str(ldif)]
        subprocess.run(words, check=True, capture_output=True, env=ENVIRON)

    def start(self) -> None:
        """Start it, and wait until it answers."""
        words = ["slapd", "-d", "0", "-f", str(self._configuration), "-h", self._uris]
        self._process = subprocess.Popen(words, env=ENVIRON, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_for(self._answers, "slapd")

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as sock:
            return sock.connect_ex(str(self.base / "socket")) == 0

    def stop(self) -> None:
        """End it."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
            self._process = None


ENVIRON = {"PATH": os.environ["PATH"] + ":/usr/sbin:/sbin"}


@contextmanager
def slapd(ldif: Path, more: str = "") -> Iterator[Slapd]:
    """A server that has the entries of ``ldif``, in a directory that is removed with it."""
    if shutil.which("slapd", path=ENVIRON["PATH"]) is None:
        pytest.skip("slapd is not installed")
    with tempfile.TemporaryDirectory(prefix="pyqmail-slapd-") as base:
        Path(base).chmod(0o755)
        server = Slapd(Path(base), ldif, more)
        server.start()
        try:
            yield server
        finally:
            server.stop()
