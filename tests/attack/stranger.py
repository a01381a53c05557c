"""An ordinary user who means harm: a process of his own, odd descriptors, and a file system that never answers."""

import array
import ctypes
import mmap
import os
import pty
import select
import signal
import socket
import struct
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pyqmail.protocol import queued
from tests.programs.lingering import lingering
from tests.spool.queue_tree import ORDINARY_UID, act_as

Make = Callable[[], int]
LIBC = ctypes.CDLL(None, use_errno=True)
CLONE_NEWUSER, CLONE_NEWNS = 0x10000000, 0x20000
PR_SET_PDEATHSIG, PR_SET_DUMPABLE = 1, 4
# Numbers that every architecture has in common.
IO_URING_SETUP, LANDLOCK_CREATE_RULESET, MEMFD_SECRET = 425, 444, 447
FUSE_OPEN, FUSE_OPENDIR, FUSE_LOOKUP, FUSE_GETATTR, FUSE_READ, FUSE_WRITE, FUSE_FLUSH, FUSE_INIT = (
    14,
    27,
    1,
    3,
    15,
    16,
    25,
    26,
)
FILE_BYTES = 1 << 20
MAP_FIXED = 0x10
HELD_AFTER_S = 0.5  # a thread that still waits by then waits for ever


class CannotAttack(Exception):
    """This machine does not let an ordinary user do that."""


@contextmanager
def stranger(deed: Callable[[], None], uid: int = ORDINARY_UID) -> Iterator[int]:
    """The pid of a process of ``uid``, a group of its own, that has done ``deed``; it lives until the block ends."""
    done, told = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setsid()
            act_as(uid)()
            LIBC.prctl(PR_SET_DUMPABLE, 1)
            try:
                deed()
            except CannotAttack:
                os.write(told, b"0")
            else:
                os.write(told, b"1")
            signal.pause()
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    os.close(told)
    try:
        word = os.read(done, 1)
        if word == b"0":
            raise CannotAttack
        assert word == b"1", "the stranger failed"
        yield pid
    finally:
        os.killpg(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(done)


def hand(sock: socket.socket, fds: list[int], record: bytes = queued.format_request(serial=True)) -> None:
    """Send ``record`` with ``fds``."""
    ids = queued.format_credentials(os.getpid(), os.getuid(), os.getgid())
    rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds).tobytes())
    sock.sendmsg([record], [rights, (socket.SOL_SOCKET, socket.SCM_CREDENTIALS, ids)])


def full_pipe(data: bytes = b"Subject: x\n\nx\n") -> int:
    """A complete message."""
    reader, writer = os.pipe()
    os.write(writer, data)
    os.close(writer)
    return reader


def endless_pipe() -> int:
    """A pipe that nobody ends while this process lives."""
    return os.pipe()[0]


def of_file(path: str, flags: int = os.O_RDONLY) -> Make:
    """Opens ``path``."""
    return lambda: os.open(path, flags)


def of_socket(*words: int) -> Make:
    """Makes a socket."""
    return lambda: socket.socket(*words).detach()


def of_call(number: int, *words: int) -> Make:
    """Makes what a system call returns. Raises OSError."""

    def make() -> int:
        block = ctypes.create_string_buffer(256)
        return checked(LIBC.syscall(number, *[ctypes.byref(block) if word < 0 else word for word in words]))

    return make


def checked(result: int) -> int:
    """``result``, an OSError when it is negative."""
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def _sparse() -> int:
    fd = os.open("/tmp", os.O_TMPFILE | os.O_RDWR, 0o600)
    os.truncate(fd, 1 << 42)
    return fd


def _connected(family: int) -> int:
    pair = socket.socketpair(family)
    return pair[0].detach()


