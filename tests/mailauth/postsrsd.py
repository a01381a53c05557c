"""Debian's postsrsd: version 1 answers as a Postfix tcp table, version 2 as a socketmap."""

import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.loopback import free_port
from tests.waiting import wait_for

DEADLINE_S = 30


class Postsrsd:
    """A running postsrsd of one domain."""

    def __init__(self, ports: tuple[int, int] | None, path: str) -> None:
        self._ports = ports
        self._path = path

    def forward(self, sender: bytes) -> bytes:
        """The address that it makes."""
        return self._ask(b"forward", sender)

    def reverse(self, address: bytes) -> bytes:
        """The address that one of its own stands for; empty where it refuses."""
        return self._ask(b"reverse", address)

    def _ask(self, which: bytes, address: bytes) -> bytes:
        if self._ports is None:
            with socket.socket(socket.AF_UNIX) as sock:
                sock.settimeout(DEADLINE_S)
                sock.connect(self._path)
                question = which + b" " + address
                sock.sendall(b"%d:%b," % (len(question), question))
                answer = sock.recv(4096).partition(b":")[2].removesuffix(b",")
            return answer.removeprefix(b"OK ") if answer.startswith(b"OK ") else b""
        with socket.create_connection(("127.0.0.1", self._ports[which == b"reverse"]), DEADLINE_S) as sock:
            sock.sendall(b"get " + address + b"\n")
            answer = sock.recv(4096).rstrip(b"\n")
        return answer.removeprefix(b"200 ") if answer.startswith(b"200 ") else b""


@contextmanager
def running(folder: Path, domain: str, secret: str) -> Iterator[Postsrsd]:
    """postsrsd for ``domain`` with its files in ``folder``."""
    secrets = folder / "postsrsd.secret"
    secrets.write_text(secret + "\n")
    secrets.chmod(0o400)
    old = b"-f<port>" in subprocess.run(["postsrsd", "-h"], capture_output=True, check=False).stdout
    if old:
        forward, reverse = free_port(), free_port()
        made = Postsrsd((forward, reverse), "")
        words = ["postsrsd", "-4", f"-s{secrets}", f"-d{domain}", f"-f{forward}", f"-r{reverse}"]
    else:
        made = Postsrsd(None, str(folder / "srs"))
        settings = folder / "postsrsd.conf"
        settings.write_text(
            f'domains = {{"{domain}"}}\nsrs-domain = "{domain}"\nsecrets-file = "{secrets}"\n'
            f'socketmap = "unix:{folder}/srs"\nunprivileged-user = ""\nchroot-dir = ""\n'
        )
        words = ["postsrsd", "-C", str(settings)]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def answers() -> bool:
        try:
            return bool(made.forward(b"ann@orig.test"))
        except OSError:
            return False

    try:
        wait_for(answers, "an answer of postsrsd", DEADLINE_S)
        yield made
    finally:
        process.terminate()
        process.wait(DEADLINE_S)
