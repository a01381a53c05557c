"""A network and an /etc that only this run has: its DNS, its password, a client that is not the host.

The processor, the disk and the programs are the machine's own. Root.
"""

import contextlib
import ctypes
import functools
import os
import shutil
import subprocess

from tests.bench.peers.common import STATE, USER, BenchError

CLONE_NEWNS, CLONE_NEWNET = 0x00020000, 0x40000000
STRANGER = "198.51.100.7"  # a client: servers leave what comes from loopback unchecked
PASSWORD = b"a-password-for-the-bench"
HASH = b"$6$pyqmailbench"  # SHA-512 as crypt(5) has it, 5,000 rounds: yescrypt's 30 ms would hide everything else
PAM = "auth required pam_unix.so\naccount required pam_unix.so\n"  # as INSTALL has it


def crypted():
    """The hash of PASSWORD, which every server compares with."""
    library = ctypes.CDLL("libcrypt.so.1")
    library.crypt.restype = ctypes.c_char_p
    return library.crypt(PASSWORD, HASH).decode()


@functools.cache
def enter():
    """Go there, with all processes that begin from now on."""
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNS | CLONE_NEWNET):
        raise BenchError("no namespaces: " + os.strerror(ctypes.get_errno()))
    for words in ("mount --make-rprivate /", "ip link set lo up", f"ip addr add {STRANGER}/32 dev lo"):
        subprocess.run(words.split(), check=True)
    # All of /etc: a file of it that others replace meanwhile, as useradd(8) does, would lose what is mounted on it.
    etc = os.path.join(STATE, "etc")
    os.makedirs(STATE, exist_ok=True)
    shutil.rmtree(etc, ignore_errors=True)
    subprocess.run(["cp", "-a", "/etc", etc], check=True)
    with open(f"{etc}/shadow") as f:
        others = [line for line in f if line.split(":")[0] != USER]
    with open(f"{etc}/shadow", "w") as f:
        f.write("".join(others) + f"{USER}:{crypted()}:20000:0:99999:7:::\n")
    for service in ("pop3", "dovecot"):
        with open(f"{etc}/pam.d/{service}", "w") as f:
            f.write(PAM)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(f"{etc}/resolv.conf")  # a link, mostly
    with open(f"{etc}/resolv.conf", "w") as f:
        f.write("nameserver 127.0.0.1\n")
    subprocess.run(["mount", "--bind", etc, "/etc"], check=True)