KINDS: dict[str, Make] = {
    "a directory": of_file("/tmp"),
    "a path": of_file("/etc/passwd", os.O_PATH),
    "a file for writing": of_file("/dev/null", os.O_WRONLY),
    "/dev/null": of_file("/dev/null"),
    "zeros without end": of_file("/dev/zero"),
    "a file of /proc": of_file("/proc/self/mounts"),
    "a name space": of_file("/proc/self/ns/net"),
    "a terminal": lambda: pty.openpty()[1],
    "the other end of a terminal": lambda: pty.openpty()[0],
    "a listening socket": lambda: socket.create_server(("127.0.0.1", 0)).detach(),
    "a lingering connection": lingering,
    "a local pair": lambda: _connected(socket.AF_UNIX),
    "the wrong end of a pipe": lambda: os.pipe()[1],
    "a pipe that never ends": endless_pipe,
    "an event counter": lambda: os.eventfd(0),
    "a process": lambda: os.pidfd_open(os.getpid()),
    "a poll set": lambda: os.dup(select.epoll().fileno()),
    "memory": lambda: os.memfd_create("x"),
    "a timer": lambda: checked(LIBC.timerfd_create(1, 0)),
    "signals": lambda: checked(LIBC.signalfd(-1, ctypes.create_string_buffer(128), 0)),
    "a watch of files": lambda: checked(LIBC.inotify_init1(0)),
    "a ring": of_call(IO_URING_SETUP, 4, -1),
    "a rule set": of_call(LANDLOCK_CREATE_RULESET, -1, 8, 0),
    "secret memory": of_call(MEMFD_SECRET, 0),
    "a huge sparse file": _sparse,
}


def every_socket() -> dict[str, Make]:
    """A socket of each family and type that socket(2) gives to this process."""
    found: dict[str, Make] = {}
    for family in range(1, 64):
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW, socket.SOCK_SEQPACKET):
            try:
                socket.socket(family, kind).close()
            except OSError:
                continue
            found[f"family {family}, type {kind}"] = of_socket(family, kind)
    return found


# a file system that never answers


def silent_file(place: Path, device: Path, silent: tuple[int, ...] = (FUSE_READ, FUSE_FLUSH)) -> int:
    """A file below ``place`` whose reads and closes never end, made as any user may. Raises CannotAttack.

    ``silent``: the requests that its server leaves without an answer.
    """
    uid, gid = os.getuid(), os.getgid()
    try:
        checked(LIBC.unshare(CLONE_NEWUSER | CLONE_NEWNS))
        for name, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
            Path(f"/proc/self/{name}").write_text(text)
        fd = os.open(device, os.O_RDWR)
        options = f"fd={fd},rootmode=40000,user_id=0,group_id=0".encode()
        checked(LIBC.mount(b"silent", os.fsencode(place), b"fuse", 0, options))
    except OSError as error:
        raise CannotAttack from error
    if os.fork() == 0:
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        _serve(fd, silent)
    os.close(fd)
    return os.open(place / "file", os.O_RDWR if FUSE_WRITE in silent else os.O_RDONLY)


def hold_memory(place: Path, device: Path) -> None:
    """Let a thread hold the lock of this process's memory for ever: a changed page goes, and nobody stores it."""
    page = mmap.PAGESIZE
    fd = silent_file(place, device, (FUSE_WRITE,))
    LIBC.mmap.restype = ctypes.c_void_p
    LIBC.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    changeable = mmap.PROT_READ | mmap.PROT_WRITE
    address = LIBC.mmap(None, page, changeable, mmap.MAP_SHARED, fd, 0)
    ctypes.memset(address, 1, page)
    instead = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_FIXED
    thread = threading.Thread(target=LIBC.mmap, args=(address, page, changeable, instead, -1, 0), daemon=True)
    thread.start()
    thread.join(HELD_AFTER_S)
    if not thread.is_alive():
        raise CannotAttack  # this kernel stores it without the lock


def _attributes(node: int) -> bytes:
    size, mode = (0, 0o40777) if node == 1 else (FILE_BYTES, 0o100666)
    return struct.pack("<6Q10I", node, size, 8, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)


def _serve(fd: int, silent: tuple[int, ...]) -> None:
    """Answer the kernel, but for what is ``silent``."""
    while True:
        try:
            message = os.read(fd, 1 << 17)
            _, operation, number, node = struct.unpack_from("<IIQQ", message)
            if operation not in silent:
                answer = _answer(operation, node)
                os.write(fd, struct.pack("<IiQ", 16 + len(answer), 0, number) + answer)
        except OSError:
            os._exit(0)


def _answer(operation: int, node: int) -> bytes:
    if operation == FUSE_INIT:
        return struct.pack("<4I2H2I2H8I", 7, 31, 65536, 0, 16, 12, 65536, 1, 0, 0, *[0] * 8)
    if operation == FUSE_LOOKUP:
        return struct.pack("<4Q2I", 2, 1, 0, 0, 0, 0) + _attributes(2)
    if operation == FUSE_GETATTR:
        return struct.pack("<Q2I", 0, 0, 0) + _attributes(node)
    if operation in (FUSE_OPEN, FUSE_OPENDIR):
        return struct.pack("<Q2I", node, 0, 0)
    return bytes(mmap.PAGESIZE) if operation == FUSE_READ else b""
