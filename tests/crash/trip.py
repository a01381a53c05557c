"""One fault, at the n-th chance: an error, a short write, a kill, or a bug. Installed in a forked child.

The count lies in shared memory, so that it goes on through every fork of the program and the test can read it.
"""

import _socket
import fcntl
import mmap
import multiprocessing
import os
import select
import signal
import socket
import struct
import sys
import threading
from collections.abc import Callable
from typing import Any

CHANGES = ("open", "write", "pwrite", "fsync", "link", "unlink", "rename", "ftruncate", "splice")  # for kills
CALLS = (
    *CHANGES,
    *("read", "pread", "stat", "fstat", "lstat", "scandir", "listdir", "fork", "pipe", "pipe2", "chdir", "fchdir"),
    *("lseek", "dup2", "utime", "eventfd", "pidfd_open", "posix_spawn", "execve", "waitpid", "set_blocking", "kill"),
    "set_inheritable",
    "pwritev",
)
OTHERS = ((fcntl, "fcntl"), (fcntl, "flock"), (fcntl, "lockf"), (select, "select"), (select, "epoll"))
OF_SOCKETS = (
    *("connect", "bind", "_accept", "send", "sendall", "sendto", "sendmsg", "recv", "recvfrom", "recvmsg"),
    *("getsockopt", "setsockopt", "shutdown"),
)


class Bug(Exception):
    """A bug in the program."""


class Trip:
    """What happens at the ``number``-th call: ``error`` with a number, short, kill, killed (after it) or bug.

    With ``where`` only calls count in whose description (name and first two arguments) that occurs.
    """

    def __init__(
        self, number: int, action: str, error: int = 0, *, calls: tuple[str, ...] = CALLS, where: str = ""
    ) -> None:
        self.number = number
        self.action = action
        self.error = error
        self.calls = calls
        self.where = where
        self.over = False  # in this process nothing happens any more
        self._shared = mmap.mmap(-1, 256)
        self._seen: set[object] = set()
        self._lock = multiprocessing.get_context("fork").Lock()

    @property
    def count(self) -> int:
        """How many chances there were."""
        return int(struct.unpack_from("Q", self._shared, 0)[0])

    @property
    def fired(self) -> bool:
        """Whether it has happened."""
        return self.count >= self.number

    def __str__(self) -> str:
        where = bytes(self._shared[8:256]).rstrip(b"\0").decode(errors="replace")
        return f"{self.action} {os.strerror(self.error) if self.error else ''} at {self.number} ({where})"

    def _next(self, what: str) -> bool:
        if self.over or self.fired or self.where not in what:
            return False
        held = self._lock.acquire(timeout=1)  # two processes that counted at once would make it happen twice
        chance = self.count + 1
        struct.pack_into("Q", self._shared, 0, chance)
        if held:
            self._lock.release()
        if chance != self.number:
            return False
        self._shared[8:256] = what.encode()[:248].ljust(248, b"\0")
        return True

    def install(self) -> None:
        """Let it happen in this process."""
        if self.action == "bug":
            sys.setprofile(self._entered)
            threading.setprofile(self._entered)
            return
        for name in CHANGES if self.action.startswith("kill") else ("write",) if self.action == "short" else self.calls:
            setattr(os, name, self._wrapped(name, getattr(os, name)))
        if self.action == "error" and self.calls is CALLS:
            for module, name in OTHERS:
                setattr(module, name, self._wrapped(name, getattr(module, name)))
            self._wrap_sockets()

    def _wrap_sockets(self) -> None:
        """Both kinds of sockets: those of the module and those beneath it, which some programs use directly."""
        plain = _socket.socket
        methods = {name: self._wrapped(name, getattr(plain, name)) for name in OF_SOCKETS}
        create = self._wrapped("socket", plain.__init__)

        def begin(self: Any, *args: Any, **named: Any) -> None:
            given = named.get("fileno") if len(args) < 4 else args[3]
            (create if given is None else plain.__init__)(self, *args, **named)

        _socket.socket = type("socket", (plain,), {**methods, "__init__": begin})  # type: ignore[misc]
        for name, method in methods.items():
            setattr(socket.socket, name, method)
        socket.socketpair = self._wrapped("socketpair", socket.socketpair)

    def _entered(self, frame: Any, event: str, _argument: object) -> None:
        code = frame.f_code
        if event == "call" and "/pyqmail/" in code.co_filename and code not in self._seen:
            self._seen.add(code)
            if self._next(code.co_qualname):
                raise Bug(code.co_qualname)

    def _wrapped(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **named: Any) -> Any:
            if not self._next(f"{name} {args[:2]!r:.200}"):
                return call(*args, **named)
            if self.action == "error":
                raise OSError(self.error, os.strerror(self.error))
            if self.action == "short":
                return call(args[0], bytes(args[1])[: max(1, len(args[1]) // 2)])
            if self.action == "killed":
                call(*args, **named)
            self._kill()
            return None

        return wrapped

    def _kill(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)
