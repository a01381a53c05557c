"""Debian's fastforward and dot-forward in a root directory of their own.

They have those places compiled in and ignore QMAILQUEUE, so that they are given what they expect in a chroot.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

PROGRAMS = {
    "fastforward": "/usr/bin/fastforward",
    "setforward": "/usr/bin/setforward",
    "setmaillist": "/usr/bin/setmaillist",
    "printforward": "/usr/bin/printforward",
    "printmaillist": "/usr/bin/printmaillist",
    "newinclude": "/usr/bin/newinclude",
    "newaliases": "/usr/sbin/qmail-newaliases",
    "dot-forward": "/usr/bin/dot-forward",
    "sh": "/bin/sh",
    "cat": "/bin/cat",
    "env": "/usr/bin/env",
}
PRELINE = '#!/bin/sh\n{ printf "%s" "$UFLINE$RPLINE$DTLINE"; cat; } | "$@"\n'  # it belongs to qmail, not to these
QUEUE = "#!/bin/sh\ncat > /out/queued\nexec 3<&1\ncat <&3 > /out/envelope\nexit 0\n"
CONTROLS = {"me": "mx.example.org", "defaultdomain": "example.org", "plusdomain": "plus.org"}


class DebianBox:
    """The programs of Debian's packages; ``root`` is what they see as /."""

    def __init__(self, root: Path) -> None:
        if os.geteuid() != 0:
            pytest.skip("needs root: Debian's programs have their paths compiled in and run in a chroot")
        self.root = root
        for folder in ("bin", "etc", "dev", "out", "tmp", "var/lib/qmail/bin", "var/lib/qmail/control"):
            (root / folder).mkdir(parents=True)
        libraries: set[str] = set()
        for name, path in PROGRAMS.items():
            shutil.copy(path, root / "bin" / name)
            listed = subprocess.run(["ldd", path], capture_output=True, text=True, check=True).stdout
            libraries |= set(re.findall(r"(/\S+\.so[.0-9]*) ", listed))
        for library in libraries:
            (root / library[1:]).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(library, root / library[1:])
        for name, text in CONTROLS.items():
            (root / "var/lib/qmail/control" / name).write_text(text + "\n")
        (root / "bin" / "preline").write_text(PRELINE)
        (root / "bin" / "preline").chmod(0o755)
        self.queue(QUEUE)

    def queue(self, text: str) -> None:
        """Let ``text`` be the program that queues."""
        path = self.root / "var/lib/qmail/bin/qmail-queue"
        path.write_text(text)
        path.chmod(0o755)

    def run(self, argv: list[str], environ: Mapping[str, str], message: bytes) -> "subprocess.CompletedProcess[bytes]":
        """Run a program with ``message`` on its descriptor 0, a file."""
        path = self.root / "out" / "message"
        path.write_bytes(message)
        words = [f"{name}={value}" for name, value in environ.items()]
        with path.open("rb") as source:
            return subprocess.run(
                ["/usr/sbin/chroot", str(self.root), "/bin/env", "-i", "PATH=/bin", *words, *argv],
                stdin=source,
                capture_output=True,
                timeout=60,
                check=False,
            )
