"""A kernel without unnamed files, for programs that know nothing of it: seccomp(2) filters that refuse one system call.

``open`` answers each open with O_TMPFILE as a filesystem does that has no such files (NFS, older ones over FUSE);
``link`` lets them be opened and refuses their first name, as where /proc is missing.
"""

import ctypes
import errno
import os
import platform
import struct
from collections.abc import Callable

_CALLS = {"x86_64": (257, 265), "aarch64": (56, 37), "riscv64": (56, 37)}  # openat and linkat
_AT_SYMLINK_FOLLOW = 0x400  # link(2) with a name for its source comes without
_LOAD, _EQUAL, _BITS, _RETURN = 0x20, 0x15, 0x45, 0x06  # BPF instructions
_ALLOW, _ERROR = 0x7FFF0000, 0x00050000
_PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS, _FILTER = 22, 38, 2


def refuse(way: str) -> Callable[[], None]:
    """What a child calls before it executes a program, so that this and all that it starts meet ``way``.

    Raises KeyError on a machine whose numbers are not known, and the call OSError.
    """
    opening, linking = _CALLS[platform.machine()]
    call, argument, bits, answer = {
        "open": (opening, 2, os.O_TMPFILE & ~os.O_DIRECTORY, errno.EOPNOTSUPP),
        "link": (linking, 4, _AT_SYMLINK_FOLLOW, errno.ENOENT),
    }[way]
    program = [
        (_LOAD, 0, 0, 0),  # the number of the call
        (_EQUAL, 0, 3, call),
        (_LOAD, 0, 0, 16 + 8 * argument),  # the low half of the argument
        (_BITS, 0, 1, bits),
        (_RETURN, 0, 0, _ERROR | answer),
        (_RETURN, 0, 0, _ALLOW),
    ]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in program))
    heading = struct.pack("HxxxxxxP", len(program), ctypes.addressof(code))
    kernel = ctypes.CDLL(None, use_errno=True)

    def install() -> None:
        if kernel.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or kernel.prctl(_PR_SET_SECCOMP, _FILTER, heading, 0, 0):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        assert code  # alive until here: the heading only points at it

    return install
