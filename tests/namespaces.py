"""Two hosts on one machine: network namespaces that are joined by a veth pair, and a way to stand in one of them."""

import ctypes
import itertools
import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

CLONE_NEWNET = 0x40000000
_LIBC = ctypes.CDLL(None, use_errno=True)
_COUNT = itertools.count()


def ip(*words: str) -> None:
    """Run ip(8)."""
    subprocess.run(["ip", *words], check=True)


@contextmanager
def joined(*hosts: Sequence[str]) -> Iterator[tuple[str, str]]:
    """The names of two namespaces whose eth0 have the addresses in ``hosts``, each as ``address/prefix``."""
    number = next(_COUNT)
    names = (f"pq{os.getpid()}-{number}a", f"pq{os.getpid()}-{number}b")
    made = []
    try:
        for name in names:
            ip("netns", "add", name)
            made.append(name)
            ip("-n", name, "link", "set", "lo", "up")
        ip("-n", names[0], "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", names[1])
        for name, addresses in zip(names, hosts, strict=True):
            for address in addresses:
                nodad = ("nodad",) if ":" in address else ()
                ip("-n", name, "addr", "add", address, "dev", "eth0", *nodad)
            ip("-n", name, "link", "set", "eth0", "up")
        yield names
    finally:
        for name in made:
            ip("netns", "del", name)


def _enter(fd: int) -> None:
    if _LIBC.setns(fd, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


@contextmanager
def inside(name: str) -> Iterator[None]:
    """What this thread makes in the block, sockets and processes, is in the namespace ``name`` and stays there."""
    here = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    there = os.open(f"/run/netns/{name}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _enter(there)
        try:
            yield
        finally:
            _enter(here)
    finally:
        os.close(here)
        os.close(there)
