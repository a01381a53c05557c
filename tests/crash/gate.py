"""Inside a program under test: after each file operation it waits until the test says go on.

A test puts launchers that call ``install`` into the place of a tree's own. One connection to an abstract socket for
each operation, so that neither a fork nor a program that closes all its descriptors gets in the way.
"""

import os
import socket
from collections.abc import Callable
from typing import Any

OPERATIONS = ("fsync", "link", "unlink", "rename", "pwrite", "ftruncate")

LAUNCHER = """#!/usr/bin/python3 -ISXutf8
import os, sys
try:
    sys.path[:0] = [{home!r}, {home!r} + "/.deps", {root!r}]
    from tests.crash.gate import install
    install({gate!r}, syncs={syncs})
    from pyqmail.launch import run
    run("pyqmail.programs.{module}", 111)
finally:
    os._exit(111)
"""


def tell(gate: str, words: str) -> None:
    """Say ``words`` to the test, and wait for its answer."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.connect("\0" + gate)
        sock.send(words.encode())
        sock.recv(1)


def install(gate: str, *, syncs: bool) -> None:
    """Wait after each operation from now on; without ``syncs`` no sync does anything."""
    if not syncs:
        os.fsync = lambda fd: None

    def gated(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def wait(*args: Any, **named: Any) -> Any:
            answer = call(*args, **named)
            tell(gate, f"operation {name}")
            return answer

        return wait

    for name in OPERATIONS:
        setattr(os, name, gated(name, getattr(os, name)))
