"""The two sockets of qmail-queued, the lock of the one that serves them, and the directory that they are in.

run/qmail-queued.sock is everybody's. run/qmail-queued.own is for our own warm programs, and only their users can
connect to it: so the parent knows whom it deals with before anything has been received. Where access control lists do
not work, others can connect to it too, and are served as they are at the other one.
"""

import fcntl
import os
import socket
import struct
from collections.abc import Collection, Mapping

from pyqmail.policy.accounts import Accounts
from pyqmail.spool.layout import Layout
from pyqmail.system import files
from pyqmail.system.process import become

BACKLOG = 1024
LISTEN_FDS_START = 3  # sd_listen_fds(3)
ACL_ATTRIBUTE = "system.posix_acl_access"  # acl(5), in the form that the kernel takes
_ACL_VERSION = struct.pack("<I", 2)
_ENTRY = struct.Struct("<HHI")  # tag, permissions, id
_OWNER, _USER, _GROUP, _MASK, _OTHER = 0x01, 0x02, 0x04, 0x10, 0x20
_NOBODY = 0xFFFFFFFF
_READ_WRITE = 6


def inherited_socket(environ: Mapping[bytes, bytes]) -> socket.socket | None:
    """The listening socket that a supervisor passed (LISTEN_FDS)."""
    if environ.get(b"LISTEN_FDS") != b"1" or environ.get(b"LISTEN_PID", b"%d" % os.getpid()) != b"%d" % os.getpid():
        return None
    return socket.socket(fileno=LISTEN_FDS_START)


def lock_service(layout: Layout) -> int | None:
    """The held lock of the one running service; None when another has it. Raises OSError."""
    fd = os.open(layout.run_lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    return fd


def bind(path: str) -> socket.socket:
    """A fresh socket under ``path``, whoever's stale one it replaces; only the lock's holder calls this."""
    files.unlink_if_present(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(path)
    return listener


def open_public(layout: Layout) -> socket.socket:
    """Everybody's socket. Raises OSError."""
    listener = bind(layout.run_socket)
    os.chmod(layout.run_socket, 0o666)
    listener.listen(BACKLOG)
    return listener


def open_own(layout: Layout, uids: Collection[int]) -> tuple[socket.socket, bool]:
    """The socket of our own warm programs, which run as ``uids``, and whether others are kept from it. Raises OSError.

    Root and the owner are not; they can do worse than to hold up what serves them.
    """
    closed = True
    listener = bind(layout.run_own_socket)
    try:
        os.chmod(layout.run_own_socket, 0o600)
        os.setxattr(layout.run_own_socket, ACL_ATTRIBUTE, format_acl(set(uids) - {os.geteuid()}))
    except OSError:
        os.chmod(layout.run_own_socket, 0o666)  # what the kernel says of each client decides in any case
        closed = False
    listener.listen(BACKLOG)
    return listener, closed


def format_acl(uids: Collection[int]) -> bytes:
    """An access control list by which the owner and ``uids`` may read and write, nobody else."""
    entries = [(_OWNER, _READ_WRITE, _NOBODY)]
    entries += [(_USER, _READ_WRITE, uid) for uid in sorted(uids)]
    entries += [(_GROUP, 0, _NOBODY), (_MASK, _READ_WRITE, _NOBODY), (_OTHER, 0, _NOBODY)]
    return _ACL_VERSION + b"".join([_ENTRY.pack(*entry) for entry in entries])


def prepare_run(layout: Layout, accounts: Accounts) -> None:
    """Create run/ if need be, and take the queue's user if started by root. Raises OSError."""
    folder = os.path.dirname(layout.run_socket)
    root = os.geteuid() == 0
    if not os.path.isdir(folder):
        os.mkdir(folder, 0o755)
    if root:
        os.chown(folder, accounts.uid_queue, accounts.gid_qmail)
        become(accounts.uid_queue, accounts.gid_qmail, [accounts.gid_qmail])
    if os.stat(folder).st_uid == os.geteuid():
        os.chmod(folder, 0o755)
